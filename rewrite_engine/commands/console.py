"""Where commands write: made when needed, so that redirected streams are followed."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from rewrite_engine.errors import Diagnostic

_WIDTH_OF_FILES = 100
_WIDEST_TABLE = 10_000


class _Output(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the caller; rich would exit with the status of findings."""
        raise BrokenPipeError


def output() -> Console:
    """Results. Text is never wrapped; a line across a pipe or file has 100 columns."""
    width = None if sys.stdout.isatty() else _WIDTH_OF_FILES
    return _Output(highlight=False, markup=False, soft_wrap=True, width=width)


def errors() -> Console:
    """Messages and progress."""
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def print_heading(title: str, out: Console) -> None:
    """A title on a line across the terminal, set off from what is above it."""
    out.print()
    out.print(Rule(title, align="left", style="dim"), soft_wrap=False)


def table_of(first: str, *counts: str) -> Table:
    """A table whose rows have a name and some counts."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column(first, overflow="fold")
    for heading in counts:
        table.add_column(heading, justify="right")
    return table


def print_table(table: Table, out: Console) -> None:
    """Print a table; in a pipe or file it is as wide as what it holds."""
    width = out.width
    if not out.is_terminal:
        out.width = _WIDEST_TABLE
    out.print(table, soft_wrap=False)
    out.width = width


def diagnostic_text(diagnostic: Diagnostic) -> Text:
    """A finding, coloured where colours are shown."""
    text = Text(diagnostic.render())
    style = "bold red" if diagnostic.is_error else "bold yellow"
    text.highlight_regex(r"\b(error|warning)\[[EW]\d+\]", style)
    text.highlight_regex(r"(?m)^ *\| *\^+$", style)
    text.highlight_regex(r"(?m)^  (note|hint):", "bold cyan")
    return text


def counted(number: int, noun: str) -> str:
    """`1 file`, `2 files`, `3 matches`."""
    plural = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
