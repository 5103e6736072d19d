"""The matches of torch.fx's `SubgraphMatcher`, on patterns that both can state.

Two things are left out, in which they differ by intent: the peer never lets two names
stand for one value, and lets a name stand for a literal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch.fx.passes.utils.matcher_utils import SubgraphMatcher

from rewrite_engine import engine, loads
from tests.matching.test_matchers import random_graph

aten = torch.ops.aten


def scaled(x: Any, y: Any) -> Any:
    return aten.add.Tensor(aten.mul.Tensor(x, 2.0), y)


def diamond(x: Any) -> Any:
    a = aten.relu.default(x)
    return aten.mul.Tensor(a, a)


def chain(x: Any) -> Any:
    return aten.neg.default(aten.sigmoid.default(aten.relu.default(x)))


def difference(x: Any, y: Any) -> Any:
    return aten.sub.Tensor(aten.mul.Tensor(x, y), y)


def repeated(x: Any) -> Any:
    return aten.add.Tensor(x, x)


PAIRS: dict[str, tuple[Callable[..., Any], str]] = {
    "scaled": (scaled, "z = aten.add.Tensor(aten.mul.Tensor(a, 2.0), b)"),
    "diamond": (
        diamond,
        "c = aten.relu.default(a)  z = aten.mul.Tensor(c, c)",
    ),
    "chain": (
        chain,
        "z = aten.neg.default(aten.sigmoid.default(aten.relu.default(a)))",
    ),
    "difference": (
        difference,
        "z = aten.sub.Tensor(aten.mul.Tensor(a, b), b)",
    ),
    "repeated": (repeated, "z = aten.add.Tensor(a, a)"),
}
Found = dict[str, frozenset[str]]
"""The calls of the match at each node."""


def by_peer(body: Callable[..., Any], gm: fx.GraphModule) -> Found:
    pattern = fx.symbolic_trace(body).graph
    matcher = SubgraphMatcher(pattern, remove_overlapping_matches=False)
    found = {}
    for match in matcher.match(gm.graph):
        nodes = match.nodes_map
        calls = {gn for pn, gn in nodes.items() if pn.op == "call_function"}
        if all(isinstance(gn, fx.Node) for gn in nodes.values()):
            names = frozenset(call.name for call in calls)
            found[nodes[match.anchors[0]].name] = names
    return found


def by_ours(rule: str, inputs: int, gm: fx.GraphModule) -> Found:
    found = {}
    for match in engine.find(gm, loads(f"rule r {{ {rule} => z' = relu(a) }}")):
        values = {match.bindings[name] for name in "ab"[:inputs]}
        if len(values) == inputs and not values & match.calls.keys():
            found[match.anchor.name] = frozenset(call.name for call in match.calls)
    return found


@pytest.mark.parametrize("name", PAIRS)
def test_both_find_the_same(name: str) -> None:
    body, rule = PAIRS[name]
    inputs, total = body.__code__.co_argcount, 0
    for seed in range(4):
        gm = random_graph(seed, size=2000)
        found = by_peer(body, gm)
        assert by_ours(rule, inputs, gm) == found
        total += len(found)
    assert total > 0
