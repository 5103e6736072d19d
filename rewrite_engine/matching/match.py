"""What a search finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from torch import fx

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.lowering.spellings import Spelling


@attrs.frozen(eq=False)
class CapturedCalls:
    """What `N@p` matched: the calls from `root` down to, and not including, `hole`."""

    root: fx.Node
    hole: fx.Node | None
    calls: tuple[fx.Node, ...]


@attrs.frozen(eq=False)
class View:
    """What a search looked at before its first match."""

    calls: tuple[fx.Node, ...]
    """The nodes that it looked at as calls, on the paths that failed, too."""
    refuted: bool
    """Whether a guard has ended a path."""


@attrs.frozen(eq=False)
class Match:
    """One place where a rule's left side holds.

    `bindings` gives what each name stands for: a node, a literal, a list, a
    `CapturedCalls`, or None for what is absent. `calls` are the matched calls in graph
    order, each with the spelling in which it was found; `roots` the anchors' nodes.
    `view` is what the search looked at, None if it has refused another match before.
    """

    rule: CompiledRule
    bindings: Mapping[str, Any]
    calls: dict[fx.Node, Spelling]
    roots: tuple[fx.Node, ...]
    row: int
    view: View | None = None

    @property
    def anchor(self) -> fx.Node:
        return self.roots[0]

    def __str__(self) -> str:
        return f"{self.rule.name} at {self.anchor.name}"


@attrs.frozen(eq=False)
class MatchScope:
    """The names of a match, for literals and conditions of its right side."""

    facts: GraphFacts
    names: dict[str, Any]

    def value(self, name: str) -> Any:
        value = self.names.get(name)
        return value.root if isinstance(value, CapturedCalls) else value
