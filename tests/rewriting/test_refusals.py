"""Right sides that cannot be built for a match: it is refused, and nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.export import export

from rewrite_engine import engine, loads
from rewrite_engine.graph_text import graph_text

aten = torch.ops.aten
Body = Callable[[fx.Graph, fx.Node, fx.Node], Any]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 5, bias=False)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(x * self.scale))


def exported() -> torch.export.ExportedProgram:
    return export(Model(), (torch.ones(2, 4),))


def traced() -> fx.GraphModule:
    return fx.symbolic_trace(Model())


class Special(nn.Parameter):
    pass


def special() -> fx.GraphModule:
    gm = traced()
    gm.linear.weight = Special(torch.ones(5, 4))
    return gm


def graph_of(body: Body) -> fx.GraphModule:
    graph, root = fx.Graph(), nn.Module()
    root.s, root.t = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    graph.output(body(graph, graph.placeholder("a"), graph.placeholder("b")))
    return fx.GraphModule(root, graph)


def early_reader(graph: fx.Graph, a: fx.Node, b: fx.Node) -> tuple[fx.Node, ...]:
    first = graph.call_function(aten.relu.default, (a,))
    read = graph.call_function(aten.sin.default, (first,))
    late = graph.call_function(aten.cos.default, (b,))
    second = graph.call_function(aten.mul.Tensor, (a, late))
    return first, read, second


def early_reader_of_a_root(graph: fx.Graph, a: fx.Node, b: fx.Node) -> Any:
    first = graph.call_function(aten.relu.default, (a,))
    read = graph.call_function(aten.sin.default, (first,))
    return read, graph.call_function(aten.neg.default, (a,))


def sum_of_a_sine(graph: fx.Graph, a: fx.Node, b: fx.Node) -> fx.Node:
    value = graph.call_function(aten.sin.default, (a,))
    return graph.call_function(aten.add.Tensor, (value, b))


def scaled_and_shifted(graph: fx.Graph, a: fx.Node, b: fx.Node) -> fx.Node:
    value = graph.call_function(aten.cos.default, (a,))
    value = graph.call_function(aten.mul.Tensor, (value, graph.get_attr("s")))
    value = graph.call_function(aten.add.Tensor, (value, graph.get_attr("t")))
    return graph.call_function(aten.neg.default, (value,))


def same_operands(graph: fx.Graph, a: fx.Node, b: fx.Node) -> fx.Node:
    value = graph.call_function(aten.relu.default, (a,))
    return graph.call_function(aten.sub.Tensor, (value, value))


def dropped_out(graph: fx.Graph, a: fx.Node, b: fx.Node) -> tuple[fx.Node, ...]:
    value = graph.call_function(aten.dropout.default, (a, 0.5, True))
    return value, graph.call_function(aten.neg.default, (value,))


LINEAR = "y = linear(x, w, b?) =>"
CASES = [
    (traced, "z = linear(x, y, b?)  y = neg?(w) => y' = neg(w)  keep z", "no place"),
    (exported, f"{LINEAR} param p = reshape(w, along(-1, 9, 1))", "out of range"),
    (exported, f"{LINEAR} param p = aten.repeat(w, [30000, 300])", "1373 MiB"),
    (exported, f"{LINEAR} param p = torch.sort(w)", "must be one tensor"),
    (exported, "y = mul(x, w) => x <- w  y' = neg(x)", "no state of the model"),
    (traced, "y = mul(x, w) => x <- w  y' = neg(x)", "no state of the model"),
    (special, f"{LINEAR} w <- w * 2  y' = linear(x, w)", "a Special, which is not"),
]


@pytest.mark.parametrize(("model", "rule", "reason"), CASES)
def test_constants_that_cannot_be_made(
    model: Callable[[], Any], rule: str, reason: str
) -> None:
    program = model()
    before = graph_text(program)
    uses = "  y' = linear(x, p)" if "param p" in rule else ""
    report = engine.apply(program, loads(f"rule r {{ {rule}{uses} }}")).report
    assert reason in str(report)
    assert graph_text(program) == before


@pytest.mark.parametrize(
    ("body", "rule", "reason"),
    [
        (
            early_reader,
            "y = relu(x)  z = mul(x, w) => y' = neg(x)  z' = add(x, w)",
            "is read by 'sin_default' before the input 'cos_default' exists",
        ),
        (
            same_operands,
            "y = relu(x)  z = sub(y, w) => y' = sin(x)  z' = mul(y', w)",
            "the right side reads 'relu_default', which it replaces",
        ),
        (
            same_operands,
            "y = relu(x)  z = sub(y, w) => y' = sin(x)  z' = w",
            "the right side reads 'relu_default', which it replaces",
        ),
        (
            early_reader_of_a_root,
            "y = relu(x)  z = neg(x) => y' = z  keep z",
            "'relu_default' is read by 'sin_default' before 'neg_default' is there",
        ),
        (
            sum_of_a_sine,
            "z = add(sin(x) | N@cos(x), w) => N' = sin(x)  keep z",
            "'N' is absent and cannot be replaced",
        ),
        (
            scaled_and_shifted,
            "z = neg(step^+(cos(x), s, t)) => s <- t  keep z",
            "'s' would become what is no tensor",  # there is no `t` in its link
        ),
        (
            dropped_out,
            "y = N@aten.dropout(x, ..)  z = neg(y) => z' = N(x)  keep y",
            "would happen twice",
        ),
    ],
)
def test_results_that_would_not_be_there_in_time(
    body: Body, rule: str, reason: str
) -> None:
    gm = graph_of(body)
    before = graph_text(gm)
    step = "pattern step(v, s, t) = mul(v, s) | add(v, t)"
    report = engine.apply(gm, loads(f"{step} rule r {{ {rule} }}")).report
    assert reason in str(report)
    assert graph_text(gm) == before


@pytest.mark.parametrize("absent", ["n = relu?(x)", "N@relu?(x)", "n = relu^*(x)"])
def test_the_operand_of_a_call_that_is_not_there_is_not_replaced(absent: str) -> None:
    rules = loads(
        f"rule r once {{ {absent}  z = add(n, w) => n' = neg(w)  keep z }}"
        if "N@" not in absent
        else "rule r once { z = add(N@relu?(x), w) => N' = neg(w)  keep z }"
    )

    def without(graph: fx.Graph, a: fx.Node, b: fx.Node) -> tuple[fx.Node, ...]:
        return (
            graph.call_function(aten.add.Tensor, (a, b)),
            graph.call_function(aten.exp.default, (a,)),
        )

    gm = graph_of(without)
    before = graph_text(gm)
    report = engine.apply(gm, rules).report
    name = "N" if "N@" in absent else "n"
    assert f"'{name}' is not there, and its operand 'a' stays" in str(report)
    assert graph_text(gm) == before
