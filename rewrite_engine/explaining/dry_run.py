"""What the engine itself would do: a run that is taken back."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from torch import fx

from rewrite_engine.collector import paused_gc
from rewrite_engine.errors import RewriteError
from rewrite_engine.matching.match import Match
from rewrite_engine.matching.program import Program
from rewrite_engine.rewriting.build import Built
from rewrite_engine.rewriting.driver import Driver, Limits
from rewrite_engine.rewriting.state import State

Visit = tuple[str, fx.Node]
"""A rule's name and the node at which it was tried."""


@attrs.define(eq=False)
class DryRun:
    """What a run rewrites and refuses, by rule and anchor; `stopped` says why it would
    be given up. Nodes that only the run made are left out.
    """

    rewritten: dict[Visit, Match] = attrs.field(factory=dict)
    consumed: dict[fx.Node, str] = attrs.field(factory=dict)
    """The first rule that rewrote a match with this node in it."""
    refused: Mapping[Visit, str] = attrs.field(factory=dict)
    stopped: str | None = None

    def rewrote(self, match: Match) -> None:
        self.rewritten.setdefault((match.rule.name, match.anchor), match)
        for call in match.calls:
            self.consumed.setdefault(call, match.rule.name)


@attrs.frozen(eq=False)
class _Recorder:
    run: DryRun

    def replacing(self, match: Match, built: Built) -> None:
        """The match is looked at once it is rewritten."""

    def rewritten(self, match: Match) -> None:
        self.run.rewrote(match)


def dry_run(program: Program, state: State) -> DryRun:
    """Run a program and take everything back; the graph is as it was."""
    found = DryRun()
    with paused_gc():
        driver = Driver(program, state, None, Limits(), _Recorder(found))
        try:
            driver.run()
        except RewriteError as error:
            found.stopped = str(error)
        finally:
            report = driver.report(0.0)
            driver.rollback()
    by_name = {node.name: node for node in state.facts.module.graph.nodes}
    found.refused = {
        (refusal.rule, by_name[refusal.node]): refusal.reason
        for refusal in report.refusals
        if refusal.node in by_name
    }
    return found
