"""Reports of runs as a table, with the reasons of refusals below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.text import Text

from rewrite_engine.commands import console
from rewrite_engine.report import RuleReport

_MOST_ROWS: Final = 50
"""Of which each has its own, whatever it did."""


def print_report(rules: Sequence[RuleReport], out: Console) -> None:
    """A row a rule, what it tried, did and left alone; then every reason.

    Of very many rules, those that were tried nowhere are only counted.
    """
    tried = [rule for rule in rules if rule.candidates]
    shown = rules if len(rules) <= _MOST_ROWS else tried
    table = console.table_of("rule", "candidates", "matches", "refusals", "ms")
    for rule in shown:
        table.add_row(*_row(rule), style="" if rule.candidates else "dim")
    out.print()
    console.print_table(table, out)
    if len(shown) < len(rules):
        others = console.counted(len(rules) - len(shown), "rule")
        out.print(f"{others} without a candidate", style="dim")
    out.print()
    for refusal in (refusal for rule in rules for refusal in rule.refusals):
        out.print(Text.assemble(("refused ", "yellow"), str(refusal)))


def _row(rule: RuleReport) -> tuple[str, ...]:
    counts = (rule.candidates, rule.matches, len(rule.refusals))
    return rule.name, *map(str, counts), f"{rule.seconds * 1000:.1f}"
