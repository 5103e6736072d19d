"""The reliability figures, measured and printed:

    python -m tests.reliability           # with the numbers of continuous integration
    python -m tests.reliability --long    # with the full numbers
    python -m tests.reliability --long -n 2 -k "R6 or R14"    # options of pytest

A test with the mark `figure("R1")` shows figure R1. What it did is counted with the
fixture `measured`: amounts of one name are added up over all tests; of amounts called
`most_...` and `fewest_...`, the largest and the smallest are kept.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs
import pytest

PROPERTIES: Final[Mapping[str, str]] = {
    "R1": "planted rules in random graphs: the results are equal",
    "R2": "tolerances: exact bit by bit, else a few last digits",
    "R3": "changes of no meaning change no number of rewrites",
    "R4": "a second application changes nothing",
    "R5": "every limit stops a run, loops are named",
    "R6": "the same as R1, with writes, views and random calls",
    "R8": "a failure at any step leaves everything as it was",
    "R9": "after each rewrite: lint, recorded values, `modified`",
    "R10": "malformed rule files are refused with a position",
    "R11": "rule files run, open and import nothing",
    "R12": "one rule set in many threads",
    "R13": "long, wide and deep graphs",
    "R14": "tied, viewed, written and shared constants are never written",
    "R17": "rewritten models are copied, saved, lowered and compiled",
    "R18": "the same text, code and report for every hash seed",
}


@attrs.define
class Row:
    """What the tests of one figure did."""

    passed: int = 0
    failed: int = 0
    amounts: dict[str, float] = attrs.field(factory=dict)

    def add(self, amounts: Mapping[str, float]) -> None:
        for name, value in amounts.items():
            combine = {"most": max, "fewest": min}.get(name.partition("_")[0], _sum)
            known = self.amounts.get(name)
            self.amounts[name] = value if known is None else combine(known, value)

    def __str__(self) -> str:
        counted = [_said(name, value) for name, value in self.amounts.items()]
        tests = f"{self.passed} tests passed"
        failed = [f"{self.failed} FAILED"] if self.failed else []
        return ", ".join([*failed, *counted, tests])


def _sum(one: float, other: float) -> float:
    return one + other


def _said(name: str, value: float) -> str:
    words = name.replace("_", " ")
    number = f"{value:,}" if isinstance(value, int) else f"{value:.2g}"
    return (
        f"{words} {number}"
        if words.startswith(("most", "fewest"))
        else (f"{number} {words}")
    )


class Figures:
    """A pytest plugin that gathers what tests measured, also from other processes."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = defaultdict(Row)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and not report.failed:
            return
        for name, value in report.user_properties:
            if name == "figures":
                self._count(value, report.failed)
            elif name in PROPERTIES:
                self.rows[name].add(value)  # type: ignore[arg-type]

    def _count(self, names: Any, failed: bool) -> None:
        for name in names:
            self.rows[name].passed += not failed
            self.rows[name].failed += failed

    def table(self) -> Iterable[str]:
        yield "| | property | measured |"
        yield "|---|---|---|"
        for name, text in PROPERTIES.items():
            yield f"| {name} | {text} | {self.rows.get(name, 'NOT MEASURED')} |"


def main(arguments: list[str]) -> int:
    is_long = "--long" in arguments
    options = [each for each in arguments if each != "--long"]
    selected = "figure" if is_long else "figure and not long"
    figures = Figures()
    status = pytest.main(["-q", "-m", selected, "tests", *options], [figures])
    print("\n".join(figures.table()))
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
