"""`list`: the shipped libraries and their rules."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from rewrite_engine.commands import console
from rewrite_engine.commands.libraries import rules_in
from rewrite_engine.commands.outcome import DONE
from rewrite_engine.rule_files import shipped_files
from rewrite_engine.rule_packs import packed_files

if TYPE_CHECKING:
    from rewrite_engine.commands import Subparsers


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser("list", help="list libraries and their rules")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """List every shipped rule and those of installed packs, a sentence about each."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("library", no_wrap=True, style="bold")
    table.add_column("rule", no_wrap=True)
    table.add_column("what it does", overflow="fold")
    packed, broken = packed_files()
    shipped = {path.stem: path for path in shipped_files()}
    for library, path in (shipped | packed).items():
        shown = library
        for rule in rules_in(path):
            table.add_row(shown, rule.name, Text(_first_sentence(rule.doc)))
            shown = ""
    console.output().print(table, soft_wrap=False)
    for message in broken:
        console.errors().print(f"warning: {message}")
    return DONE


def _first_sentence(doc: str) -> str:
    paragraph = " ".join(doc.partition("\n\n")[0].split())
    sentence, stop, _ = paragraph.partition(". ")
    return sentence + stop.strip()
