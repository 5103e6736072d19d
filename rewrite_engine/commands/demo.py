"""`demo`: fuse a small model and show what happened."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rewrite_engine.commands import console
from rewrite_engine.commands.outcome import DONE
from rewrite_engine.commands.report_table import print_report

if TYPE_CHECKING:
    from rewrite_engine.commands import Subparsers
    from rewrite_engine.demo import Demo, Differences


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser("demo", help="fuse a small model, built on the spot")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the demonstration and print it."""
    with console.errors().status("building and exporting a model"):
        from rewrite_engine.demo import run_demo

        demo = run_demo()
    out = console.output()
    _print_run(demo, out)
    _print_differences(demo.differences, out)
    _print_match(demo, out)
    return DONE


def _print_run(demo: Demo, out: Console) -> None:
    out.print(Text("qat_fuse", "bold"), end=" ")
    out.print("on a model like MobileNet, in training mode, exported with torch.export")
    print_report(demo.report.rules, out)
    matches = console.counted(demo.report.matches, "rewrite")
    milliseconds = demo.report.seconds * 1000
    counts = f"{demo.nodes_before} nodes before, {demo.nodes_after} after"
    out.print(f"{matches} in {milliseconds:.0f} ms; {counts}")


def _print_differences(differences: Differences, out: Console) -> None:
    console.print_heading(
        "largest difference to the original after one training step", out
    )
    table = Table.grid(padding=(0, 2))
    table.add_row("outputs", f"{differences.outputs:.1e}")
    table.add_row("gradients", f"{differences.gradients:.1e}")
    table.add_row("running statistics", f"{differences.statistics:.1e}")
    out.print(table)
    out.print("relative to the largest magnitude", style="dim")


def _print_match(demo: Demo, out: Console) -> None:
    console.print_heading("one match, before", out)
    _print_lines(demo.before, "red", out)
    console.print_heading("and after", out)
    _print_lines(demo.after, "green", out)


def _print_lines(lines: tuple[str, ...], style: str, out: Console) -> None:
    for line in lines:
        name, _, rest = line.partition(":")
        text = Text.assemble((name, style), ":", rest)
        parts = text.wrap(out, out.width - 4)
        for number, part in enumerate(parts):
            part.rstrip()
            indent = (0, 0, 0, 4 if number else 0)
            out.print(Padding(part, indent, expand=False), soft_wrap=False)
