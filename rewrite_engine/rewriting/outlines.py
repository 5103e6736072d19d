"""What a match becomes depends on its calls, and on the literals and types that it
binds: its outline. Which nodes these are makes no difference.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from itertools import chain
from types import EllipsisType, NoneType
from typing import Any, Final

import attrs
import torch
from torch import fx
from torch.fx.immutable_collections import immutable_list

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.matching.match import CapturedCalls, Match
from rewrite_engine.rewriting.calls import is_static_identity
from rewrite_engine.rewriting.values import ValueTypes
from rewrite_engine.tensor_types import VALUE_KEYS

_ATOMS: Final = frozenset(
    {int, bool, str, NoneType, EllipsisType}
    | {torch.dtype, torch.device, torch.layout, torch.memory_format}
)
_SEQUENCES: Final = frozenset({list, tuple, immutable_list})
CALLS: Final = ("call_function", "call_method")
_RECORDS: Final = frozenset({*VALUE_KEYS, "tensor_meta"})


class Unrepeatable(Exception):  # noqa: N818 - an outcome, not an error
    """A match depends on something that no outline can hold."""


@attrs.frozen(eq=False)
class Outline:
    """A match without the identity of its nodes, which are listed beside it.

    Two matches with equal keys differ in nothing but their nodes.
    """

    key: Hashable
    nodes: list[fx.Node]
    fingerprints: tuple[Hashable, ...]
    """Of the nodes; they are part of the key."""

    @property
    def is_static(self) -> bool:
        """Whether it means the same in other graphs: no size in it is dynamic."""
        return is_static_identity(self.fingerprints)


def outline_of(match: Match, facts: GraphFacts, types: ValueTypes) -> Outline:
    """The outline of a match. Raises: Unrepeatable, if it has none."""
    return _Outliner(facts, types).outline(match)


@attrs.define(eq=False)
class _Outliner:
    """Writes a match as a flat list of types, literals and indices of nodes."""

    facts: GraphFacts
    types: ValueTypes
    parts: list[Any] = attrs.field(factory=list)
    indices: dict[fx.Node, int] = attrs.field(factory=dict)

    def outline(self, match: Match) -> Outline:
        self.parts += [match.rule, match.row]
        for call, spelling in match.calls.items():
            if call.op not in CALLS:
                raise Unrepeatable
            self.parts.append(spelling)
            self._add_node(call)
            self._add_items(call._args)
            self._add_items(chain.from_iterable(call._kwargs.items()))
        self._add_items(match.bindings.values())
        nodes = list(self.indices)
        fingerprints = tuple(map(self._fingerprint, nodes))
        return Outline((*self.parts, fingerprints), nodes, fingerprints)

    def _add_items(self, items: Iterable[Any], kind: type = list) -> None:
        parts = self.parts
        parts.append(kind)
        for item in items:
            kind = type(item)
            if kind is fx.Node:
                self._add_node(item)
            elif kind in _ATOMS:
                parts += (kind, item)
            elif kind is float:
                # -0.0 equals 0.0, and is another literal.
                parts += (kind, item, math.copysign(1, item))
            elif kind in _SEQUENCES:
                self._add_items(item, kind)
            elif kind is CapturedCalls:
                self._add_items((item.root, item.hole, *item.calls), kind)
            else:
                raise Unrepeatable
        parts.append(...)

    def _add_node(self, node: fx.Node) -> None:
        self.parts += (fx.Node, self.indices.setdefault(node, len(self.indices)))

    def _fingerprint(self, node: fx.Node) -> Hashable:
        """What new nodes take over or derive from a node, beside its identity."""
        meta = node.meta
        if node.op in CALLS and _RECORDS.isdisjoint(meta):
            return None
        identity = self.types.identity_of(node) or self.facts.type_of(node)
        return identity, getattr(meta.get("tensor_meta"), "requires_grad", None)
