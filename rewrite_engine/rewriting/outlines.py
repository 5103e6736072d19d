"""What a match becomes depends on its calls, and on the literals and types that it
binds: its outline. Which nodes these are makes no difference.

If no more than that decides what a search finds, the outline is that of all it looked
at. It can then be read without a search, and what is found with an equal one is known.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator
from itertools import chain
from typing import Any, Final, NamedTuple

import attrs
from torch import fx

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.matching.match import CapturedCalls, Match, View
from rewrite_engine.rewriting.calls import is_static_identity
from rewrite_engine.rewriting.reaches import (
    CALLS,
    LITERALS,
    SEQUENCES,
    Reach,
    Unrepeatable,
)
from rewrite_engine.rewriting.values import ValueTypes
from rewrite_engine.tensor_types import VALUE_KEYS, type_of

_RECORDS: Final = frozenset({*VALUE_KEYS, "tensor_meta"})


class Outline(NamedTuple):
    """A match without the identity of its nodes, which are listed beside it.

    Two matches of a rule with equal reaches and keys differ in nothing but their nodes.
    """

    key: tuple[Hashable, ...]
    nodes: list[fx.Node]
    reach: Reach | None
    """How to read it without a match, if a search would find this match again."""

    @property
    def is_static(self) -> bool:
        """Whether it means the same in other graphs: no size in it is dynamic."""
        typed = self.nodes if self.reach is None else self.reach.typed
        return is_static_identity(self.key[len(self.key) - len(typed) :])


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

    def _of_view(self, match: Match, view: View) -> Outline:
        # A guard that failed may have asked about what the match binds otherwise.
        inner = {} if view.refuted else match.calls
        matter = frozenset(_mattering(match))
        reach = Reach.of(
            match.anchor,
            frozenset(view.calls),
            lambda node: node in matter or node not in inner,
        )
        seen = reach.read(match.anchor, self.type_of)
        assert seen is not None, "every place looks as it looks"
        return Outline(*seen, reach)

    def _of_calls(self, match: Match) -> Outline:
        parts = _Parts()
        for call, spelling in match.calls.items():
            parts.items.append(spelling)
            parts.add_node(call)
            parts.add_call(call)
        parts.add_items(match.bindings.values())
        types = map(self.type_of, parts.nodes)
        return Outline((match.row, *parts.items, *types), parts.nodes, None)

    def type_of(self, node: fx.Node) -> Hashable:
        """What is asked of a node, beside its identity."""
        held = None if node.op in CALLS else self.facts.constant(node)
        if _RECORDS.isdisjoint(node.meta):
            # Not every constant has a type, and what has none may be no constant.
            return None if held is None else (type_of(held),)
        identity = self.types.identity_of(node) or type_of(held)
        trains = getattr(node.meta.get("tensor_meta"), "requires_grad", None)
        return identity, trains, held is not None


def _mattering(match: Match) -> Iterator[fx.Node]:
    """The matched nodes whose types a rule asks for, or gives to new nodes."""
    rule = match.rule
    for name in rule.names_read:
        for node in _nodes_in(match.bindings.get(name)):
            yield node
            if name in rule.names_copied:
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
    _indices: dict[fx.Node, int] = attrs.field(factory=dict)

    def add_node(self, node: fx.Node) -> None:
        index = self._indices.setdefault(node, len(self.nodes))
        if index == len(self.nodes):
            self.nodes.append(node)
        self.items += (fx.Node, index)

    def add_call(self, node: fx.Node) -> None:
        """The target and the arguments of a call."""
        if node.op == "call_module":
            raise Unrepeatable  # what it calls depends on more than its target
        target = node.target
        self.items.append(target if type(target) is str else id(target))
        self.add_items(node.args)
        if node.kwargs:
            self.add_items(chain.from_iterable(node.kwargs.items()), dict)

    def add_items(self, items: Iterable[Any], kind: type = list) -> None:
        parts = self.items
        parts.append(kind)
        for item in items:
            kind = type(item)
            if kind is fx.Node:
                self.add_node(item)
            elif kind is float:
                # -0.0 equals 0.0, and is another literal.
                parts += (kind, item, math.copysign(1, item))
            elif kind in LITERALS:
                parts += (kind, item)
            elif kind in SEQUENCES:
                self.add_items(item, kind)
            elif kind is CapturedCalls:
                self.add_items((item.root, item.hole, *item.calls), kind)
            else:
                raise Unrepeatable
        parts.append(...)
