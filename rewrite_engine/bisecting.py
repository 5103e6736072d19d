"""Finds the first rewrite of a run that breaks something, by running less of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from rewrite_engine.errors import RewriteError
from rewrite_engine.graph_text import Model
from rewrite_engine.matching.match import Match
from rewrite_engine.report import Report, RuleReport
from rewrite_engine.rewriting.build import Built
from rewrite_engine.rewriting.run import Result
from rewrite_engine.rewriting.state import State
from rewrite_engine.ruleset import RuleSet

BEYOND = "beyond the limit on rewrites"
"""Why a limited run refuses the rest."""


@attrs.define(eq=False)
class FirstRewrites:
    """Lets the first `limit` rewrites of one or several runs happen, and no others."""

    limit: int
    made: list[tuple[str, str]] = attrs.field(factory=list)
    """The rewrites so far: rule, and node."""

    def apply(self, model: Model, rules: RuleSet, **options: Any) -> Result:
        """`RuleSet.apply`, ended where the limit is reached."""
        result = rules.apply(model, guard=self, watch=self.watch, **options)
        return attrs.evolve(result, report=_without_the_rest(result.report))

    def __call__(self, match: Match) -> str | None:
        return BEYOND if len(self.made) >= self.limit else None

    def watch(self, state: State) -> FirstRewrites:
        """Sees the rewrites of every graph."""
        return self

    def replacing(self, match: Match, built: Built) -> None:
        """Only what is done counts."""

    def rewritten(self, match: Match) -> None:
        self.made.append((match.rule.name, match.anchor.name))


def first_failure(total: int, passes: Callable[[int], bool]) -> int:
    """The smallest number of rewrites, from 1 to `total`, with which a check fails.

    Raises: RewriteError, if it fails without any, or passes with all.
    """
    if not passes(0):
        raise RewriteError("the check fails on the model as it is, without a rewrite")
    if passes(total):
        raise RewriteError(f"the check passes with all {total} rewrites")
    good, bad = 0, total
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if passes(middle) else (good, middle)
    return bad


def _without_the_rest(report: Report) -> Report:
    rules = tuple(map(_refused_for_a_reason, report.rules))
    return attrs.evolve(report, rules=rules)


def _refused_for_a_reason(rule: RuleReport) -> RuleReport:
    refusals = tuple(r for r in rule.refusals if r.reason != BEYOND)
    return attrs.evolve(rule, refusals=refusals)
