"""One `apply` from start to end: every graph of a model, committed together or not."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Literal, TypeAlias

import attrs
import torch
from torch import fx
from torch.export import ExportedProgram

from rewrite_engine.collector import paused_gc
from rewrite_engine.graph_text import Model
from rewrite_engine.matching.machine import Judge
from rewrite_engine.matching.match import Match
from rewrite_engine.matching.matcher import candidates, match_at
from rewrite_engine.matching.program import Program
from rewrite_engine.report import Report, RuleReport
from rewrite_engine.rewriting.aliases import AliasIndex
from rewrite_engine.rewriting.driver import Driver, Limits, Watch
from rewrite_engine.rewriting.lazy_code import (
    GENERATED,
    recompile_now,
    recompile_when_needed,
)
from rewrite_engine.rewriting.module_state import ModuleState
from rewrite_engine.rewriting.program_state import ProgramState
from rewrite_engine.rewriting.safety import Refused, find_site
from rewrite_engine.rewriting.state import State
from rewrite_engine.rewriting.transaction import Transaction
from rewrite_engine.rewriting.turns import TURN

_log = logging.getLogger(__name__)

Recompile: TypeAlias = Literal["eager", "lazy"]
"""When a changed module gets its code: at once, or when it is first needed."""
Watcher: TypeAlias = Callable[[State], Watch]
"""Makes what sees the rewrites of one graph."""


@attrs.frozen(eq=False)
class Result:
    """What `apply` returns; unpacks like torch.fx's `PassResult`.

    `graph_module` is the module given, or the exported program's, changed in place.
    """

    graph_module: fx.GraphModule
    modified: bool
    report: Report
    exported_program: ExportedProgram | None = None

    def __iter__(self) -> Iterator[object]:
        return iter((self.graph_module, self.modified))


def run(
    programs: Sequence[Program],
    model: Model,
    *,
    recurse: bool,
    guard: Judge | None,
    limits: Limits,
    watch: Watcher | None = None,
    recompile: Recompile = "eager",
) -> Result:
    """Apply programs to a model in place, one after the other, all or none.

    Raises: TypeError if it is no model; RewriteError if a limit is reached. Whatever is
    raised, the model is as it was. `watch` makes a watch for each graph.
    """

    def drivers(program: Program) -> list[Driver]:
        found = states(model, recurse)
        return [
            Driver(program, s, guard, limits, watch(s) if watch else None)
            for s in found
        ]

    # Tensors made in inference mode could never train. What only the run needs is gone
    # before the collector looks at what is new.
    with TURN, torch.inference_mode(False), paused_gc():
        return _run(model, map(drivers, programs), recompile)


def _run(model: Model, phases: Iterable[list[Driver]], recompile: Recompile) -> Result:
    start = time.perf_counter()
    transactions: list[Transaction] = []
    reports: list[Report] = []
    modified: dict[fx.GraphModule, None] = {}
    with _all_or_nothing(transactions):
        for drivers in phases:
            transactions += [driver.transaction for driver in drivers]
            for driver in drivers:
                driver.run()
            for driver in drivers:
                driver.commit()
                if driver.modified:
                    modified[driver.module] = None
            reports += [driver.report(0.0) for driver in drivers]
        for module in modified:
            # The last to be undone first: code is made of the final graph.
            _recompile(module, transactions[-1], recompile)
        # Whatever may fail, or be interrupted, happens before the edits are final.
        seconds = time.perf_counter() - start
        report = attrs.evolve(_joined(reports), seconds=seconds)
        _log.info("%d rewrites in %.1f ms\n%s", report.matches, seconds * 1000, report)
        exported = model if isinstance(model, ExportedProgram) else None
        return Result(drivers[0].module, bool(modified), report, exported)


def find(program: Program, model: Model, *, recurse: bool) -> tuple[Match, ...]:
    """Every match that may be rewritten, in graph order; nothing is changed."""
    with TURN:
        return tuple(m for s in states(model, recurse) for m in _matches(program, s))


def states(model: Model, recurse: bool) -> list[State]:
    """The graphs of a model, the outermost first, each with its constants."""
    outermost: State
    if isinstance(model, ExportedProgram):
        outermost = ProgramState.of(model)
    elif isinstance(model, fx.GraphModule):
        outermost = ModuleState.of(model)
    else:
        raise TypeError(
            f"expected a torch.fx.GraphModule or an ExportedProgram, "
            f"got {type(model).__name__} (torch.export.export gives a program, "
            f"torch.fx.symbolic_trace a GraphModule)"
        )
    inner = _nested(outermost.facts.module) if recurse else []
    exported = isinstance(model, ExportedProgram)
    return [
        outermost,
        *(ModuleState.of(m, outermost.readers, is_exported=exported) for m in inner),
    ]


def _nested(module: fx.GraphModule) -> list[fx.GraphModule]:
    modules = (m for m in module.modules() if m is not module)
    return [m for m in modules if isinstance(m, fx.GraphModule)]


def _matches(program: Program, state: State) -> Iterator[Match]:
    facts = state.facts

    @cache
    def aliases() -> AliasIndex:
        return AliasIndex.of(facts.module.graph, facts.module, facts.lifted)

    def judge(match: Match) -> str | None:
        try:
            find_site(match, aliases(), state.signatures)
        except Refused as refusal:
            return str(refusal)
        return None

    for node, rules in candidates(program, facts):
        for rule in rules:
            outcome = match_at(rule, node, facts, judge)
            if outcome.match is not None:
                yield outcome.match


@contextmanager
def _all_or_nothing(transactions: Sequence[Transaction]) -> Iterator[None]:
    try:
        yield
        journals = [transaction.journal for transaction in transactions]
    except BaseException:
        for transaction in reversed(transactions):
            transaction.rollback()
        raise
    # Entries may refer to the transaction that holds them: a cycle of garbage. Nothing
    # can be taken back from here on, and all is done.
    for journal in journals:
        journal.clear()


def _recompile(
    module: fx.GraphModule, transaction: Transaction, when: Recompile
) -> None:
    kind = type(module)
    code = {key: module.__dict__[key] for key in GENERATED if key in module.__dict__}
    forward = kind.__dict__.get("forward")

    def undo() -> None:
        module.__dict__.update(code)
        if forward is not None:
            kind.forward = forward

    transaction.record(undo)
    if when == "lazy":
        recompile_when_needed(module)
    else:
        recompile_now(module)


def _joined(reports: Sequence[Report]) -> Report:
    """One report of several graphs and phases; a rule has one line."""
    by_name: dict[str, list[RuleReport]] = {}
    for report in reports:
        for rule in report.rules:
            by_name.setdefault(rule.name, []).append(rule)
    return Report(tuple(map(_sum, by_name.values())), 0.0)


def _sum(reports: Sequence[RuleReport]) -> RuleReport:
    if len(reports) == 1:
        return reports[0]
    return RuleReport(
        reports[0].name,
        sum(report.candidates for report in reports),
        sum(report.matches for report in reports),
        tuple(refusal for report in reports for refusal in report.refusals),
        sum(report.seconds for report in reports),
    )
