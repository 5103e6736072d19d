"""Places of a graph that are worth a look: each call of a rule votes for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

from torch import fx

from rewrite_engine.explaining.dialects import dialect
from rewrite_engine.lowering import markers
from rewrite_engine.lowering.operators import OperatorPattern
from rewrite_engine.lowering.patterns import roots_of
from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.lowering.spellings import call_key

USERS: Final = 32
"""Readers of one value that are followed; a value may have thousands."""

_CALLS: Final = ("call_function", "call_method", "call_module")


def places(rule: CompiledRule, nodes: Iterable[fx.Node], most: int) -> list[fx.Node]:
    """The nodes at which most calls of the rule would find their operator.

    Operators of another dialect count as well. At most `most`, the likeliest first.
    """
    by_call: dict[Any, list[fx.Node]] = {}
    for node in nodes:
        if node.op in _CALLS:
            by_call.setdefault(call_key(node), []).append(node)
    votes: Counter[fx.Node] = Counter()
    for call, depth in calls_of(rule):
        for found in by_call.values():
            if _may_be(call.target, found[0]):
                votes.update(_anchors(found, depth))
    # Equal votes in graph order; a counter keeps the order of the first vote.
    return sorted(votes, key=lambda node: (-votes[node], node))[:most]


def _anchors(found: list[fx.Node], depth: int) -> set[fx.Node]:
    above = {anchor for node in found for anchor in readers_above(node, depth)}
    return {anchor for anchor in above if anchor.op in _CALLS}


def places_of(rule: CompiledRule, node: fx.Node, most: int) -> list[fx.Node]:
    """The nodes that anchor the rule if `node` is one of its calls, or below one."""
    deepest = max((depth for _, depth in calls_of(rule)), default=0)
    above = (a for depth in range(deepest + 2) for a in readers_above(node, depth))
    calls = (anchor for anchor in above if anchor.op in _CALLS)
    return list(islice(dict.fromkeys(calls), most))


def calls_of(rule: CompiledRule) -> list[tuple[fx.Node, int]]:
    """The calls under the rule's first root, each with how many calls lie above it."""
    level: dict[fx.Node, None] = dict.fromkeys(roots_of(rule.matcher_graph)[:1])
    found: dict[fx.Node, int] = {}
    depth = 0
    while level:
        calls = dict.fromkeys(c for node in level for c in _calls_at(node))
        fresh = [call for call in calls if call not in found]
        found.update(dict.fromkeys(fresh, depth))
        level = {o: None for call in fresh for o in call.all_input_nodes}
        depth += 1
    return list(found.items())


def _calls_at(pattern: fx.Node) -> Iterator[fx.Node]:
    """The calls of the rule that a pattern may begin with."""
    todo = [pattern]
    while todo:
        node = todo.pop()
        if isinstance(node.target, OperatorPattern):
            yield node
        elif node.target is markers.captured:
            todo += [arg for arg in node.args[1:2] if isinstance(arg, fx.Node)]
        else:
            todo += node.all_input_nodes


def readers_above(node: fx.Node, depth: int) -> Iterator[fx.Node]:
    """The nodes that read a node through exactly `depth` reads, each once."""
    level = {node: None}
    for _ in range(depth):
        level = {u: None for n in level for u in islice(n.users, USERS)}
    yield from level


def _may_be(operator: OperatorPattern, node: fx.Node) -> bool:
    return operator.covers(node) or dialect(operator, node) is not None
