"""What a match becomes depends on its calls, and on the literals and types that it
binds: its outline. Which nodes these are makes no difference.

If no more than that decides what a search finds, the outline is that of all it looked
at. It can then be read without a search, and what is found with an equal one is known.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator
from itertools import chain, compress
from types import EllipsisType, NoneType
from typing import Any, Final

import attrs
import torch
from torch import fx
from torch.fx.immutable_collections import immutable_list

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.matching.match import CapturedCalls, Match, View
from rewrite_engine.rewriting.calls import is_static_identity
from rewrite_engine.rewriting.values import ValueTypes
from rewrite_engine.tensor_types import VALUE_KEYS, type_of

_ATOMS: Final = frozenset(
    {int, bool, str, NoneType, EllipsisType}
    | {torch.dtype, torch.device, torch.layout, torch.memory_format}
)
LITERALS: Final = _ATOMS | {float}
_SEQUENCES: Final = frozenset({list, tuple, immutable_list})
CALLS: Final = ("call_function", "call_method")
_RECORDS: Final = frozenset({*VALUE_KEYS, "tensor_meta"})


class Unrepeatable(Exception):  # noqa: N818 - an outcome, not an error
    """A match depends on something that no outline can hold."""


@attrs.frozen(cache_hash=True)
class Reach:
    """Where a search looks: nodes numbered breadth first, from the anchor on."""

    seen: tuple[bool, ...]
    """The nodes that are looked at as calls."""
    typed: tuple[bool, ...]
    """The nodes whose types matter."""


@attrs.frozen(eq=False)
class Outline:
    """A match without the identity of its nodes, which are listed beside it.

    Two matches with equal keys differ in nothing but their nodes.
    """

    key: Hashable
    nodes: list[fx.Node]
    types: tuple[Hashable, ...]
    """Those of the nodes that matter; they are part of the key."""
    reach: Reach | None = None
    """How to read it without a match, if a search would find this match again."""

    @property
    def is_static(self) -> bool:
        """Whether it means the same in other graphs: no size in it is dynamic."""
        return is_static_identity(self.types)


@attrs.frozen(eq=False)
class Outliner:
    """Reads the outlines of one graph."""

    facts: GraphFacts
    types: ValueTypes

    def of(self, match: Match) -> Outline:
        """The outline of a match. Raises: Unrepeatable, if it has none."""
        if match.rule.is_local and match.view is not None:
            return self._of_view(match, match.view)
        return self._of_calls(match)

    def at(self, rule: CompiledRule, anchor: fx.Node, reach: Reach) -> Outline | None:
        """What a search sees from an anchor; None if it would look elsewhere.

        Raises: Unrepeatable, if no outline can hold it.
        """
        parts = _Parts()
        parts.add_node(anchor)
        for index, seen in enumerate(reach.seen):
            if index == len(parts.nodes):
                return None
            if seen:
                parts.add_call(parts.nodes[index])
        if len(parts.nodes) != len(reach.seen):
            return None
        return self._outline(rule, parts, reach)

    def _of_view(self, match: Match, view: View) -> Outline:
        parts, seen = _Parts(), frozenset(view.calls)
        parts.add_node(match.anchor)
        for node in parts.nodes:  # grows
            if node in seen:
                parts.add_call(node)
        # A guard that failed may have asked about what the match binds otherwise.
        matter = parts.nodes if view.refuted else set(_mattering(match))
        reach = Reach(
            tuple([node in seen for node in parts.nodes]),
            tuple([n in matter or n not in match.calls for n in parts.nodes]),
        )
        return self._outline(match.rule, parts, reach)

    def _outline(self, rule: CompiledRule, parts: _Parts, reach: Reach) -> Outline:
        # Calls that do not depend on each other may stand in any order.
        order = tuple(map(parts.indices.__getitem__, sorted(parts.calls)))
        types = tuple(map(self._type, compress(parts.nodes, reach.typed)))
        key = rule, reach, *parts.items, order, types
        return Outline(key, parts.nodes, types, reach)

    def _of_calls(self, match: Match) -> Outline:
        parts = _Parts()
        for call, spelling in match.calls.items():
            parts.items.append(spelling)
            parts.add_node(call)
            parts.add_call(call)
        parts.add_items(match.bindings.values())
        types = tuple(map(self._type, parts.nodes))
        key = match.rule, match.row, *parts.items, types
        return Outline(key, parts.nodes, types)

    def _type(self, node: fx.Node) -> Hashable:
        """What is asked of a node, beside its identity."""
        held = None if node.op in CALLS else self.facts.constant(node)
        if _RECORDS.isdisjoint(node.meta):
            return type_of(held)
        identity = self.types.identity_of(node) or type_of(held)
        trains = getattr(node.meta.get("tensor_meta"), "requires_grad", None)
        return identity, trains, held is not None


def _mattering(match: Match) -> Iterator[fx.Node]:
    """The matched nodes whose types a rule asks for, or gives to new nodes."""
    for name in match.rule.names_read:
        for node in _nodes_in(match.bindings.get(name)):
            yield node
            # A copied call may read them, too.
            yield from node.all_input_nodes


def _nodes_in(value: Any) -> Iterator[fx.Node]:
    if isinstance(value, fx.Node):
        yield value
    elif isinstance(value, CapturedCalls):
        yield from (value.root, *value.calls)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _nodes_in(item)


@attrs.define(eq=False)
class _Parts:
    """Calls as a flat list of literals and indices of nodes."""

    items: list[Any] = attrs.field(factory=list)
    nodes: list[fx.Node] = attrs.field(factory=list)
    calls: list[fx.Node] = attrs.field(factory=list)
    indices: dict[fx.Node, int] = attrs.field(factory=dict)

    def add_node(self, node: fx.Node) -> None:
        index = self.indices.setdefault(node, len(self.nodes))
        if index == len(self.nodes):
            self.nodes.append(node)
        self.items += (fx.Node, index)

    def add_call(self, node: fx.Node) -> None:
        """The target and the arguments of a call; nothing of what is none."""
        if node.op not in CALLS:
            if node.op == "call_module":
                raise Unrepeatable  # what it calls depends on more than its target
            return
        target = node.target
        self.items.append(target if type(target) is str else id(target))
        self.calls.append(node)
        self.add_items(node._args)
        if node._kwargs:
            self.add_items(chain.from_iterable(node._kwargs.items()), dict)

    def add_items(self, items: Iterable[Any], kind: type = list) -> None:
        parts = self.items
        parts.append(kind)
        for item in items:
            kind = type(item)
            if kind is fx.Node:
                self.add_node(item)
            elif kind in _ATOMS:
                parts += (kind, item)
            elif kind is float:
                # -0.0 equals 0.0, and is another literal.
                parts += (kind, item, math.copysign(1, item))
            elif kind in _SEQUENCES:
                self.add_items(item, kind)
            elif kind is CapturedCalls:
                self.add_items((item.root, item.hole, *item.calls), kind)
            else:
                raise Unrepeatable
        parts.append(...)
