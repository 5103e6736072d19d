"""Walks over syntax and terms, for questions that concern every kind alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.checked import (
    Apply,
    Captured,
    Either,
    Items,
    Maybe,
    Reference,
    Term,
)


def walk(node: Any) -> Iterator[Any]:
    """A node, or a tuple of nodes, and every node below it, in source order."""
    pending = list(reversed(node)) if isinstance(node, tuple) else [node]
    while pending:
        current = pending.pop()
        yield current
        pending.extend(reversed(_parts(current)))


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


def terms_in(term: Term) -> Iterator[Term]:
    """A term and every term below it, in source order."""
    pending = [term]
    while pending:
        current = pending.pop()
        yield current
        pending.extend(reversed(_children(current)))


def references(term: Term) -> frozenset[str]:
    """The bindings that a term refers to."""
    return frozenset(t.name for t in terms_in(term) if isinstance(t, Reference))


def is_deeper(node: Any, levels: int) -> bool:
    """Whether an expression has more than so many levels."""
    level = [node]
    for _ in range(levels):
        level = [child for parent in level for child in _parts(parent)]
        if not level:
            return False
    return True


def _parts(node: Any) -> list[Any]:
    """The nodes directly below one, or in a tuple."""
    found: list[Any] = []
    fields = (field.name for field in attrs.fields(type(node)) if field.eq)
    for value in (getattr(node, name) for name in fields):
        values = value if isinstance(value, tuple) else (value,)
        found.extend(v for v in values if attrs.has(type(v)))
    return found


def _children(term: Term) -> tuple[Term, ...]:
    match term:
        case Items(items):
            return items
        case Either(options):
            return options
        case Maybe(value) | Captured(_, value):
            return (value,)
        case Apply(_, operands):
            return tuple(operand.value for operand in operands)
    return ()
