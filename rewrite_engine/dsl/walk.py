"""A walk over syntax, for questions that concern every kind of node alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from rewrite_engine.dsl import nodes


def walk(node: Any) -> Iterator[Any]:
    """A node, or a tuple of nodes, and every node below it, in source order."""
    pending = [node]
    while pending:
        current = pending.pop()
        if isinstance(current, tuple):
            pending.extend(reversed(current))
        elif attrs.has(type(current)):
            yield current
            fields = attrs.fields(type(current))
            pending.extend(getattr(current, f.name) for f in reversed(fields) if f.eq)


def names_read(node: Any) -> frozenset[str]:
    """The names that occur in an expression, literals without their dollar sign.

    Callees and keywords of calls are no names in this sense.
    """
    found: set[str] = set()
    callees = {id(n.callee) for n in walk(node) if isinstance(n, nodes.Call)}
    for current in walk(node):
        match current:
            case nodes.Name(id=name) if id(current) not in callees:
                found.add(name)
            case nodes.LiteralName(name) | nodes.Star(name) | nodes.HasType(name):
                found.add(name)
            case nodes.IsConst(name) | nodes.Matches(name):
                found.add(name)
            case nodes.Rest(str() as name):
                found.add(name)
    return frozenset(found)
