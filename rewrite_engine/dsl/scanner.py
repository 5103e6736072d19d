"""The look at raw rule text before it is parsed: limits, comments, item starts.

Everything here is one pass of a regular expression, so that text which is too deep,
too large or no text at all never reaches a parser or a tree visitor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import attrs

from rewrite_engine.dsl.nodes import Comment
from rewrite_engine.errors import Diagnostic, Note
from rewrite_engine.source import NOWHERE, Source, Span

MAX_FILE_BYTES = 1 << 20
MAX_TOKENS = 100_000
MAX_STRING_BYTES = 4 << 10
MAX_NESTING = 64

CLOSING = {"(": ")", "[": "]", "{": "}"}

_LANDMARK = re.compile(
    r"""
      (?P<comment> \#[^\n]* )
    | (?P<string> "(?: [^"\\\n] | \\[^\n] )*" )
    | (?P<open_string> "[^\n]* )
    | (?P<mark> => | [()\[\]{}] )
    """,
    re.VERBOSE,
)
_TOKEN = re.compile(r"""#[^\n]*|"(?:[^"\\\n]|\\.)*"|\w+|[^\w\s]""")
_ITEM = re.compile(
    r"""(?:^[ \t]*\#\#[^\n]*\n)*
        ^[ \t]*(?: (?:op|family|pattern|rule|pipeline) [ \t]+ [A-Za-z_]
                  | use [ \t]+ ["A-Za-z_]
                  | test [ \t]* " )""",
    re.VERBOSE | re.MULTILINE,
)
_FORBIDDEN = re.compile("[\x00\ufeff\ud800-\udfff]")
_FORBIDDEN_NAMES = {"\x00": "a NUL character", "\ufeff": "a byte order mark"}


class Mark(NamedTuple):
    """A bracket or `=>` outside comments and strings."""

    text: str
    start: int


@attrs.frozen
class Scan:
    """What raw text shows; the places of `problems` are not to be parsed."""

    comments: tuple[Comment, ...]
    marks: tuple[Mark, ...]
    problems: tuple[Diagnostic, ...]
    is_unfit: bool = False
    """Whether this is no rule text at all, or too much of it."""


def scan(source: Source) -> Scan:
    """The comments and brackets of a source, and the limits it breaks."""
    unfit = _check_text(source)
    if unfit is not None:
        return Scan((), (), (unfit,), is_unfit=True)
    comments, marks, problems = list[Comment](), list[Mark](), list[Diagnostic]()
    for found in _LANDMARK.finditer(source.text):
        match found.lastgroup:
            case "mark":
                marks.append(Mark(found[0], found.start()))
            case "comment":
                comments.append(_comment(source, found))
            case _:
                problems += _check_string(source, found)
    problems += _check_depth(source, marks)
    return Scan(tuple(comments), tuple(marks), tuple(problems))


def split_items(text: str) -> Iterator[Span]:
    """Stretches of text that each begin where a line seems to start an item.

    The documentation above an item belongs to its stretch.
    """
    starts = [found.start() for found in _ITEM.finditer(text)]
    if not starts or text[: starts[0]].strip():
        starts.insert(0, 0)
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        yield Span(start, end)


def blanked(text: str) -> str:
    """The text with spaces in place of comments and strings."""

    def blank(found: re.Match[str]) -> str:
        return found[0] if found["mark"] else " " * len(found[0])

    return _LANDMARK.sub(blank, text)


def unclosed(marks: tuple[Mark, ...], span: Span) -> Mark | None:
    """The innermost bracket that is opened and never closed within a span."""
    stack: list[Mark] = []
    for mark in marks:
        if not span.start <= mark.start < span.end:
            continue
        if mark.text in CLOSING:
            stack.append(mark)
        elif stack and mark.text == CLOSING[stack[-1].text]:
            stack.pop()
    return stack[-1] if stack else None


def _check_text(source: Source) -> Diagnostic | None:
    text = source.text
    found = _FORBIDDEN.search(text)
    if found is not None:
        what = _FORBIDDEN_NAMES.get(found[0], "half of a surrogate pair")
        message = f"the text holds {what}; a rule file is plain UTF-8"
        return Diagnostic("E108", message, Span(*found.span()), source)
    if len(text.encode()) > MAX_FILE_BYTES:
        message = f"a rule file holds at most {MAX_FILE_BYTES:,} bytes"
        return Diagnostic("E104", message, NOWHERE, source)
    if len(text) > MAX_TOKENS < len(_TOKEN.findall(text)):
        message = f"a rule file holds at most {MAX_TOKENS:,} words and signs"
        return Diagnostic("E104", message, NOWHERE, source)
    return None


def _comment(source: Source, found: re.Match[str]) -> Comment:
    line_start = source.text.rfind("\n", 0, found.start()) + 1
    own_line = not source.text[line_start : found.start()].strip()
    return Comment(found[0].rstrip(), Span(*found.span()), own_line)


def _check_string(source: Source, found: re.Match[str]) -> Iterator[Diagnostic]:
    span = Span(*found.span())
    if found["open_string"]:
        message = "this string is not closed on its line"
        hint = 'a string ends with `"`; a quote inside it is written `\\"`'
        yield Diagnostic("E106", message, span, source, hint=hint)
    elif len(found[0].encode()) > MAX_STRING_BYTES + 2:
        message = f"a string holds at most {MAX_STRING_BYTES:,} bytes"
        yield Diagnostic("E104", message, span, source)


def _check_depth(source: Source, marks: Iterable[Mark]) -> Iterator[Diagnostic]:
    depth = 0
    for mark in marks:
        if mark.text in CLOSING:
            depth += 1
        elif mark.text != "=>":
            depth = max(depth - 1, 0)
        if depth > MAX_NESTING:
            message = f"brackets are nested deeper than {MAX_NESTING} levels"
            span = Span(mark.start, mark.start + 1)
            note = Note("a rule with intermediate names, `y = …`, needs no nesting")
            yield Diagnostic("E105", message, span, source, (note,))
            return
