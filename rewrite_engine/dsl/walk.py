"""Walks over syntax and terms, for questions that concern every kind alike."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar, cast

import attrs

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.checked import (
    Apply,
    Captured,
    Chain,
    Either,
    Items,
    Maybe,
    Reference,
    Term,
)
from rewrite_engine.source import Span

T = TypeVar("T")


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
    callees: set[int] = set()
    for current in walk(node):
        match current:
            case nodes.Call(callee):
                callees.add(id(callee))
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
        pending.extend(reversed(children(current)))


def references(term: Term) -> frozenset[str]:
    """The bindings that a term refers to."""
    return frozenset(t.name for t in terms_in(term) if isinstance(t, Reference))


def moved(node: T, by: int) -> T:
    """A node, or a tuple of nodes, with every span so many characters further on."""
    if isinstance(node, Span):
        return cast(T, Span(node.start + by, node.end + by))
    if isinstance(node, tuple):
        return cast(T, tuple([moved(each, by) for each in node]) if node else node)
    if not hasattr(node, "__attrs_attrs__"):
        return node
    kind: type = type(node)
    values = {name: moved(getattr(node, name), by) for name in _fields(kind)}
    return cast(T, kind(**values))


def _parts(node: Any) -> list[Any]:
    """The nodes directly below one, or in a tuple."""
    found: list[Any] = []
    kind: type = type(node)
    for name in _compared_fields(kind):
        value = getattr(node, name)
        if isinstance(value, tuple):
            found += [each for each in value if hasattr(each, "__attrs_attrs__")]
        elif hasattr(value, "__attrs_attrs__"):
            found.append(value)
    return found


@functools.cache
def _fields(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in attrs.fields(kind))


@functools.cache
def _compared_fields(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in attrs.fields(kind) if field.eq)


def children(term: Term) -> tuple[Term, ...]:
    """The terms directly below one."""
    below = _BELOW.get(type(term))
    return () if below is None else below(term)


_BELOW: Final[Mapping[type, Callable[[Any], tuple[Term, ...]]]] = {
    Items: lambda term: term.items,
    Either: lambda term: term.options,
    Maybe: lambda term: (term.value,),
    Captured: lambda term: (term.value,),
    Chain: lambda term: (term.link, term.inner),
    Apply: lambda term: tuple([operand.value for operand in term.operands]),
}
