"""What expressions of a rule are evaluated in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs
from torch import fx

from rewrite_engine.graph_facts import GraphFacts


class Unknown(Exception):  # noqa: N818 - an answer, not an error
    """A question about a value has no answer."""


class UnknownType(Unknown):
    """The graph does not record the type of a value."""


class Scope(Protocol):
    """What an expression is evaluated in: the names of one match."""

    @property
    def facts(self) -> GraphFacts:
        """The graph that the match is in."""

    def value(self, name: str) -> Any:
        """What a name stands for; None if it is absent."""

    def bind(self, name: str, value: Any) -> None:
        """Give a literal name (a dimension) its value."""

    def matches(self, node: fx.Node, pattern: object) -> bool:
        """Whether a node matches a pattern of the guard (a node of its matcher)."""


Evaluate = Callable[[Any], Any]
"""A compiled expression, a function of a `Scope`."""


@attrs.frozen
class ArgumentScope:
    """The arguments of one call by parameter name, for `commutes … when`."""

    arguments: Mapping[str, Any]

    @property
    def facts(self) -> GraphFacts:
        raise Unknown("an operator's condition sees arguments, not the graph")

    def value(self, name: str) -> Any:
        return self.arguments[name]
