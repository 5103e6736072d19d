"""`test`: run the `test` blocks of rule files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from rewrite_engine.commands import console
from rewrite_engine.commands.libraries import rule_path
from rewrite_engine.commands.outcome import DONE, FINDINGS

if TYPE_CHECKING:
    from rewrite_engine.commands import Subparsers
    from rewrite_engine.rule_tests import TestOutcome


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser("test", help="run the test blocks of rule files")
    parser.add_argument("files", nargs="+", metavar="FILE", help="path, or library")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the tests of files; FINDINGS if one fails."""
    paths = [rule_path(name) for name in arguments.files]
    from rewrite_engine import engine
    from rewrite_engine.rule_tests import own_tests, run_test

    outcomes: list[TestOutcome] = []
    for path in paths:
        rules = engine.load(path)
        found = [run_test(test, rules) for test in own_tests(rules, path)]
        _print_outcomes(str(path), found)
        outcomes += found
    failed = sum(not outcome.passed for outcome in outcomes)
    passed = console.counted(len(outcomes) - failed, "test")
    console.output().print(f"{passed} passed, {failed} failed")
    return FINDINGS if failed else DONE


def _print_outcomes(path: str, outcomes: Sequence[TestOutcome]) -> None:
    out = console.output()
    out.print(path if outcomes else f"{path}: no tests")
    for outcome in outcomes:
        mark = ("passed", "green") if outcome.passed else ("FAILED", "bold red")
        out.print(Text.assemble("  ", mark, f"  {outcome.title}"))
        if not outcome.passed:
            out.print(f"          {outcome.place}: {outcome.message}")
    out.print()
