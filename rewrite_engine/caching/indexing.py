"""The index of a rule file that was loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import attrs

from rewrite_engine.caching.index import Demand, FileEntry, Index, RuleEntry, digest
from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.checked import Rule
from rewrite_engine.dsl.loader import Examination, Unit
from rewrite_engine.matching.needs import Names, calls_made, calls_needed
from rewrite_engine.matching.program import Program, RuleProgram
from rewrite_engine.source import Span

_OMITTED = nodes.RuleDef | nodes.TestDef | nodes.PipelineDef
"""What is not read where only some rules are."""


def index_of(found: Examination, program: Program) -> Index | None:
    """The index of a file without errors, given the program of its rules.

    None for a file that uses the prelude by its name.
    """
    # A file is done after those that it uses; here it comes before them.
    numbers = {real: i for i, real in enumerate([*found.units][::-1])}
    uses = [
        (numbers[real], use, os.path.realpath(path))
        for real in numbers
        for use, path in found.units[real].uses
    ]
    if any(real not in numbers for _, _, real in uses):
        return None
    units = [found.units[real] for real in numbers]
    demands = _Demands(frozenset(name for _, use, _ in uses for name in use.names))
    rules = tuple(_rule_entries(found.file.rules, units, program, demands))
    return Index(
        tuple(map(_file_entry, units)),
        tuple((user, use.path, numbers[real]) for user, use, real in uses),
        tuple(demands.places),
        tuple(demands.numbers),
        rules,
        found.file.phases,
    )


@attrs.frozen
class _Demands:
    """Numbers of the demands of rules, and of the places in them.

    What a `use` names has to be there whatever the graph is.
    """

    named: frozenset[str]
    places: dict[Names, int] = attrs.field(factory=dict)
    numbers: dict[Demand, int] = attrs.field(factory=dict)

    def of(self, program: RuleProgram) -> int:
        is_named = program.rule.name in self.named
        needs = {frozenset[Names]()} if is_named else calls_needed(program)
        ways = frozenset(frozenset(map(self._place, places)) for places in needs)
        demand = Demand(ways, frozenset(map(self._place, calls_made(program.rule))))
        return self.numbers.setdefault(demand, len(self.numbers))

    def _place(self, names: Names) -> int:
        return self.places.setdefault(names, len(self.places))


def _rule_entries(
    rules: Sequence[Rule], units: Sequence[Unit], program: Program, demands: _Demands
) -> Iterator[RuleEntry]:
    stretches = {
        (id(unit.scope.source), item.span): (number, stretch)
        for number, unit in enumerate(units)
        for item, stretch in _stretches(unit)
    }
    programs = {each.rule.name: each for each in program.rules}
    for rule in rules:
        number, stretch = stretches[id(rule.source), rule.span]
        made = programs[rule.name]
        benefit, demand = made.rule.benefit, demands.of(made)
        yield RuleEntry(rule.name, number, stretch, benefit, demand)


def _file_entry(unit: Unit) -> FileEntry:
    kept = (s for item, s in _stretches(unit) if not isinstance(item, _OMITTED))
    return FileEntry(digest(unit.scope.source), tuple(kept))


def _stretches(unit: Unit) -> Iterator[tuple[nodes.Item, Span]]:
    """Each item with its place, its documentation included."""
    text, end = unit.scope.source.text, 0
    for item in unit.items:
        # What follows an item on its line does not document the next one.
        start = text.find("\n", end, item.span.start) + 1 if end else 0
        yield item, Span(start or end, item.span.end)
        end = item.span.end
