"""What is known of the rules of a file without reading them, and how it is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Set
from typing import Any, Final

import attrs

from rewrite_engine.collector import paused_gc
from rewrite_engine.dsl.checked import Phase
from rewrite_engine.report import Report, RuleReport
from rewrite_engine.source import Source, Span


@attrs.frozen
class FileEntry:
    """One file: the SHA-256 of its text, and where everything but its rules, tests and
    pipeline stands.
    """

    digest: str
    definitions: tuple[Span, ...]


@attrs.frozen
class Demand:
    """What rules ask of a graph and what they add to it, as numbers of places.

    All places of one of the sets in `needs` have to be there.
    """

    needs: frozenset[frozenset[int]]
    makes: frozenset[int]


@attrs.frozen
class RuleEntry:
    """One rule: where it stands, its documentation included, and what it demands."""

    name: str
    file: int
    span: Span
    benefit: int
    demand: int


@attrs.frozen
class Index:
    """A file and those that it uses, which were loaded without an error.

    `uses` has the number of a file, what it calls another one, and that one's number; a
    file is used before it uses others. `places` holds what may be called in one place.
    """

    files: tuple[FileEntry, ...]
    uses: tuple[tuple[int, str, int], ...]
    places: tuple[frozenset[str], ...]
    demands: tuple[Demand, ...]
    rules: tuple[RuleEntry, ...]
    phases: tuple[Phase, ...]

    def possible(self, calls: Iterable[str]) -> frozenset[str]:
        """The rules that may match in a graph with these calls, or in what the others
        of them make of it.
        """
        known, fit = set(calls), set[int]()
        while fresh := self._fitting(known) - fit:
            fit |= fresh
            made = (place for number in fresh for place in self.demands[number].makes)
            known.update(name for place in made for name in self.places[place])
        return frozenset(rule.name for rule in self.rules if rule.demand in fit)

    def _fitting(self, calls: Set[str]) -> set[int]:
        there = {i for i, names in enumerate(self.places) if names & calls}
        demands = enumerate(self.demands)
        return {i for i, each in demands if any(need <= there for need in each.needs)}

    @paused_gc()
    def completed(self, report: Report) -> Report:
        """A report of some rules, with a line for each of the others, in its place."""
        known = {rule.name: rule for rule in report.rules}
        rules = (known.get(n) or RuleReport(n) for n in self._order())
        return attrs.evolve(report, rules=tuple(rules))

    def _order(self) -> Iterable[str]:
        """The rules that run, as reports list them."""
        benefits = {rule.name: -rule.benefit for rule in self.rules}
        phases = [phase.rules for phase in self.phases] or [tuple(benefits)]
        ordered = (sorted(rules, key=benefits.__getitem__) for rules in phases)
        return dict.fromkeys(name for rules in ordered for name in rules)


def digest(source: Source) -> str:
    """The SHA-256 of a text."""
    return hashlib.sha256(source.text.encode()).hexdigest()


# --- as text ---

_SPANS: Final = [(int, int)]
_SHAPE: Final = (
    [(str, _SPANS)],
    [(int, str, int)],
    [[str]],
    [([[int]], [int])],
    [(str, int, int, int, int, int)],
    [(bool, [str])],
)


def to_json(index: Index) -> str:
    """An index as text."""
    files = [(f.digest, [_pair(s) for s in f.definitions]) for f in index.files]
    places = [sorted(names) for names in index.places]
    demands = [([sorted(n) for n in d.needs], sorted(d.makes)) for d in index.demands]
    rules = [(r.name, r.file, *_pair(r.span), r.benefit, r.demand) for r in index.rules]
    phases = [(phase.once, phase.rules) for phase in index.phases]
    parts = (files, index.uses, places, demands, rules, phases)
    return json.dumps(parts, separators=(",", ":"))


def from_json(text: str | bytes) -> Index:
    """The index that a text holds. Raises: ValueError, if it holds none."""
    try:
        parts = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not _fits(parts, _SHAPE):
        raise ValueError("not of the form of an index")
    files, uses, places, demands, rules, phases = parts
    index = Index(
        tuple(FileEntry(digest, _spans(spans)) for digest, spans in files),
        tuple((user, name, used) for user, name, used in uses),
        tuple(map(frozenset, places)),
        tuple(Demand(frozenset(map(frozenset, n)), frozenset(m)) for n, m in demands),
        tuple(RuleEntry(n, f, Span(a, z), b, d) for n, f, a, z, b, d in rules),
        tuple(Phase(once, tuple(names)) for once, names in phases),
    )
    if not _is_consistent(index):
        raise ValueError("an index that refers to what is not in it")
    return index


def _pair(span: Span) -> tuple[int, int]:
    return span.start, span.end


def _spans(pairs: Iterable[Iterable[int]]) -> tuple[Span, ...]:
    return tuple(Span(*pair) for pair in pairs)


def _fits(value: Any, shape: Any) -> bool:
    """Whether a JSON value has a shape: `[…]` is a list of any length of what it holds,
    `(…)` a list of just these.
    """
    if isinstance(shape, list):
        return type(value) is list and all(_fits(each, shape[0]) for each in value)
    if isinstance(shape, tuple):
        is_long_enough = type(value) is list and len(value) == len(shape)
        return is_long_enough and all(map(_fits, value, shape))
    return type(value) is shape


def _is_consistent(index: Index) -> bool:
    files, places = range(len(index.files)), range(len(index.places))
    demands, names = range(len(index.demands)), {rule.name for rule in index.rules}
    return (
        len(files) > 0
        and len(names) == len(index.rules)
        and all(user in files and used in files for user, _, used in index.uses)
        and all(place in places for demand in index.demands for place in demand.makes)
        and all(rule.file in files and rule.demand in demands for rule in index.rules)
        and all(name in names for phase in index.phases for name in phase.rules)
    )
