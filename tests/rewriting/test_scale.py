"""Large and wide graphs: no recursion over them, and no work that grows by squares."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from rewrite_engine import engine, graph_facts, loads

aten = torch.ops.aten
TWICE = loads("rule twice exact { z = relu(relu(x)) => z' = relu(x) }")


def test_a_chain_of_20000_nodes() -> None:
    graph = fx.Graph()
    value = graph.placeholder("x")
    for i in range(20_000):
        target = aten.relu.default if i % 4 < 2 else aten.neg.default
        value = graph.call_function(target, (value,))
    graph.output(value)
    gm = fx.GraphModule(nn.Module(), graph)
    assert engine.apply(gm, TWICE).report.matches == 5_000
    assert len(gm.graph.nodes) == 15_002


def test_readers_of_a_wide_value_are_asked_once_a_match(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    width, asked = 3_000, []
    reads_only_shape = graph_facts._reads_only_shape

    def counted(user: fx.Node) -> bool:
        asked.append(user)
        return reads_only_shape(user)

    monkeypatch.setattr(graph_facts, "_reads_only_shape", counted)
    graph = fx.Graph()
    first = graph.call_function(aten.relu.default, (graph.placeholder("x"),))
    readers = [graph.call_function(aten.relu.default, (first,)) for _ in range(width)]
    graph.output(tuple(readers))
    result = engine.apply(fx.GraphModule(nn.Module(), graph), TWICE)
    assert len(result.report.refusals) == width
    assert width <= len(asked) < 10 * width


def test_a_diamond_of_2_to_the_40_paths() -> None:
    graph = fx.Graph()
    value = graph.placeholder("x")
    for _ in range(40):
        twins = [graph.call_function(aten.neg.default, (value,)) for _ in range(2)]
        value = graph.call_function(aten.add.Tensor, tuple(twins))
    graph.output(value)
    rules = loads("rule r { z = add(neg(x), neg(x)) => z' = neg(add(x, x)) }")
    found = engine.find(fx.GraphModule(nn.Module(), graph), rules)
    assert len(found) == 40


def test_a_pattern_of_200_calls() -> None:
    steps = "\n".join(f"y{i} = relu(y{i - 1})" for i in range(1, 201))
    rules = loads(f"rule deep exact {{ {steps} => y200' = relu(y0) }}")
    graph = fx.Graph()
    value = graph.placeholder("y")
    for _ in range(250):
        value = graph.call_function(aten.relu.default, (value,))
    graph.output(value)
    gm = fx.GraphModule(nn.Module(), graph)
    assert engine.apply(gm, rules).report.matches >= 1
    x = torch.randn(3)
    assert torch.equal(gm(x), x.relu())
