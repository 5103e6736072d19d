"""`diff`: what is different between two exported programs."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from rewrite_engine.commands import console
from rewrite_engine.commands.options import add_trust_pickle
from rewrite_engine.commands.outcome import DONE, FINDINGS

if TYPE_CHECKING:
    from rewrite_engine.commands import Subparsers

_ALIKE = 0.6
"""How similar two lines must be for the words that differ to be marked."""


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser("diff", help="compare two exported programs")
    parser.add_argument("before", type=Path, metavar="A.pt2")
    parser.add_argument("after", type=Path, metavar="B.pt2")
    parser.add_argument(
        "--structure",
        action="store_true",
        help="compare up to names and the order of independent nodes",
    )
    parser.add_argument(
        "--context", type=int, default=3, metavar="N", help="lines around changes"
    )
    add_trust_pickle(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what differs; FINDINGS if anything does."""
    from rewrite_engine.graph_text import graph_text, structure_text
    from rewrite_engine.model_files import load_program

    show = structure_text if arguments.structure else graph_text
    before, after = (
        show(load_program(path, trust_pickle=arguments.trust_pickle)).splitlines()
        for path in (arguments.before, arguments.after)
    )
    out = console.output()
    if before == after:
        out.print("the programs are the same")
        return DONE
    added = removed = 0
    for line, kind in _lines(before, after, arguments.context):
        added, removed = added + (kind == "+"), removed + (kind == "-")
        out.print(line)
    out.print()
    out.print(
        f"{console.counted(removed, 'line')} only in {arguments.before}", end=", "
    )
    out.print(f"{added:,} only in {arguments.after}")
    return FINDINGS


def _lines(
    before: Sequence[str], after: Sequence[str], context: int
) -> Iterator[tuple[Text, str]]:
    """The lines of a diff, with a sign each; equal runs are cut to their ends."""
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for group in matcher.get_grouped_opcodes(context):
        yield Text(f"@@ line {group[0][1] + 1} @@", "cyan"), "@"
        for kind, a, b, c, d in group:
            if kind == "equal":
                yield from ((Text(f"  {line}", "dim"), " ") for line in before[a:b])
            else:
                yield from _changed(before[a:b], after[c:d])


def _changed(
    removed: Sequence[str], added: Sequence[str]
) -> Iterator[tuple[Text, str]]:
    """Removed lines, then added ones; of lines that are alike, what differs is bold."""
    olds = [Text(f"- {line}", "red") for line in removed]
    news = [Text(f"+ {line}", "green") for line in added]
    for old, new in zip(olds, news, strict=False):
        _mark(old, new)
    yield from ((line, "-") for line in olds)
    yield from ((line, "+") for line in news)


def _mark(old: Text, new: Text) -> None:
    matcher = difflib.SequenceMatcher(None, old.plain, new.plain, autojunk=False)
    if matcher.ratio() < _ALIKE:
        return
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind != "equal" and a >= 2:  # the signs themselves always differ
            old.stylize("bold reverse", a, b)
            new.stylize("bold reverse", c, d)
