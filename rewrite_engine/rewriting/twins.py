"""Matches found without a search: where a search would see what it has seen before, it
finds the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from torch import fx

from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.lowering.spellings import Spelling
from rewrite_engine.matching.match import CapturedCalls, Match
from rewrite_engine.rewriting.outlines import Outline
from rewrite_engine.rewriting.reaches import LITERALS, Unrepeatable


class Index(int):
    """Stands for a node: those of an outline are counted first, then created ones."""


@attrs.frozen(eq=False)
class Twin:
    """A match whose nodes are given by their index in its outline."""

    rule: CompiledRule
    bindings: Mapping[str, Any]
    calls: tuple[tuple[int, Spelling], ...]
    row: int
    _targets: tuple[Any, ...]
    """What an outline names by its address, which must stay taken."""

    @staticmethod
    def of(match: Match, outline: Outline) -> Twin:
        """Raises: Unrepeatable, if the match has more than nodes and literals."""
        indices = {node: index for index, node in enumerate(outline.nodes)}
        return Twin(
            match.rule,
            {name: _indexed(v, indices) for name, v in match.bindings.items()},
            tuple((indices[call], found) for call, found in match.calls.items()),
            match.row,
            tuple(node.target for node in outline.nodes),
        )

    def match(self, nodes: list[fx.Node]) -> Match:
        """The match of the same outline on other nodes."""
        bindings = {
            name: value if value is None else _found(value, nodes)
            for name, value in self.bindings.items()
        }
        calls = {nodes[index]: found for index, found in self.calls}
        return Match(self.rule, bindings, calls, (nodes[0],), self.row)


def _indexed(value: Any, indices: Mapping[fx.Node, int]) -> Any:
    if isinstance(value, fx.Node):
        return Index(indices[value])
    if isinstance(value, CapturedCalls):
        parts = (value.root, value.hole, value.calls)
        return CapturedCalls(*(_indexed(part, indices) for part in parts))
    if isinstance(value, (list, tuple)):
        return type(value)([_indexed(item, indices) for item in value])
    if type(value) in LITERALS:
        return value
    raise Unrepeatable  # a dynamic size, which is another one elsewhere


def _found(value: Any, nodes: list[fx.Node]) -> Any:
    kind = type(value)
    if kind is Index:
        return nodes[value]
    if kind is CapturedCalls:
        parts = (value.root, value.hole, value.calls)
        return CapturedCalls(*(_found(part, nodes) for part in parts))
    if kind in (list, tuple):
        return kind([_found(item, nodes) for item in value])
    return value
