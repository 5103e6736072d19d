"""`explain-code`: the page about a diagnostic's code."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rewrite_engine.commands import console
from rewrite_engine.commands.outcome import DONE, UsageError
from rewrite_engine.dsl.codes import codes, explain

if TYPE_CHECKING:
    from rewrite_engine.commands import Subparsers


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "explain-code", help="explain the code of a finding, such as E201"
    )
    parser.add_argument("code", nargs="?", metavar="CODE", help="by default all codes")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the page of one code, or a line about each."""
    out = console.output()
    if arguments.code is None:
        width = max(len(code.name) for code in codes().values())
        for code in codes().values():
            out.print(f"{code.code}  {code.name:{width}}  {code.summary}")
        return DONE
    page = explain(arguments.code.upper())
    if page is None:
        raise UsageError(
            f"there is no code {arguments.code}; `explain-code` alone lists all"
        )
    out.print(page)
    return DONE
