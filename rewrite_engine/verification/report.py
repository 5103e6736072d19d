"""What verification found, rule by rule, and its text."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from rewrite_engine.errors import Diagnostic


@attrs.frozen
class GuardCoverage:
    """One guard: the answers it gave, and whether a check fails without it.

    `matters` is None if that was not tried.
    """

    text: str
    answers: frozenset[bool]
    matters: bool | None = None


@attrs.frozen
class RuleVerification:
    """One rule: how many of its instances ran, and what came of all trials.

    `trials` are applications of the rule; it fired in `fired` of them, and each of
    those was compared on several kinds of values. In `unsuitable` more the left side
    itself did not run. `programs` reproduce the counterexamples.
    """

    name: str
    instances: int
    instances_run: int
    trials: int
    fired: int
    unsuitable: int
    alternatives: int
    """The ways in which the rule can match: operators of its family, alternatives,
    options there or not, shorter and longer chains."""
    alternatives_taken: int
    """Those that were taken where it fired."""
    compared: int
    """Trials in which results were compared, and not only computed."""
    guards: tuple[GuardCoverage, ...]
    diagnostics: tuple[Diagnostic, ...]
    programs: tuple[str, ...] = ()

    @property
    def both_ways(self) -> int:
        """The guards that were decided both ways."""
        return sum(len(guard.answers) == 2 for guard in self.guards)


@attrs.frozen
class Verification:
    """A verified rule set; true if no rule has a counterexample."""

    rules: tuple[RuleVerification, ...]
    seconds: float

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """The findings about all rules, in source order."""
        return tuple(d for rule in self.rules for d in rule.diagnostics)

    @property
    def passed(self) -> bool:
        """Whether no two sides differ; warnings do not count."""
        return not any(d.is_error for d in self.diagnostics)

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        rows = [("rule", *COLUMNS), *((r.name, *cells(r).values()) for r in self.rules)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        found = [d.render() for d in self.diagnostics]
        programs = [p for rule in self.rules for p in rule.programs]
        return "\n".join(["\n".join(table), *found, *programs])


COLUMNS = (
    "instances",
    "alternatives",
    "trials",
    "fired",
    "compared",
    "guards both ways",
    "result",
)


def cells(rule: RuleVerification) -> Mapping[str, str]:
    """The row of a rule in a table, by column."""
    wrong = any(d.is_error for d in rule.diagnostics)
    values = (
        f"{rule.instances_run}/{rule.instances}",
        f"{rule.alternatives_taken}/{rule.alternatives}",
        str(rule.trials),
        str(rule.fired),
        str(rule.compared),
        f"{rule.both_ways}/{len(rule.guards)}",
        "WRONG" if wrong else "warnings" if rule.diagnostics else "ok",
    )
    return dict(zip(COLUMNS, values, strict=True))
