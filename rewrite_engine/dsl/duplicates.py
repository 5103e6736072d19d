"""Rules that say the same twice, and rules that another one always precedes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, TypeVar

import attrs

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.checked import (
    Apply,
    Captured,
    LiteralVariable,
    Operator,
    Others,
    Reference,
    Rule,
    Slot,
    Term,
    Variable,
)
from rewrite_engine.dsl.walk import terms_in
from rewrite_engine.errors import Diagnostic, Note

T = TypeVar("T")


def duplicates(rules: Sequence[Rule]) -> Iterator[Diagnostic]:
    """A finding for every rule that can never fire beside an equal or weaker one."""
    for alike in _grouped(rules, _outline):
        fingerprints = map(_fingerprint, alike)
        for group in _grouped(fingerprints, attrgetter("left")):
            yield from _shadowed(sorted(group, key=lambda f: -f.benefit))


def _grouped(
    values: Iterable[T], key: Callable[[T], Hashable]
) -> Iterator[Sequence[T]]:
    """Values of one key, where there are several."""
    groups: dict[Hashable, list[T]] = defaultdict(list)
    for value in values:
        groups[key(value)].append(value)
    return (group for group in groups.values() if len(group) > 1)


def _outline(rule: Rule) -> Hashable:
    """What is found out at once, and is alike if the left sides are."""
    terms = (term for binding in rule.bindings for term in terms_in(binding.term))
    return tuple(map(_mark, terms))


def _mark(term: Term) -> Hashable:
    match term:
        case Apply(Operator() as operator):
            return operator.spellings[0].path
    return type(term).__name__


@attrs.frozen
class _Fingerprint:
    """A rule's left side with its names replaced by numbers."""

    rule: Rule
    left: Hashable
    guards: frozenset[Hashable]
    benefit: int

    def precedes(self, other: _Fingerprint) -> bool:
        """Whether this rule fires wherever the other one could."""
        return self.guards <= other.guards and self.rule.keep >= other.rule.keep


def _shadowed(group: list[_Fingerprint]) -> Iterator[Diagnostic]:
    # Rules of one left side are few; comparing all pairs is bounded all the same.
    kept: list[_Fingerprint] = []
    for later in group:
        first = next((f for f in kept[:_COMPARED] if f.precedes(later)), None)
        if first is None:
            kept.append(later)
            continue
        rule, other = later.rule, first.rule
        equal = first.guards == later.guards
        code = "E505" if equal else "E506"
        message = (
            f"`{rule.name}` matches what `{other.name}` matches"
            if equal
            else f"`{rule.name}` never fires: `{other.name}` precedes it and asks less"
        )
        note = Note(f"`{other.name}` is defined here", other.name_span, other.source)
        yield Diagnostic(code, message, rule.name_span, rule.source, (note,))


_COMPARED = 64


def _fingerprint(rule: Rule) -> _Fingerprint:
    numbers: dict[str, int] = {}
    rows = rule.family.rows if rule.family else ()
    family = tuple(
        (
            _key(row.operator, numbers),
            tuple(
                (_number(n, numbers), _key(v, numbers)) for n, v in row.literals.items()
            ),
        )
        for row in rows
    )
    bindings = tuple(
        (_number(b.name, numbers), _key(b.term, numbers)) for b in rule.bindings
    )
    guards = frozenset(
        (_key(g.expr, numbers), _key(tuple(g.patterns.values()), numbers))
        for g in rule.guards
    )
    return _Fingerprint(rule, (family, bindings), guards, benefit_of(rule))


def benefit_of(rule: Rule) -> int:
    """The greater, the earlier a rule is tried; by default its number of calls."""
    if rule.benefit is not None:
        return rule.benefit
    return sum(isinstance(t, Apply) for b in rule.bindings for t in terms_in(b.term))


_NAMED = (Variable, LiteralVariable, Others, Reference, Captured)
_NAMED_SYNTAX = (
    nodes.Name,
    nodes.LiteralName,
    nodes.Star,
    nodes.HasType,
    nodes.IsConst,
    nodes.Matches,
)


def _key(part: Any, numbers: dict[str, int]) -> Hashable:
    """A part of a rule as a row of tokens, in which names are numbers.

    Not nested, since hashing and comparing what is nested deep would recurse.
    """
    tokens: list[Hashable] = []
    pending = [part]
    while pending:
        current = pending.pop()
        token, below = _token(current, numbers)
        tokens.append(token)
        pending.extend(reversed(below))
    return tuple(tokens)


def _token(part: Any, numbers: dict[str, int]) -> tuple[Hashable, tuple[Any, ...]]:
    """What stands for a part, and the parts below it."""
    kind = type(part).__name__
    if isinstance(part, tuple):
        return len(part), part
    if isinstance(part, Operator):
        return (part.paths, *part.commuting), ()
    if isinstance(part, Slot):
        return kind, ()
    if isinstance(part, nodes.Call):
        return part.callee.id, (part.args,)
    if not attrs.has(type(part)) or _is_path(part):
        return (kind, repr(part)), ()
    fields = attrs.fields(type(part))
    values = tuple(getattr(part, field.name) for field in fields if field.eq)
    if isinstance(part, _NAMED + _NAMED_SYNTAX):
        return (kind, _number(values[0], numbers)), values[1:]
    return kind, values


def _is_path(part: Any) -> bool:
    return isinstance(part, nodes.Name) and "." in part.id


def _number(name: str, numbers: dict[str, int]) -> int:
    return numbers.setdefault(name, len(numbers))
