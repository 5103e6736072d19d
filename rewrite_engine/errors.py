"""Diagnostics as values, and the few exceptions that carry them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from rewrite_engine.source import Source, Span


@attrs.frozen
class Note:
    """A secondary remark, with a place in the source when it has one."""

    message: str
    span: Span | None = None
    source: Source | None = None


@attrs.frozen
class Diagnostic:
    """One finding about a rule file.

    `code` is stable (`E201`); the wording of `message` and `hint` may improve.
    `E…` codes are errors, `W…` codes are warnings.
    """

    code: str
    message: str
    span: Span
    source: Source = attrs.field(repr=False)
    notes: tuple[Note, ...] = ()
    hint: str | None = None

    @property
    def is_error(self) -> bool:
        return self.code.startswith("E")

    def render(self) -> str:
        """The finding with its source line, a caret, its notes and its hint."""
        kind = "error" if self.is_error else "warning"
        where = place(self.source, self.span)
        head = f"{where}: {kind}[{self.code}]: {_printable(self.message)}"
        parts = [head, excerpt(self.source, self.span)]
        parts += [_render_note(note, self.source) for note in self.notes]
        if self.hint is not None:
            parts.append(f"  hint: {_printable(self.hint)}")
        return "\n".join(parts)


class RuleError(ValueError):
    """A rule file is wrong; `diagnostics` holds every finding, in source order."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__(render(self.diagnostics))

    def __reduce__(self) -> tuple[type[RuleError], tuple[tuple[Diagnostic, ...]]]:
        return RuleError, (self.diagnostics,)


class RewriteError(RuntimeError):
    """A rewrite could not be completed; the graph is as it was before."""


class GraphError(ValueError):
    """The graph given is one that the engine cannot work on."""


_WIDEST: Final = 400
"""Characters of a line that an excerpt shows; the line may be a megabyte."""


def render(diagnostics: Iterable[Diagnostic]) -> str:
    """All findings, one after the other."""
    return "\n\n".join(diagnostic.render() for diagnostic in diagnostics)


def place(source: Source, span: Span) -> str:
    """Where a span starts: `file.rules:3:7`."""
    position = source.position(span.start)
    return f"{_printable(source.name)}:{position.line}:{position.column}"


def excerpt(source: Source, span: Span) -> str:
    """The line of a span, with its number and carets below."""
    start = source.position(span.start)
    line = source.line(start.line).removesuffix("\r")
    line, first = _window(line, start.column - 1)
    marked = line[first : first + span.end - span.start]
    width = max(1, len(_printable(marked)))
    margin = " " * len(str(start.line))
    # Tabs are kept in the padding so that the caret stands under its character.
    before = _printable(line[:first])
    padding = "".join("\t" if char == "\t" else " " for char in before)
    shown = _printable(line)
    return f"{margin} |\n{start.line} | {shown}\n{margin} | {padding}{'^' * width}"


def _window(line: str, place: int) -> tuple[str, int]:
    """The part of a long line around a place, and the place in it."""
    if len(line) <= _WIDEST:
        return line, place
    start = max(0, min(place - _WIDEST // 4, len(line) - _WIDEST))
    before = "…" if start else ""
    after = "…" if start + _WIDEST < len(line) else ""
    part = f"{before}{line[start : start + _WIDEST]}{after}"
    return part, place - start + len(before)


def _printable(text: str) -> str:
    """The text with escapes for what a terminal cannot show, or would obey."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\t" else _escaped(char) for char in text
    )


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _render_note(note: Note, default: Source) -> str:
    message = _printable(note.message)
    if note.span is None:
        return f"  note: {message}"
    source = note.source or default
    shown = excerpt(source, note.span)
    return f"  note: {message} ({place(source, note.span)})\n{shown}"


def first_line(error: BaseException) -> str:
    """What an error says first; its kind if it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)
