"""`fmt`: rule files in their canonical form."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rewrite_engine.atomic import replacing
from rewrite_engine.commands import console
from rewrite_engine.commands.libraries import read_source, rule_path
from rewrite_engine.commands.outcome import DONE, FINDINGS
from rewrite_engine.dsl.printer import format_source
from rewrite_engine.errors import Diagnostic, RuleError
from rewrite_engine.source import Source

if TYPE_CHECKING:
    from rewrite_engine.commands import Subparsers


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser("fmt", help="rewrite rule files in canonical form")
    parser.add_argument("files", nargs="+", metavar="FILE", help="path, or library")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if a file differs"
    )
    where.add_argument(
        "--stdout", action="store_true", help="print the result instead of writing it"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Format files. Nothing is written if one of them does not parse."""
    sources = [read_source(rule_path(name)) for name in arguments.files]
    formatted = _format_all(sources)
    if arguments.stdout:
        console.output().print("".join(formatted), end="")
        return DONE
    changes = [
        (Path(source.name), text)
        for source, text in zip(sources, formatted, strict=True)
        if source.text != text
    ]
    for path, text in [] if arguments.check else changes:
        with replacing(path) as fresh:
            fresh.write_bytes(text.encode())
    _print_summary(changes, len(sources), would="would be " * arguments.check)
    return FINDINGS if arguments.check and changes else DONE


def _format_all(sources: Iterable[Source]) -> list[str]:
    """The canonical texts. Raises RuleError with the findings of all files."""
    texts: list[str] = []
    found: list[Diagnostic] = []
    for source in sources:
        try:
            texts.append(format_source(source))
        except RuleError as error:
            found += error.diagnostics
    if found:
        raise RuleError(found)
    return texts


def _print_summary(changes: list[tuple[Path, str]], total: int, would: str) -> None:
    out = console.output()
    for path, _ in changes:
        out.print(f"{would}reformatted: {path}")
    if len(changes) < total:
        unchanged = console.counted(total - len(changes), "file")
        out.print(f"{unchanged} {would and 'would be '}left unchanged")
