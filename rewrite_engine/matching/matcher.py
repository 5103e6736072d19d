"""The fast matcher: runs a matching program at the candidates of a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
from torch import fx

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.lowering.operators import Spelling
from rewrite_engine.matching.candidates import hits
from rewrite_engine.matching.instructions import (
    STEPS,
    Machine,
    Registers,
    SearchLimitError,
)
from rewrite_engine.matching.match import CapturedCalls, Match, View
from rewrite_engine.matching.program import Program, RuleProgram
from rewrite_engine.matching.readings import UNBOUND

Judge = Callable[[Match], str | None]
"""Why a match may not be applied, None if it may."""


@attrs.frozen(eq=False)
class Outcome:
    """What the search at one candidate came to: a match, a refusal, or nothing."""

    match: Match | None = None
    reason: str | None = None


NOTHING = Outcome()


def candidates(
    program: Program, facts: GraphFacts
) -> Iterator[tuple[fx.Node, list[RuleProgram]]]:
    """The nodes where rules may match, in graph order, with these rules."""
    found = hits(program.nets, facts)
    for node in sorted(found):
        yield node, program.rules_of(found[node])


def match_at(
    program: RuleProgram, anchor: fx.Node, facts: GraphFacts, judge: Judge
) -> Outcome:
    """The first match at a node that satisfies every guard and the judge.

    Other ways to match are tried when one is refused; the first refusal is reported if
    none is left.
    """
    search = _Search(program, facts, judge)
    machine = search.machine = Machine(facts, search.accept, STEPS)
    try:
        machine.run(program.entry, program.registers(anchor))
    except SearchLimitError:
        return Outcome(reason=f"the search took more than {STEPS} steps")
    if search.match is not None:
        return Outcome(search.match)
    return NOTHING if search.reason is None else Outcome(reason=search.reason)


@attrs.define(eq=False)
class _Search:
    program: RuleProgram
    facts: GraphFacts
    judge: Judge
    machine: Machine = attrs.field(init=False)
    match: Match | None = None
    reason: str | None = None

    def accept(self, registers: Registers) -> bool:
        reason = self._refusal(registers)
        if reason is None:
            match = read_match(self.program, registers, self._view())
            reason = self.judge(match)
            if reason is None:
                self.match = match
                return True
        self.reason = self.reason or reason
        return False

    def _view(self) -> View | None:
        if self.reason is not None:
            return None
        return View(tuple(self.machine.looked_at), self.machine.refuted)

    def _refusal(self, registers: Registers) -> str | None:
        for check in self.program.refusals:
            if not check.condition.holds(check.scope(registers, self.facts)):
                return check.condition.reason
        return None


def read_match(
    program: RuleProgram, registers: Registers, view: View | None = None
) -> Match:
    """The match that the registers of an accepted path describe."""
    bindings = {name: _named(registers[slot]) for name, slot in program.names.items()}
    for name, layout in program.captures.items():
        root = _bound(registers[layout.root])
        inside = [_bound(registers[slot]) for slot in layout.calls]
        for slot in layout.chains:
            inside += [call for call, _ in _bound(registers[slot]) or ()]
        calls = tuple(sorted({call for call in inside if call is not None}))
        hole = None if layout.hole is None else _bound(registers[layout.hole])
        bindings[name] = None if root is None else CapturedCalls(root, hole, calls)
    row = 0 if program.row is None else (_bound(registers[program.row]) or 0)
    roots = tuple(registers[slot] for slot in program.roots)
    found = dict(_calls(program, registers))
    return Match(program.rule, bindings, found, roots, row, view)


def _calls(
    program: RuleProgram, registers: Registers
) -> Iterator[tuple[fx.Node, Spelling]]:
    found: dict[Any, Any] = {
        registers[node]: registers[spelling]
        for node, spelling in program.calls
        if registers[spelling] is not UNBOUND
    }
    for slot in program.chains:
        found.update(_bound(registers[slot]) or ())
    for node in sorted(found):
        yield node, found[node]


def _bound(value: Any) -> Any:
    return None if value is UNBOUND else value


def _named(value: Any) -> Any:
    """What a name stands for; the names of a chain stand for lists."""
    return list(value) if type(value) is tuple else _bound(value)
