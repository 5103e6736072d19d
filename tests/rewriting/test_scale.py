"""Large and wide graphs: no recursion over them, and no work that grows by squares."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

from rewrite_engine import edit, engine, graph_facts, loads
from rewrite_engine.errors import RewriteError
from rewrite_engine.rewriting import safety
from rewrite_engine.rewriting.driver import Limits
from tests.graphs import chain

pytestmark = pytest.mark.figure("R13")

aten = torch.ops.aten
TWICE = loads("rule twice exact { z = relu(relu(x)) => z' = relu(x) }")


def relus_and_negs(length: int) -> fx.GraphModule:
    relu, neg = aten.relu.default, aten.neg.default
    return chain(*(relu if i % 4 < 2 else neg for i in range(length)))


def fan_out(width: int) -> fx.GraphModule:
    """Readers of one value; every 40th is followed by another call."""
    graph = fx.Graph()
    first = graph.call_function(aten.neg.default, (graph.placeholder("x"),))
    readers = [graph.call_function(aten.relu.default, (first,)) for _ in range(width)]
    ends = [graph.call_function(aten.relu.default, (r,)) for r in readers[::40]]
    graph.output((*readers[1::40], *ends))
    return fx.GraphModule(nn.Module(), graph)


def test_a_chain_of_20000_nodes() -> None:
    gm = relus_and_negs(20_000)
    assert engine.apply(gm, TWICE).report.matches == 5_000
    assert len(gm.graph.nodes) == 15_002


def test_a_value_that_20000_calls_read() -> None:
    gm = fan_out(20_000)
    assert engine.apply(gm, TWICE).report.matches == 500
    assert len(gm.graph.nodes) == 3 + 20_000


def seconds(gm: fx.GraphModule) -> float:
    start = time.process_time()
    engine.apply(gm, TWICE)
    return time.process_time() - start


@pytest.mark.long
def test_time_grows_with_the_number_of_nodes(measured: Callable[..., None]) -> None:
    times = [min(seconds(relus_and_negs(n)) for _ in range(3)) for n in (2_000, 20_000)]
    measured("R13", most_times_slower_with_10_times_the_nodes=times[1] / times[0])
    assert times[1] < 12 * times[0]


def test_4_anchors_with_100_candidates_each() -> None:
    """Later anchors are found among the readers of shared values, not everywhere."""
    names = ("neg", "sigmoid", "tanh", "abs")
    lines = [f"a{i} = {name}(x)" for i, name in enumerate(names)]
    made = [f"a{i}' = {name}(y)" for i, name in enumerate(names)]
    rules = loads(
        f"rule four once exact {{ y = relu(x) {' '.join(lines)}"
        f" => y' = relu(x) {' '.join(made).replace('(y)', '(x)')} }}"
    )
    graph = fx.Graph()
    value, ends = graph.placeholder("x"), []
    for _ in range(100):
        value = graph.call_function(aten.mul.Tensor, (value, 2.0))
        for target in (aten.neg, aten.sigmoid, aten.tanh, aten.abs, aten.relu):
            ends.append(graph.call_function(target.default, (value,)))
    graph.output(tuple(ends))
    gm = fx.GraphModule(nn.Module(), graph)
    assert len(engine.find(gm, rules)) == 100
    assert engine.apply(gm, rules).report.matches == 100


def test_readers_of_a_wide_value_are_asked_once_a_match(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    width, asked = 3_000, []
    reads_only_shape = graph_facts.reads_only_shape

    def counted(user: fx.Node) -> bool:
        asked.append(user)
        return reads_only_shape(user)

    monkeypatch.setattr(safety, "reads_only_shape", counted)
    graph = fx.Graph()
    first = graph.call_function(aten.relu.default, (graph.placeholder("x"),))
    readers = [graph.call_function(aten.relu.default, (first,)) for _ in range(width)]
    graph.output(tuple(readers))
    result = engine.apply(fx.GraphModule(nn.Module(), graph), TWICE)
    assert len(result.report.refusals) == width
    assert width <= len(asked) < 10 * width


def test_a_wide_output_is_given_its_arguments_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    width, given = 300, []
    set_arguments = edit.set_arguments

    def counted(node: fx.Node, *arguments: Any) -> None:
        given.append(node.op)
        set_arguments(node, *arguments)

    monkeypatch.setattr(edit, "set_arguments", counted)
    graph = fx.Graph()
    x = graph.placeholder("x")
    inner = [graph.call_function(aten.relu.default, (x,)) for _ in range(width)]
    results = [graph.call_function(aten.relu.default, (y,)) for y in inner]
    graph.output((x, *results))
    gm = fx.GraphModule(nn.Module(), graph)
    assert engine.apply(gm, TWICE).report.matches == width
    assert given.count("output") == 1
    assert graph.output_node().args == ((x, *[n for n in x.users if n.op != "output"]),)
    assert all(list(n.users) == [graph.output_node()] for n in x.users if n.users)
    gm.graph.lint()


def test_a_wide_output_reads_what_it_did_after_a_failure() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    results = [graph.call_function(aten.relu.default, (x,)) for _ in range(40)]
    again = [graph.call_function(aten.relu.default, (y,)) for y in results]
    graph.output((*again, x, again[3]))
    gm = fx.GraphModule(nn.Module(), graph)
    users = [list(node.users) for node in graph.nodes]
    arguments = graph.output_node().args
    with pytest.raises(RewriteError, match="more than"):
        engine.apply(gm, TWICE, limits=Limits(rewrites=7, rewrites_per_node=0))
    assert graph.output_node().args == arguments
    assert [list(node.users) for node in graph.nodes] == users


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
    gm = chain(*[aten.relu.default] * 250)
    assert engine.apply(gm, rules).report.matches >= 1
    x = torch.randn(3)
    assert torch.equal(gm(x), x.relu())
