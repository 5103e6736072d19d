"""A rule from a part of a graph parses, matches there, and changes nothing yet."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import fx, nn

from benches.models import transformer_like
from rewrite_engine import GraphError, engine, loads
from rewrite_engine.graph_text import structure_text
from tests.graphs import chain

aten = torch.ops.aten


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.relu(self.bn(self.conv(x))) * 2.0
        z = torch.cat([y, y], 1).flatten(1)
        a, b = torch.split(z, 512, 1)
        return a + b.to(torch.float64), y


@pytest.fixture(scope="module")
def gm() -> fx.GraphModule:
    return torch.export.export(Model().train(), (torch.randn(2, 3, 8, 8),)).module()


SELECTIONS = {
    "one call": ["cat"],
    "with state": ["conv2d", "batch_norm"],
    "a literal": ["relu", "mul"],
    "a value read elsewhere": ["relu", "mul", "cat", "flatten"],
    "several results": ["split", "getitem", "getitem_1"],
    "a dtype": ["to"],
}


@pytest.mark.parametrize("literals", ["pin", "capture"])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_rule_matches_where_it_came_from(gm, selection, literals) -> None:
    nodes = SELECTIONS[selection]
    rules = loads(engine.extract(gm, nodes, literals=literals))
    found = [{call.name for call in match.calls} for match in engine.find(gm, rules)]
    assert set(nodes) in found


@pytest.mark.parametrize("literals", ["pin", "capture"])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_applying_it_changes_nothing_but_names(gm, selection, literals) -> None:
    rules = loads(engine.extract(gm, SELECTIONS[selection], literals=literals))
    rewritten = copy.deepcopy(gm)
    assert engine.apply(rewritten, rules).modified
    assert structure_text(gm) == structure_text(rewritten)


def test_literals_are_pinned_or_captured(gm) -> None:
    other = copy.deepcopy(gm)
    (mul,) = other.graph.find_nodes(op="call_function", target=aten.mul.Tensor)
    mul.update_arg(1, 3.0)
    pinned, captured = (
        loads(engine.extract(gm, ["relu", "mul"], literals=literals))
        for literals in ("pin", "capture")
    )
    assert not engine.find(other, pinned)
    assert engine.find(other, captured)
    assert engine.find(gm, pinned)


def test_the_text_is_canonical_and_named(gm) -> None:
    text = engine.extract(gm, [n for n in gm.graph.nodes if n.name == "mul"], name="m")
    assert text == (
        "## What is matched is built again: write on the right what takes its place.\n"
        "rule m once {\n  mul_1 = mul(x, 2.0)\n=>\n  mul_1' = mul(x, ..mul_1)\n}\n"
    )


WRONG = {
    "unknown": (["conv"], "no node `conv`"),
    "nothing": ([], "no call is selected"),
    "only inputs": (["x"], "no call is selected"),
    "a hole": (["conv2d", "relu"], "'batch_norm' lies between"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_left_side(gm, case) -> None:
    nodes, message = WRONG[case]
    with pytest.raises(GraphError, match=message):
        engine.extract(gm, nodes)


def test_calls_that_share_nothing_are_no_left_side() -> None:
    graph = fx.Graph()
    a, b = graph.placeholder("a"), graph.placeholder("b")
    calls = [graph.call_function(aten.relu.default, (value,)) for value in (a, b)]
    graph.output(calls)
    with pytest.raises(GraphError, match="no left side"):
        engine.extract(fx.GraphModule(nn.Module(), graph), calls)


def test_modules_cannot_be_named() -> None:
    gm = fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(GraphError, match=r"torch\.export\.export"):
        engine.extract(gm, ["_0"])


def halved(x: torch.Tensor) -> torch.Tensor:
    return x / 2


def test_what_rule_files_have_no_name_for() -> None:
    with pytest.raises(GraphError, match=r"have no name for `.*halved`"):
        engine.extract(chain(halved), ["halved"])


def test_every_pair_of_calls_of_a_model() -> None:
    model, inputs = transformer_like()
    gm = torch.export.export(model, inputs).module()
    pairs = [
        (node, operand)
        for node in gm.graph.nodes
        if node.op == "call_function"
        for operand in node.all_input_nodes
        if operand.op == "call_function"
    ]
    seen: set[tuple[object, object]] = set()
    for node, operand in pairs:
        if (node.target, operand.target) in seen:
            continue
        seen.add((node.target, operand.target))
        between = _between(operand, node)
        rules = loads(engine.extract(gm, between))
        found = [set(match.calls) for match in engine.find(gm, rules)]
        refused = [
            miss.anchor
            for miss in engine.explain(gm, rules).near_misses
            if miss.refused
        ]
        assert set(between) in found or node in refused
    assert len(seen) > 8


def _between(first: fx.Node, last: fx.Node) -> list[fx.Node]:
    """Both and whatever lies on a way from one to the other."""
    below = {first}
    for node in first.graph.nodes:
        if below & set(node.all_input_nodes):
            below.add(node)
    found, todo = {first, last}, [last]
    while todo:
        for operand in todo.pop().all_input_nodes:
            if operand in below and operand not in found:
                found.add(operand)
                todo.append(operand)
    return sorted(found)
