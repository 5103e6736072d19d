"""Runs a matching program at one node, with full backtracking in bounded steps.

A program is a graph of instructions over a list of registers. The machine calls their
functions, each of which does a run of them and returns the instruction to go on with,
or None when this path fails. Paths that are still to be tried wait in
`Machine.pending`, each with its own registers, so nothing recurses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

import attrs
from torch import fx

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.lowering.guards import Condition
from rewrite_engine.matching.match import Match, View

STEPS: Final = 10_000
"""Runs of instructions that the search at one candidate may take."""

Registers = list[Any]
Judge = Callable[[Match], str | None]
"""Why a match may not be applied, None if it may."""


class Step(Protocol):
    """What a search goes on with."""

    @property
    def function(self) -> Callable[[Registers, Machine], Step | None]:
        """Does the work; the next step, or None if this path fails."""


class SearchLimitError(Exception):
    """A candidate took more steps than its budget allows."""


ACCEPTED: Final[Any] = object()
"""What a search ends with."""


@attrs.define(eq=False)
class Machine:
    """One search: the facts it may ask about, what it found, and its waiting paths."""

    facts: GraphFacts
    judge: Judge
    budget: int = STEPS
    match: Match | None = None
    reason: str | None = None
    """Why the first match that was refused is none."""
    pending: list[tuple[Step, Registers]] = attrs.field(factory=list)
    looked_at: dict[fx.Node, None] = attrs.field(factory=dict)
    """The nodes that were looked at as calls, on all paths."""
    refuted: bool = False
    """Whether a guard has ended a path."""

    def run(self, entry: Step, registers: Registers) -> bool:
        """Whether some path from `entry` reaches an end that is accepted."""
        pending = self.pending
        bottom = len(pending)
        step: Step | None = entry
        while True:
            while step is not None:
                self.budget -= 1
                if self.budget < 0:
                    raise SearchLimitError
                step = step.function(registers, self)
                if step is ACCEPTED:
                    del pending[bottom:]
                    return True
            if len(pending) == bottom:
                return False
            step, registers = pending.pop()

    def view(self) -> View | None:
        """What was looked at for a match; None if another one was refused before."""
        if self.reason is not None:
            return None
        return View(tuple(self.looked_at), self.refuted)

    def accept(self, match: Match) -> Step | None:
        """The end, if the match is wanted."""
        reason = self.judge(match)
        if reason is None:
            self.match = match
            return ACCEPTED
        self.reason = self.reason or reason
        return None

    def refute(self, guard: Condition) -> None:
        """Let a path fail, on which a guard does not hold."""
        if guard.reason is None:
            self.refuted = True
        else:
            self.reason = self.reason or guard.reason
