"""The table of a run in a terminal or a file."""

from __future__ import annotations

import io

from rich.console import Console

from rewrite_engine.commands.report_table import print_report
from rewrite_engine.report import RefusalReport, RuleReport


def printed(rules: list[RuleReport]) -> list[str]:
    out = Console(file=io.StringIO(), width=80)
    print_report(rules, out)
    lines = out.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return [line.strip() for line in lines if line.strip()]


def idle(count: int) -> list[RuleReport]:
    return [RuleReport(f"idle{i}", 0, 0, (), 0.0) for i in range(count)]


REFUSED = RuleReport("tried", 2, 0, (RefusalReport("tried", "mul", "why"),), 0.001)


def test_each_of_some_rules_has_a_row() -> None:
    head, _, *rows = printed([*idle(2), REFUSED])
    assert head.split() == ["rule", "candidates", "matches", "refusals", "ms"]
    assert [row.split()[:3] for row in rows[:3]] == [
        ["idle0", "0", "0"],
        ["idle1", "0", "0"],
        ["tried", "2", "0"],
    ]
    assert rows[3:] == ["refused tried at mul: why"]


def test_of_many_rules_those_that_were_tried_nowhere_are_counted() -> None:
    _, _, *rows = printed([*idle(1200), REFUSED, *idle(34)])
    assert rows[0].split() == ["tried", "2", "0", "1", "1.0"]
    assert rows[1:] == [
        "1,234 rules without a candidate",
        "refused tried at mul: why",
    ]
