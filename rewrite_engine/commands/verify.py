"""`verify`: run every instance of every rule of rule files, before and after."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rewrite_engine.commands import console
from rewrite_engine.commands.libraries import rule_path
from rewrite_engine.commands.outcome import DONE, FINDINGS

if TYPE_CHECKING:
    from rich.console import Console

    from rewrite_engine.commands import Subparsers
    from rewrite_engine.verification.report import Verification


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser("verify", help="run every instance of every rule")
    parser.add_argument("files", nargs="+", metavar="FILE", help="path, or library")
    text = "variations tried for each rule, beside all of its instances"
    parser.add_argument("--trials", type=_natural, default=200, metavar="N", help=text)
    text = "run at most so many instances of a rule; by default all"
    parser.add_argument("--instances", type=_natural, metavar="N", help=text)
    parser.add_argument(
        "--seed", type=_natural, default=0, metavar="N", help="of the random values"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Verify files; FINDINGS if two sides of a rule differ."""
    paths = [rule_path(name) for name in arguments.files]
    from rewrite_engine import engine

    out = console.output()
    passed = True
    for path in paths:
        rules = engine.load(path)
        found = engine.verify(
            rules,
            trials=arguments.trials,
            most_instances=arguments.instances,
            seed=arguments.seed,
        )
        out.print(str(path))
        _print(found, out)
        passed = passed and found.passed
    return DONE if passed else FINDINGS


def _natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def _print(found: Verification, out: Console) -> None:
    from rewrite_engine.verification.report import COLUMNS, cells

    table = console.table_of("rule", *COLUMNS)
    for rule in found.rules:
        table.add_row(rule.name, *cells(rule).values())
    console.print_table(table, out)
    out.print()
    for diagnostic in found.diagnostics:
        out.print(console.diagnostic_text(diagnostic), end="\n\n")
    for rule in found.rules:
        for program in rule.programs:
            out.print(program)
    trials = console.counted(sum(rule.trials for rule in found.rules), "trial")
    out.print(f"{trials} in {found.seconds:.1f} s")
