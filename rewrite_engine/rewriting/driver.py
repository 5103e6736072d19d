"""Applies a program to a graph: candidates in graph order, bounded, all or nothing."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Protocol

import attrs
from torch import fx

from rewrite_engine.errors import RewriteError
from rewrite_engine.matching.machine import Judge
from rewrite_engine.matching.match import Match
from rewrite_engine.matching.matcher import match_at
from rewrite_engine.matching.program import Program, RuleProgram
from rewrite_engine.matching.worklist import Change, Worklist
from rewrite_engine.report import RefusalReport, Report, RuleReport
from rewrite_engine.rewriting.aliases import AliasIndex
from rewrite_engine.rewriting.annotations import may_name_nodes, retarget
from rewrite_engine.rewriting.build import Built, build
from rewrite_engine.rewriting.equal_matches import EqualMatches, Place, Subject
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
        self._tallies: dict[int, _Tally] = defaultdict(_Tally)
        self._order: list[str] = []
        self._fired: set[tuple[int, fx.Node]] = set()
        self._size = len(self.graph.nodes)
        self._most_rewrites = limits.rewrites + limits.rewrites_per_node * self._size
        self._most_nodes = limits.growth * max(self._size, 16)
        self._is_logged = _log.isEnabledFor(logging.DEBUG)

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
            change = self._visit(node, rules, first=first)
            if change is not None:
                worklist.add(change)

    def _visit(
        self, node: fx.Node, rules: Iterable[RuleProgram], *, first: bool
    ) -> Change | None:
        """Try rules at a node, until one of them rewrites it."""
        if node in self.transaction.detached:
            return None
        for rule in rules:
            if rule.rule.once and not self._is_new_site(rule, node, first=first):
                continue
            change = self._try(rule, node)
            if change is not None:
                if rule.rule.once and node not in self.transaction.detached:
                    self._fired.add((id(rule), node))
                return change
        return None

    def _is_new_site(self, rule: RuleProgram, node: fx.Node, *, first: bool) -> bool:
        """Whether a `once` rule may still be applied: a node of the graph as given."""
        is_given = first and node not in self.transaction.created
        return is_given and (id(rule), node) not in self._fired

    # --- one place ---

    def _try(self, rule: RuleProgram, node: fx.Node) -> Change | None:
        tally = self._tallies[id(rule)]
        tally.candidates += 1
        start = time.perf_counter()
        place = self._known.find(rule.rule, node)
        change = None if place is None else self._repeat(place)
        if change is None:
            change, reason = self._search(rule, node, place)
        tally.seconds += time.perf_counter() - start
        if change is None:
            self._note(tally, node, reason)
            return None
        tally.matches += 1
        tally.refusals.pop(node, None)
        self._order.append(rule.rule.name)
        if self._is_logged:
            _log.debug("%s rewrites %s", rule.rule.name, node)
        self._check_limits()
        return change

    def _repeat(self, place: Place) -> Change | None:
        """Rewrite what is known to be there, if that is plain and nobody looks on."""
        how = place.known.plain
        if how is None or not self._is_plain:
            return None
        return how.rewrite(place.outline.nodes, self._known.store, self._removal)

    def _search(
        self, rule: RuleProgram, node: fx.Node, place: Place | None
    ) -> tuple[Change | None, str | None]:
        """Rewrite the first match at a node that can be, or say why none can."""
        done: list[Change] = []
        refusals: list[str | None] = []
        if place is not None:
            subject = place.subject()
            refusals.append(self._judge(subject.match, subject, done))
        if done:
            return done[0], None
        # The search finds this match again, and others after it.
        first = iter(refusals)

        def judge(match: Match) -> str | None:
            return next(first, None) or self._judge(match, None, done)

        outcome = match_at(rule, node, self._state.facts, judge)
        return done[0] if done else None, outcome.reason

    def _judge(
        self, match: Match, subject: Subject | None, done: list[Change]
    ) -> str | None:
        reason = None if self._guard is None else self._guard(match)
        return reason or self._attempt(match, subject, done)

    def _attempt(
        self, match: Match, subject: Subject | None, done: list[Change]
    ) -> str | None:
        """Rewrite a match, or say why not and leave it as it was."""
        mark = self.transaction.mark()
        try:
            done.append(self._rewrite(match, subject))
        except (Refused, ValueInferenceError) as refusal:
            self._take_back(mark)
            return str(refusal)
        if self._watch is not None:
            self.transaction.settle_output()
            self._watch.rewritten(match)
        return None

    def _take_back(self, mark: int) -> None:
        created, detached = self.transaction.since(mark)
        for node in created:
            self._aliases.discard(node)
        self.transaction.rollback(mark)
        for node in detached:
            self._aliases.add(node)

    def _note(self, tally: _Tally, node: fx.Node, reason: str | None) -> None:
        if reason is not None:
            _log.debug("refused at %s: %s", node, reason)
            tally.refusals[node] = reason

    def _rewrite(self, match: Match, subject: Subject | None) -> Change:
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
        moved = self._replace(match, built)
        if moves is not None:
            self._moves.update(moves)
        return Change(built.created, moved)

    def _make(self, subject: Subject, before: fx.Node) -> Built:
        """The new nodes, whose types and effects are those of what they replace."""
        match = subject.match
        built = self._known.repeat(subject, before)
        if built is not None:
            self._removal.check_constants(match, built)
            return built
        built = build(match, before, self._known.store)
        for old, new in built.replaced.items():
            reason = compatible(old, new)
            if reason is not None:
                raise Refused(f"the replacement of '{old}' does not fit: {reason}")
        self._removal.check_constants(match, built)
        self._removal.check_effects(match, built)
        self._known.learn(subject, built, self._aliases)
        return built

    def _replace(
        self, match: Match, built: Built
    ) -> Mapping[fx.Node, Sequence[fx.Node]]:
        """Put new values in the place of old ones; says who reads them."""
        moved: dict[fx.Node, list[fx.Node]] = {}
        for old, new in built.replaced.items():
            moved.setdefault(new, []).extend(old.users)
            self.transaction.replace_uses(old, new)
            self._state.signatures.replaced(self.transaction, old, new)
            self._aliases.unite(old, new)
        self._removal.remove(match, built)
        self._state.readers.add(built.created)
        return moved

    @cached_property
    def _is_plain(self) -> bool:
        """Whether nobody judges or watches matches, or has named nodes of the graph."""
        is_named = self._is_annotated or bool(self._state.signatures.modules)
        return self._guard is None and self._watch is None and not is_named

    @cached_property
    def _is_annotated(self) -> bool:
        return any(map(may_name_nodes, self.graph.nodes))

    @cached_property
    def _aliases(self) -> AliasIndex:
        facts = self._state.facts
        return AliasIndex.of(self.graph, self.module, facts.lifted, facts.mutated)

    @cached_property
    def _removal(self) -> Removal:
        return Removal(self.transaction, self._aliases, self._state.facts)

    # --- limits ---

    def _check_limits(self) -> None:
        if len(self._order) > self._most_rewrites:
            raise RewriteError(
                f"more than {self._most_rewrites} rewrites: {self._recent()}"
            )
        edits = self.transaction
        live = self._size + len(edits.created) - len(edits.detached)
        if live > self._most_nodes:
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
        tallied = ((r.rule.name, self._tallies.get(id(r))) for r in self._program.rules)
        rules = (RuleReport(n) if t is None else t.report(n, gone) for n, t in tallied)
        return Report(tuple(rules), seconds)
