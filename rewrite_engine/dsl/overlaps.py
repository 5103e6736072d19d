"""Rules of one phase that may want the same place, and which of them has it.

Two left sides overlap if some call could be the root of both. The greater benefit
decides, then the order in the file. Rules that are guarded are taken to be told apart
by their guards.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Final

import attrs

from rewrite_engine.dsl.checked import (
    Anything,
    Apply,
    Captured,
    Chain,
    Either,
    Items,
    Literal,
    LiteralVariable,
    Maybe,
    Operator,
    Others,
    Reference,
    Rule,
    Slot,
    Term,
    Variable,
)
from rewrite_engine.dsl.duplicates import benefit_of
from rewrite_engine.dsl.scopes import span_of_name
from rewrite_engine.dsl.walk import children
from rewrite_engine.errors import Diagnostic, Note

_COMPARED: Final = 64
"""Rules with one root operator that are compared pair by pair."""


def overlaps(rules: Sequence[Rule]) -> Iterator[Diagnostic]:
    """A finding for a rule that another leaves nothing, or that only order decides."""
    groups: dict[str, list[_Left]] = defaultdict(list)
    ordered = sorted(map(_Left, rules), key=lambda left: -benefit_of(left.rule))
    for left in ordered:
        for path in left.root_paths():
            groups[path].append(left)
    seen: set[tuple[str, str]] = set()
    for group in groups.values():
        for index, later in enumerate(group[:_COMPARED]):
            for first in group[:index]:
                pair = first.rule.name, later.rule.name
                if pair not in seen:
                    seen.add(pair)
                    yield from _findings(first, later)


def _findings(first: _Left, later: _Left) -> Iterator[Diagnostic]:
    """What is to say of two rules, the first of which is tried first."""
    if first.rule.guards:
        return
    if later.is_covered(first):
        if not first.is_covered(later):  # else they are duplicates, which is an error
            message = f"`{first.rule.name}` is tried first and matches all that"
            yield _finding("W502", f"{message} `{later.rule.name}` does", first, later)
        return
    is_tie = benefit_of(first.rule) == benefit_of(later.rule)
    if is_tie and not later.rule.guards and _is_open(first, later):
        message = f"only their order decides between `{first.rule.name}` and"
        yield _finding("W503", f"{message} `{later.rule.name}`", first, later)


def _is_open(first: _Left, later: _Left) -> bool:
    return not first.is_covered(later) and first.overlaps(later)


def _finding(code: str, message: str, first: _Left, later: _Left) -> Diagnostic:
    rule, other = later.rule, first.rule
    there = span_of_name(other.source, other.span, other.name)
    notes = (Note(f"`{other.name}` is defined here", there, other.source),)
    hint = f"say which is meant: `rule {rule.name} benefit N`"
    here = span_of_name(rule.source, rule.span, rule.name)
    return Diagnostic(code, message, here, rule.source, notes, hint)


@attrs.frozen
class _Left:
    """The left side of a rule, for questions about two of them."""

    rule: Rule
    terms: Mapping[str, Term] = attrs.field(init=False, eq=False, repr=False)

    @terms.default
    def _terms(self) -> dict[str, Term]:
        return {binding.name: binding.term for binding in self.rule.bindings}

    @property
    def root(self) -> Term:
        return self.terms[self.rule.roots[0]]

    def root_paths(self) -> frozenset[str]:
        """The spellings of the calls that may be the root."""
        paths: set[str] = set()
        todo = [self.root]
        while todo:
            term = self.at(todo.pop())
            if isinstance(term, Apply):
                paths |= self.paths(term.operator)
                todo += [o.value for o in term.operands if term.optional and o.key == 0]
            elif isinstance(term, Either):
                todo += term.options
        return frozenset(paths)

    def paths(self, operator: Operator | Slot) -> set[str]:
        """The spellings of an operator; those of all rows for the slot of a family."""
        family = self.rule.family
        if isinstance(operator, Operator) or family is None:
            named = [operator] if isinstance(operator, Operator) else []
        else:
            named = [row.operator for row in family.rows]
        return {spelling.path for each in named for spelling in each.spellings}

    def at(self, term: Term) -> Term:
        """What a name or a capture stands for."""
        while True:
            match term:
                case Reference(name):
                    term = self.terms[name]
                case Captured(_, value):
                    term = value
                case _:
                    return term

    def operands(self, term: Apply) -> dict[int | str, Term]:
        """Operands by position, where they have one."""
        if isinstance(term.operator, Slot):
            return {operand.key: operand.value for operand in term.operands}
        names = [p.name for p in term.operator.spellings[0].parameters]
        return {
            names.index(o.key) if o.key in names else o.key: o.value
            for o in term.operands
        }

    def overlaps(self, other: _Left) -> bool:
        return _may_meet(self, self.root, other, other.root)

    def is_covered(self, by: _Left) -> bool:
        """Whether the other one matches wherever this one does."""
        if len(self.rule.roots) + len(by.rule.roots) > 2 or not _is_linear(by):
            return False
        return _covers(by, by.root, self, self.root)


def _is_linear(left: _Left) -> bool:
    """Whether no name stands twice, which would demand that two values are one."""
    times = sum(map(_times, left.terms.values()), Counter[str]())
    return all(count == 1 for count in times.values())


def _times(term: Term) -> Counter[str]:
    """How often names stand in a term; of alternatives, where most of them do."""
    if isinstance(term, Variable | LiteralVariable | Others):
        return Counter([term.name])
    if isinstance(term, Either):
        return reduce(or_, map(_times, term.options))
    return sum(map(_times, children(term)), Counter[str]())


def _covers(one: _Left, term: Term, other: _Left, below: Term) -> bool:
    """Whether a term matches all that another one matches; if unknown, it does not."""
    term, below = one.at(term), other.at(below)
    if isinstance(term, Anything):
        return True
    if isinstance(below, Either):
        return all(_covers(one, term, other, option) for option in below.options)
    match term:
        case Variable():
            return isinstance(below, Variable | Apply)
        case LiteralVariable():
            return isinstance(below, LiteralVariable | Literal)
        case Literal():
            return term == below
        case Either(options):
            return any(_covers(one, option, other, below) for option in options)
        case Apply() if isinstance(below, Apply):
            return _covers_call(one, term, other, below)
    return False


def _covers_call(one: _Left, term: Apply, other: _Left, below: Apply) -> bool:
    if term.optional or below.optional or (below.rest and not term.rest):
        return False
    if not one.paths(term.operator) >= other.paths(below.operator):
        return False
    mine, theirs = one.operands(term), other.operands(below)
    if theirs.keys() - mine.keys() and not term.rest:
        return False
    return all(
        key in theirs and _covers(one, value, other, theirs[key])
        for key, value in mine.items()
    )


def _may_meet(one: _Left, term: Term, other: _Left, below: Term) -> bool:
    """Whether some value could be matched by both terms; if unknown, it could."""
    term, below = one.at(term), other.at(below)
    for first, a, second, b in ((one, term, other, below), (other, below, one, term)):
        if isinstance(a, Either):
            return any(_may_meet(first, option, second, b) for option in a.options)
        if isinstance(a, Anything | Chain | Maybe):
            return True
        if isinstance(a, Variable):
            return not isinstance(b, Literal | LiteralVariable | Items)
        if isinstance(a, Apply) and a.optional:
            return True
    match term, below:
        case (Apply(), Apply()):
            return _may_meet_call(one, term, other, below)
        case (Literal(), Literal()):
            return term == below
    kinds = (Literal, LiteralVariable)
    return isinstance(term, kinds) and isinstance(below, kinds)


def _may_meet_call(one: _Left, term: Apply, other: _Left, below: Apply) -> bool:
    if not one.paths(term.operator) & other.paths(below.operator):
        return False
    mine, theirs = one.operands(term), other.operands(below)
    shared = mine.keys() & theirs.keys()
    return all(_may_meet(one, mine[key], other, theirs[key]) for key in shared)
