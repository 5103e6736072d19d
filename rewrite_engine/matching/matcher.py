"""The fast matcher: runs a matching program at the candidates of a graph."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from torch import fx

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.matching.candidates import hits
from rewrite_engine.matching.machine import STEPS, Judge, Machine, SearchLimitError
from rewrite_engine.matching.match import Match
from rewrite_engine.matching.program import Program, RuleProgram


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
    machine = Machine(facts, judge)
    try:
        instructions = program.instructions
        machine.run(instructions.entry, instructions.registers(anchor))
    except SearchLimitError:
        return Outcome(reason=f"the search took more than {STEPS} steps")
    if machine.match is not None:
        return Outcome(machine.match)
    return NOTHING if machine.reason is None else Outcome(reason=machine.reason)
