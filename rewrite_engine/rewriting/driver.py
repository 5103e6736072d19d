"""Applies a program to a graph: candidates in graph order, bounded, all or nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Container, Iterable
from functools import cached_property
from typing import Protocol

import attrs
from torch import fx

from rewrite_engine.errors import RewriteError
from rewrite_engine.matching.machine import Judge
from rewrite_engine.matching.match import Match
from rewrite_engine.matching.matcher import Outcome, match_at
from rewrite_engine.matching.program import Program, RuleProgram
from rewrite_engine.matching.worklist import Worklist
from rewrite_engine.report import RefusalReport, Report, RuleReport
from rewrite_engine.rewriting.aliases import AliasIndex
from rewrite_engine.rewriting.annotations import may_name_nodes, retarget
from rewrite_engine.rewriting.build import Built, build
from rewrite_engine.rewriting.equal_matches import EqualMatches, Subject
from rewrite_engine.rewriting.fake_runs import ValueInferenceError
from rewrite_engine.rewriting.fixups import Moves, describe
from rewrite_engine.rewriting.module_places import settle
from rewrite_engine.rewriting.removal import Removal
from rewrite_engine.rewriting.safety import (
    Refused,
    check_reads,
    check_result,
    find_site,
)
from rewrite_engine.rewriting.state import State
from rewrite_engine.rewriting.transaction import Transaction
from rewrite_engine.rewriting.values import ValueTypes
from rewrite_engine.tensor_types import compatible

_CONSTANT_OPS = ("get_attr", "placeholder")

_log = logging.getLogger(__name__)  # `TORCH_LOGS="+rewrite_engine"` shows it


@attrs.frozen
class Limits:
    """What a run may do before it is stopped and taken back."""

    sweeps: int = 10
    rewrites: int = 1_000
    rewrites_per_node: int = 4
    growth: int = 8


class Watch(Protocol):
    """Sees the rewrites of a run; a run that nobody watches pays nothing for it."""

    def replacing(self, match: Match, built: Built) -> None:
        """The new nodes are there, and the graph still reads the old ones."""

    def rewritten(self, match: Match) -> None:
        """The rewrite of the last `replacing` was made; others were taken back."""


@attrs.define(eq=False)
class _Tally:
    """Counts of one rule; a place that is refused again counts once."""

    candidates: int = 0
    matches: int = 0
    seconds: float = 0.0
    refusals: dict[fx.Node, str] = attrs.field(factory=dict)

    def report(self, name: str, gone: Container[fx.Node]) -> RuleReport:
        """What a rule did; places that another rule has rewritten are not refused."""
        refusals = tuple(
            RefusalReport(name, node.name, reason)
            for node, reason in self.refusals.items()
            if node not in gone
        )
        return RuleReport(name, self.candidates, self.matches, refusals, self.seconds)


class Driver:
    """One run of a program on one graph.

    `run` edits the graph inside a transaction, `commit` makes the edits final except
    for the last step (erasing replaced nodes, generating code), and `rollback` takes
    everything back.
    """

    def __init__(
        self,
        program: Program,
        state: State,
        guard: Judge | None,
        limits: Limits,
        watch: Watch | None = None,
    ) -> None:
        self.module = state.facts.module
        self.graph: fx.Graph = self.module.graph
        self.transaction = Transaction(self.graph)
        self.modified = False
        self._program = program
        self._state = state
        self._guard = guard
        self._limits = limits
        self._watch = watch
        self._types = ValueTypes(self.module, state.facts.staged)
        self._known = EqualMatches(self.transaction, state, self._types, program.memory)
        self._moves = Moves()
        self._tallies = {id(rule): _Tally() for rule in program.rules}
        self._order: list[str] = []
        self._fired: set[tuple[int, fx.Node]] = set()
        self._moved: dict[fx.Node, list[fx.Node]] = {}
        """Who reads a value since the last rewrite."""
        self._size = len(self.graph.nodes)

    # --- sweeps ---

    def run(self) -> None:
        """Apply the rules until nothing changes; `once` rules see each place once.

        Raises: RewriteError, if a limit is reached.
        """
        for sweep in range(self._limits.sweeps):
            before = len(self._order)
            self._sweep(first=sweep == 0)
            if len(self._order) == before or self._all_once():
                return
        raise RewriteError(
            f"the rules still change the graph after {self._limits.sweeps} sweeps: "
            f"{self._recent()}"
        )

    def _all_once(self) -> bool:
        return all(rule.rule.once for rule in self._program.rules)

    def _sweep(self, *, first: bool) -> None:
        worklist = Worklist(self._program, self._state.facts)
        for node, rules in worklist:
            built = self._visit(node, rules, first=first)
            if built is not None:
                worklist.changed(built.created, self._moved)

    def _visit(
        self, node: fx.Node, rules: Iterable[RuleProgram], *, first: bool
    ) -> Built | None:
        """Try rules at a node, until one of them rewrites it."""
        if node in self.transaction.detached:
            return None
        for rule in rules:
            if rule.rule.once and not self._is_new_site(rule, node, first=first):
                continue
            built = self._try(rule, node)
            if built is not None:
                if rule.rule.once:
                    self._fired.add((id(rule), node))
                return built
        return None

    def _is_new_site(self, rule: RuleProgram, node: fx.Node, *, first: bool) -> bool:
        """Whether a `once` rule may still be applied: a node of the graph as given."""
        is_given = first and node not in self.transaction.created
        return is_given and (id(rule), node) not in self._fired

    # --- one place ---

    def _try(self, rule: RuleProgram, node: fx.Node) -> Built | None:
        tally = self._tallies[id(rule)]
        tally.candidates += 1
        start = time.perf_counter()
        done: list[Built] = []
        outcome = self._search(rule, node, done)
        tally.seconds += time.perf_counter() - start
        if outcome.match is None:
            self._note(tally, node, outcome)
            return None
        tally.matches += 1
        tally.refusals.pop(node, None)
        self._order.append(rule.rule.name)
        _log.debug("%s rewrites %s", rule.rule.name, node)
        if self._watch is not None:
            self.transaction.settle_output()
            self._watch.rewritten(outcome.match)
        self._check_limits()
        return done[0]

    def _search(self, rule: RuleProgram, node: fx.Node, done: list[Built]) -> Outcome:
        """The first match at a node that can be rewritten; it is in `done`, then."""
        found = self._known.find(rule.rule, node)
        refusal = None if found is None else self._judge(found.match, found, done)
        if found is not None and refusal is None:
            return Outcome(found.match)
        # The search finds this match again, and others after it.
        refusals = iter([] if refusal is None else [refusal])

        def judge(match: Match) -> str | None:
            return next(refusals, None) or self._judge(match, None, done)

        return match_at(rule, node, self._state.facts, judge)

    def _judge(
        self, match: Match, subject: Subject | None, done: list[Built]
    ) -> str | None:
        reason = None if self._guard is None else self._guard(match)
        return reason or self._attempt(match, subject, done)

    def _attempt(
        self, match: Match, subject: Subject | None, done: list[Built]
    ) -> str | None:
        """Rewrite a match, or say why not and leave it as it was."""
        mark = self.transaction.mark()
        try:
            done.append(self._rewrite(match, subject))
        except (Refused, ValueInferenceError) as refusal:
            self._take_back(mark)
            return str(refusal)
        return None

    def _take_back(self, mark: int) -> None:
        created, detached = self.transaction.since(mark)
        for node in created:
            self._aliases.discard(node)
        self.transaction.rollback(mark)
        for node in detached:
            self._aliases.add(node)

    def _note(self, tally: _Tally, node: fx.Node, outcome: Outcome) -> None:
        if outcome.reason is not None:
            _log.debug("refused at %s: %s", node, outcome.reason)
            tally.refusals[node] = outcome.reason

    def _rewrite(self, match: Match, subject: Subject | None) -> Built:
        aliases = self._aliases
        site = find_site(match, aliases, self._state.signatures)
        built = self._make(subject or self._known.recall(match), site.before)
        check_reads(built.created, built.replaced)
        effects = {node: aliases.add(node) for node in built.created}
        for old, new in built.replaced.items():
            effect = site.effects.get(old) or aliases.effect(old)
            check_result((old, effect), (new, effects.get(new)), aliases)
        describe(match, built)
        if self._state.is_exported:
            settle(match, built, effects, aliases)
        moves = Moves.of(match, built) if self._is_annotated else None
        if self._watch is not None:
            self.transaction.settle_output()
            self._watch.replacing(match, built)
        self._replace(match, built)
        if moves is not None:
            self._moves.update(moves)
        return built

    def _make(self, subject: Subject, before: fx.Node) -> Built:
        """The new nodes, whose types and effects are those of what they replace."""
        match = subject.match
        built = self._known.repeat(subject, before)
        if built is not None:
            self._removal.check_constants(match, built)
            return built
        built = build(match, before, self.transaction, self._state, self._types)
        for old, new in built.replaced.items():
            reason = compatible(old, new)
            if reason is not None:
                raise Refused(f"the replacement of '{old}' does not fit: {reason}")
        self._removal.check_constants(match, built)
        self._removal.check_effects(match, built)
        self._known.learn(subject, built)
        return built

    def _replace(self, match: Match, built: Built) -> None:
        self._moved = {}
        for old, new in built.replaced.items():
            self._moved.setdefault(new, []).extend(old.users)
            self.transaction.replace_uses(old, new)
            self._state.signatures.replaced(self.transaction, old, new)
            self._aliases.unite(old, new)
        self._removal.remove(match, built)
        self._state.readers.add(built.created)

    @cached_property
    def _is_annotated(self) -> bool:
        return any(map(may_name_nodes, self.graph.nodes))

    @cached_property
    def _aliases(self) -> AliasIndex:
        return AliasIndex.of(self.graph, self.module, self._state.facts.lifted)

    @cached_property
    def _removal(self) -> Removal:
        return Removal(self.transaction, self._aliases, self._state.facts)

    # --- limits ---

    def _check_limits(self) -> None:
        limits = self._limits
        most = limits.rewrites + limits.rewrites_per_node * self._size
        if len(self._order) > most:
            raise RewriteError(f"more than {most} rewrites: {self._recent()}")
        live = len(self.graph.nodes) - len(self.transaction.detached)
        if live > limits.growth * max(self._size, 16):
            raise RewriteError(
                f"the graph grew from {self._size} to {live} nodes: {self._recent()}"
            )

    def _recent(self) -> str:
        """The rules that fired last: those of the cycle, if there is one."""
        rules = sorted(set(self._order[-64:]))
        if len(rules) == 1:
            return f"{rules[0]} may match what it builds; is it meant to run `once`?"
        return f"{', '.join(rules)} may feed each other"

    # --- end of the run ---

    def commit(self) -> None:
        """Store constants, re-target annotations, erase replaced nodes."""
        self.modified = bool(self._order)
        if not self.modified:
            return
        self.transaction.settle_output()
        # Output names are read from the graph, so the signature comes last.
        for undo in retarget(self.graph.nodes, self._moves.nodes, self._moves.edges):
            self.transaction.record(undo.restore)
        for node in self._dead_twins():
            self.transaction.detach(node)
        self.transaction.erase_detached()
        self._state.store(self.transaction)

    def _dead_twins(self) -> list[fx.Node]:
        """Unread nodes for constants that left: export makes one for each name."""
        facts, detached = self._state.facts, self.transaction.detached
        left = [node for node in detached if node.op in _CONSTANT_OPS]
        gone = {id(facts.constant(node)) for node in left} - {id(None)}
        ops = _CONSTANT_OPS if gone else ()
        nodes = (n for op in ops for n in self.graph.find_nodes(op=op))
        unread = (n for n in nodes if not n.users and n not in detached)
        return [n for n in unread if id(facts.constant(n)) in gone]

    def rollback(self) -> None:
        """Leave the graph as it was before `run`."""
        self.transaction.rollback()

    def report(self, seconds: float) -> Report:
        gone = self.transaction.detached
        tallies = ((r.rule.name, self._tallies[id(r)]) for r in self._program.rules)
        return Report(tuple(t.report(name, gone) for name, t in tallies), seconds)
