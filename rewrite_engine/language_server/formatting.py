"""The canonical form of a document."""

from __future__ import annotations

from lsprotocol import types

from rewrite_engine.dsl.printer import format_source
from rewrite_engine.errors import RuleError
from rewrite_engine.language_server.documents import Document
from rewrite_engine.source import Span


def format_document(document: Document) -> list[types.TextEdit]:
    """The edit that makes a text canonical; none if it is, or does not parse."""
    try:
        after = format_source(document.source)
    except RuleError:
        return []
    before = document.text
    if "\r" in before:
        # An edit must not end between the two characters of a line's end.
        whole = types.TextEdit(document.positions.range(Span(0, len(before))), after)
        return [] if before.replace("\r\n", "\n") == after else [whole]
    if after == before:
        return []
    # Only the stretch that differs, so that a cursor elsewhere stays where it is.
    start = _common_start(before, after)
    most = min(len(before), len(after)) - start
    same = _common_start(before[::-1], after[::-1])
    end = min(same, most)
    span = Span(start, len(before) - end)
    edit = types.TextEdit(
        document.positions.range(span), after[start : len(after) - end]
    )
    return [edit]


def _common_start(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    length = min(len(one), len(other))
    return next((index for index, (a, b) in pairs if a != b), length)
