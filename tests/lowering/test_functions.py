"""Functions of guards that look at more than types."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from rewrite_engine import engine, loads

RULES = loads("rule r once { y = mul(x, s) where positive(s) => y' = neg(x) }")


@pytest.mark.parametrize(
    ("values", "fires"),
    [
        ([1.0, 2.0], True),
        ([1.0, 0.0], False),
        ([1.0, -1.0], False),
        ([float("nan")], False),
    ],
)
def test_positive_reads_the_elements_of_a_constant(values, fires):
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(torch.mul, (x, graph.get_attr("s"))))
    root = torch.nn.Module()
    root.register_buffer("s", torch.tensor(values))
    assert engine.apply(fx.GraphModule(root, graph), RULES).modified is fires


@pytest.mark.parametrize(
    ("sizes", "strides", "holds"),
    [((2, 3), (3, 1), True), ((2, 3), (1, 2), False), ((2, 1), (1, 7), True)],
)
def test_contiguous_is_row_major(sizes, strides, holds):
    rules = loads("rule r once { y = mul(x, s) where is_contiguous(s) => y' = neg(x) }")
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(torch.mul, (x, graph.get_attr("s"))))
    root = torch.nn.Module()
    root.register_buffer("s", torch.empty(7).as_strided(sizes, strides))
    assert engine.apply(fx.GraphModule(root, graph), rules).modified is holds


def test_positive_knows_nothing_of_values():
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    graph.output(graph.call_function(torch.mul, (x, y)))
    assert not engine.apply(fx.GraphModule({}, graph), RULES).modified
