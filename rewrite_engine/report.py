"""What one run of a rule set did: values, and their text."""

from __future__ import annotations

from typing import Any, Protocol

import attrs


@attrs.frozen
class RefusalReport:
    """A place that has a rule's structure and was left alone, and why."""

    rule: str
    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.rule} at {self.node}: {self.reason}"


@attrs.frozen
class RuleReport:
    """One rule's share of a run; `seconds` covers its matching and rewriting."""

    name: str
    candidates: int = 0
    matches: int = 0
    refusals: tuple[RefusalReport, ...] = ()
    seconds: float = 0.0


class Record(Protocol):
    """What a run that was recorded did, node by node."""

    def html(self, report: Report) -> str:
        """One self-contained page."""

    def trace(self, report: Report) -> dict[str, Any]:
        """Every rewrite in order, as JSON values."""


@attrs.frozen
class Report:
    """A run of a rule set; `seconds` includes the commit and the recompilation.

    `record` is there if `apply` was asked to record.
    """

    rules: tuple[RuleReport, ...]
    seconds: float
    record: Record | None = attrs.field(default=None, eq=False, repr=False)

    @property
    def matches(self) -> int:
        """Rewrites of all rules."""
        return sum(rule.matches for rule in self.rules)

    @property
    def refusals(self) -> tuple[RefusalReport, ...]:
        return tuple(refusal for rule in self.rules for refusal in rule.refusals)

    def to_html(self) -> str:
        """The run as one HTML page that refers to nothing outside itself.

        Raises: ValueError, if the run was not recorded.
        """
        return self._recorded.html(self)

    def trace(self) -> dict[str, Any]:
        """The run as JSON values: counts by rule, rewrites in order, refusals.

        Raises: ValueError, if the run was not recorded.
        """
        return self._recorded.trace(self)

    @property
    def _recorded(self) -> Record:
        if self.record is None:
            raise ValueError("nothing was recorded: `apply(..., record=True)` does")
        return self.record

    def __str__(self) -> str:
        rows = [("rule", "candidates", "matches", "refused", "ms")]
        rows += [_row(rule) for rule in self.rules]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([*lines, *(f"refused: {r}" for r in self.refusals)])


def _row(rule: RuleReport) -> tuple[str, str, str, str, str]:
    milliseconds = f"{rule.seconds * 1000:.1f}"
    counts = rule.candidates, rule.matches, len(rule.refusals)
    candidates, matches, refused = map(str, counts)
    return rule.name, candidates, matches, refused, milliseconds
