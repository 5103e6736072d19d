"""Rules of one phase that may want the same place, and which of them has it.

Two left sides overlap if some call could be the root of both. The greater benefit
decides, then the order in the file. Rules that are guarded are taken to be told apart
by their guards.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import or_
from typing import Final

import attrs

from rewrite_engine.dsl.checked import (
    Either,
    LiteralVariable,
    Others,
    Rule,
    Term,
    Variable,
)
from rewrite_engine.dsl.duplicates import benefit_of
from rewrite_engine.dsl.shapes import Comparison, Shape, root_paths, shape_of
from rewrite_engine.dsl.walk import children
from rewrite_engine.errors import Diagnostic, Note

_COMPARED: Final = 64
"""Rules with one root operator that are compared pair by pair."""


@attrs.frozen(eq=False)
class _Left:
    """The left side of a rule, for questions about two of them.

    `is_linear`: no name stands twice, which would demand that two values are one.
    """

    rule: Rule
    shape: Shape
    benefit: int
    is_linear: bool

    def is_covered(self, by: _Left) -> bool:
        """Whether the other one matches wherever this one does."""
        if len(self.rule.roots) + len(by.rule.roots) > 2 or not by.is_linear:
            return False
        return Comparison().covers(by.shape, self.shape)

    def meets(self, other: _Left) -> bool:
        """Whether some call could be the root of both."""
        return Comparison().may_meet(self.shape, other.shape)


def overlaps(rules: Sequence[Rule]) -> Iterator[Diagnostic]:
    """A finding for a rule that another leaves nothing, or that only order decides."""
    groups: dict[str, list[_Left]] = defaultdict(list)
    for left in sorted(map(_left, rules), key=lambda left: -left.benefit):
        for path in root_paths(left.shape):
            groups[path].append(left)
    seen: set[tuple[str, str]] = set()
    for group in groups.values():
        for index, later in enumerate(group[:_COMPARED]):
            for first in group[:index]:
                pair = first.rule.name, later.rule.name
                if pair not in seen:
                    seen.add(pair)
                    yield from _findings(first, later)


def _left(rule: Rule) -> _Left:
    times = sum((_times(b.term) for b in rule.bindings), Counter[str]())
    is_linear = all(count == 1 for count in times.values())
    return _Left(rule, shape_of(rule), benefit_of(rule), is_linear)


def _times(term: Term) -> Counter[str]:
    """How often names stand in a term; of alternatives, where most of them do."""
    if isinstance(term, Variable | LiteralVariable | Others):
        return Counter([term.name])
    if isinstance(term, Either):
        return reduce(or_, map(_times, term.options))
    return sum(map(_times, children(term)), Counter[str]())


def _findings(first: _Left, later: _Left) -> Iterator[Diagnostic]:
    """What is to say of two rules, the first of which is tried first."""
    if first.rule.guards:
        return
    is_tie = first.benefit == later.benefit and not later.rule.guards
    if later.is_covered(first):
        if not first.is_covered(later):  # else they are duplicates, which is an error
            message = f"`{first.rule.name}` is tried first and matches all that"
            yield _finding("W502", f"{message} `{later.rule.name}` does", first, later)
    elif is_tie and later.meets(first) and not first.is_covered(later):
        message = f"only their order decides between `{first.rule.name}` and"
        yield _finding("W503", f"{message} `{later.rule.name}`", first, later)


def _finding(code: str, message: str, first: _Left, later: _Left) -> Diagnostic:
    rule, other = later.rule, first.rule
    notes = (Note(f"`{other.name}` is defined here", other.name_span, other.source),)
    hint = f"say which is meant: `rule {rule.name} benefit N`"
    return Diagnostic(code, message, rule.name_span, rule.source, notes, hint)
