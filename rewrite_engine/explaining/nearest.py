"""The search for what a rule comes closest to at one node of a graph.

It takes the steps of the reference matcher and, where one fails, goes on as if it had
held. Of all ways to read the graph it looks for the one that leaves the fewest steps
open: the most promising end is continued first, and what costs more than the best
reading so far is left alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import count, islice
from typing import Any, Final

import attrs
from torch import fx

from rewrite_engine.explaining.explanation import Mismatch, NearMiss
from rewrite_engine.explaining.faults import Fault, FaultFinder, PlacedGoal, placed
from rewrite_engine.explaining.guards import judge_guards
from rewrite_engine.explaining.places import readers_above
from rewrite_engine.explaining.steps import Place, counts, is_call, steps_below
from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.lowering.patterns import roots_of
from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.matching.reference import ROW, Env, Reference
from rewrite_engine.matching.structure import shared_node

BUDGET: Final = 1_000
"""Readings that are continued at one node before the furthest is taken."""

FAULTS: Final = 3
"""Things that may be wrong in what is searched for: with more it is no near miss."""

FURTHER: Final = 32
"""Nodes that are tried for a further root of a rule."""


@attrs.frozen(eq=False)
class Reading:
    """One way to read the graph around a node; `goals` are still to be looked at."""

    goals: tuple[PlacedGoal, ...]
    env: Env
    held: int = 0
    cost: int = 0
    mismatches: tuple[Mismatch, ...] = ()
    roots: int = 0
    """Roots of the rule that were begun."""


def nearest(rule: CompiledRule, anchor: fx.Node, facts: GraphFacts) -> Reading:
    """The reading at a node that leaves the fewest steps of the rule open.

    It holds entirely if and only if the rule's left side matches there.
    """
    return _Search(rule, anchor, facts).run()


def near_miss(rule: CompiledRule, anchor: fx.Node, reading: Reading) -> NearMiss:
    steps = reading.held + reading.cost
    return NearMiss(rule, anchor, reading.held, steps, reading.mismatches)


@attrs.define(eq=False)
class _Search:
    rule: CompiledRule
    anchor: fx.Node
    facts: GraphFacts
    reference: Reference = attrs.field(init=False)
    finder: FaultFinder = attrs.field(init=False)
    _ends: list[tuple[int, int, Reading]] = attrs.field(factory=list)
    _best: Reading | None = None
    _numbers: Iterator[int] = attrs.field(factory=count)

    def __attrs_post_init__(self) -> None:
        self.reference = Reference(self.rule, self.facts)
        self.finder = FaultFinder(self.rule, self.reference)

    @property
    def _roots(self) -> tuple[fx.Node, ...]:
        return roots_of(self.rule.matcher_graph)

    def run(self) -> Reading:
        root = self._roots[0]
        start = Reading(((root, self.anchor, Place(root)),), {}, roots=1)
        self._push(start)
        furthest = start
        for _ in range(BUDGET):
            if not self._ends:
                break
            reading = heapq.heappop(self._ends)[-1]
            if not self._is_worse(reading):
                furthest = max(furthest, reading, key=lambda end: end.held - end.cost)
                self._advance(reading)
        return self._best or self._given_up(furthest)

    def _is_worse(self, reading: Reading) -> bool:
        """Whether a reading cannot become better than the best that is known."""
        best = self._best
        return best is not None and reading.cost > best.cost

    def _advance(self, reading: Reading) -> None:
        if reading.goals:
            self._continue(reading)
        elif reading.roots < len(self._roots):
            self._begin_root(reading)
        else:
            judged = self._judge(reading)
            known = self._best
            if known is None or _rank(judged) < _rank(known):
                self._best = judged

    def _given_up(self, reading: Reading) -> Reading:
        """A reading whose goals are left open, which makes steps of them."""
        patterns = [pattern for pattern, _, _ in reading.goals]
        left = sum(steps_below(pattern, reading.env) for pattern in patterns)
        return self._judge(attrs.evolve(reading, cost=reading.cost + left))

    def _push(self, reading: Reading) -> None:
        if len(reading.mismatches) > FAULTS or self._is_worse(reading):
            return
        # What holds counts for a reading, so that a good one is soon complete; those
        # that cost more than it are then left alone.
        promise = 2 * reading.cost - reading.held
        heapq.heappush(self._ends, (promise, next(self._numbers), reading))

    def _continue(self, reading: Reading) -> None:
        (pattern, value, place), *rest = reading.goals
        env = reading.env
        ways = list(self.reference.ways(pattern, value, env))
        for goals, known in ways:
            more = _placed(pattern, value, goals, place)
            held = reading.held + counts(pattern, env)
            ahead = (*more, *rest)
            self._push(attrs.evolve(reading, goals=ahead, env=known, held=held))
        # A call that holds may still have to be read another way for the rest to hold.
        if not ways or is_call(pattern):
            for fault in self.finder.faults(pattern, value, env, place):
                self._push(_failed(reading, fault, rest))

    def _begin_root(self, reading: Reading) -> None:
        """Go on with a further root, at every call that reads what is known."""
        root = self._roots[reading.roots]
        reading = attrs.evolve(reading, roots=reading.roots + 1)
        readers = _readers(root, reading.env)
        for node in readers:
            self._push(attrs.evolve(reading, goals=((root, node, Place(root)),)))
        if not readers:
            self._push(_failed(reading, self.finder.no_root(root, reading.env), []))

    def _judge(self, reading: Reading) -> Reading:
        held, failed = judge_guards(self.rule, self.reference, reading.env)
        return attrs.evolve(
            reading,
            held=reading.held + held,
            cost=reading.cost + len(failed),
            mismatches=(*reading.mismatches, *failed),
        )


def _rank(reading: Reading) -> tuple[int, int]:
    """Few open steps, then many that hold."""
    return reading.cost, -reading.held


def _failed(reading: Reading, fault: Fault, rest: list[PlacedGoal]) -> Reading:
    return attrs.evolve(
        reading,
        goals=(*fault.goals, *rest),
        env=fault.env,
        held=reading.held + fault.held,
        cost=reading.cost + fault.cost,
        mismatches=(*reading.mismatches, *fault.mismatches),
    )


def _placed(
    pattern: Any, value: Any, goals: list[Any], place: Place
) -> list[PlacedGoal]:
    """The goals that one step leaves, with where they stand."""
    if goals and is_call(pattern):
        return placed(pattern, value, goals)
    return [(p, v, place) for p, v in goals]


def _readers(root: fx.Node, env: Env) -> list[fx.Node]:
    """The nodes that may be a further root: they read what the pattern shares."""
    known = {p for p, v in env.items() if isinstance(v, fx.Node)}
    found = shared_node(root, known - {ROW})
    if found is None:
        return []
    shared, depth = found
    return list(islice(readers_above(env[shared], depth), FURTHER))
