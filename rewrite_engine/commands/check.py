"""`check`: every finding about rule files."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rewrite_engine.commands import console
from rewrite_engine.commands.libraries import rule_path
from rewrite_engine.commands.outcome import DONE, FINDINGS
from rewrite_engine.dsl import loader
from rewrite_engine.dsl.catalog import checking_catalog

if TYPE_CHECKING:
    from rewrite_engine.commands import Subparsers


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser("check", help="print every finding about rule files")
    parser.add_argument("files", nargs="+", metavar="FILE", help="path, or library")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check files; FINDINGS if any holds an error."""
    paths = [rule_path(name) for name in arguments.files]
    # A file that several of them use is reported once.
    found = list(
        dict.fromkeys(
            finding
            for path in paths
            for finding in loader.check_file(path, checking_catalog())
        )
    )
    out = console.output()
    for diagnostic in found:
        out.print(console.diagnostic_text(diagnostic), end="\n\n")
    mistakes = sum(diagnostic.is_error for diagnostic in found)
    out.print(_summary(len(paths), mistakes, len(found) - mistakes))
    return FINDINGS if mistakes else DONE


def _summary(files: int, mistakes: int, warnings: int) -> str:
    counts = ((mistakes, "error"), (warnings, "warning"))
    found = [console.counted(number, noun) for number, noun in counts if number]
    return (
        f"{console.counted(files, 'file')} checked: {', '.join(found) or 'no findings'}"
    )
