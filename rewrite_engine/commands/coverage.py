"""`coverage`: what of a rule set a corpus of models exercises."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rewrite_engine.commands import console
from rewrite_engine.commands.libraries import rule_path
from rewrite_engine.commands.options import add_trust_pickle
from rewrite_engine.commands.outcome import DONE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.export import ExportedProgram

    from rewrite_engine.commands import Subparsers
    from rewrite_engine.explaining.coverage import RuleCoverage


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "coverage", help="show what of the rules a corpus of models exercises"
    )
    parser.add_argument("rules", metavar="RULES", help="library, or path")
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.pt2")
    add_trust_pickle(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print counts a rule, and what no model takes; the models are only read."""
    path = rule_path(arguments.rules)
    from rewrite_engine import engine
    from rewrite_engine.explaining.coverage import coverage

    rules = engine.load(path)
    with console.errors().status("looking for matches"):
        found = coverage(rules.program, rules, _models(arguments))
    _print(found, len(arguments.models))
    return DONE


def _models(arguments: argparse.Namespace) -> Iterator[ExportedProgram]:
    from rewrite_engine.model_files import load_program

    for path in arguments.models:
        yield load_program(path, trust_pickle=arguments.trust_pickle)


def _print(found: tuple[RuleCoverage, ...], models: int) -> None:
    table = console.table_of("rule", "rewrites", "refusals", "parts taken")
    for rule in found:
        taken = f"{len(rule.taken) - len(rule.never)} of {len(rule.taken)}"
        counts = (str(rule.matches), str(rule.refused), taken)
        table.add_row(rule.rule.name, *counts, style="" if rule.matches else "dim")
    out = console.output()
    out.print(f"{console.counted(models, 'model')}\n")
    console.print_table(table, out)
    for rule in found:
        if rule.never:
            out.print(f"\nnever in {rule.rule.name}:")
        for part in rule.never:
            out.print(f"  {part}")
