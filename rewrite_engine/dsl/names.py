"""What the names of a rule stand for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from typing import Literal as OneOf

import attrs

from rewrite_engine.dsl import nodes
from rewrite_engine.errors import Note
from rewrite_engine.source import Span

NameKind = OneOf[
    "variable", "literal", "list", "each", "call", "capture", "node", "constant"
]

DESCRIPTIONS: Final[Mapping[NameKind, str]] = {
    "variable": "a graph value",
    "literal": "a literal, written `${}`",
    "list": "a list of graph values, written `*{}`",
    "each": "a list, one item for each link of a chain",
    "call": "a matched call",
    "capture": "a capture",
    "node": "a node of the right side",
    "constant": "computed at rewrite time",
}


@attrs.frozen
class Entry:
    """What a name of a rule stands for, and where it first does."""

    name: str
    kind: NameKind
    span: Span

    def describe(self) -> str:
        return f"`{self.name}` is {DESCRIPTIONS[self.kind].format(self.name)}"

    def note(self) -> Note:
        return Note("it is first used here", self.span)


def parameter_key(parameter: nodes.Name | nodes.LiteralName) -> str:
    """A parameter as `Frame.parameters` names it: `v` or `$k`."""
    sign = "" if isinstance(parameter, nodes.Name) else "$"
    return f"{sign}{parameter.id}"


def words_of(text: str) -> set[str]:
    """Every identifier in a stretch of rule text."""
    return set(re.findall(r"[A-Za-z_]\w*", text))
