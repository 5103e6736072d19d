"""What one run of a rule set did: values, and their text."""

from __future__ import annotations

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
    candidates: int
    matches: int
    refusals: tuple[RefusalReport, ...]
    seconds: float


@attrs.frozen
class Report:
    """A run of a rule set; `seconds` includes the commit and the recompilation."""

    rules: tuple[RuleReport, ...]
    seconds: float

    @property
    def matches(self) -> int:
        """Rewrites of all rules."""
        return sum(rule.matches for rule in self.rules)

    @property
    def refusals(self) -> tuple[RefusalReport, ...]:
        return tuple(refusal for rule in self.rules for refusal in rule.refusals)

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
