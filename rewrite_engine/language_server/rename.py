"""A new name for a name, everywhere, if nothing else changes its meaning."""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import attrs
from lsprotocol import types

from rewrite_engine.dsl.expression_builder import MAX_NAME, RESERVED
from rewrite_engine.dsl.symbols import Symbol
from rewrite_engine.language_server.documents import (
    Document,
    Documents,
    Place,
    is_shipped,
    place_of,
)
from rewrite_engine.language_server.navigation import references
from rewrite_engine.source import Span

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class RenameError(Exception):
    """Why a name cannot be changed; one line."""


@attrs.frozen
class _Edit:
    """The places in one document that change."""

    document: Document
    spans: tuple[Span, ...]

    def text(self, name: str) -> str:
        """The text after the change."""
        parts, end = [], 0
        for span in sorted(self.spans, key=lambda span: span.start):
            parts += [self.document.text[end : span.start], name]
            end = span.end
        return "".join([*parts, self.document.text[end:]])

    def moved(self, span: Span, name: str) -> Span:
        """Where a stretch of the text stands after the change."""
        return Span(self._moved(span.start, name), self._moved(span.end, name))

    def _moved(self, offset: int, name: str) -> int:
        before = [s for s in self.spans if s.end <= offset]
        return offset + sum(len(name) - (s.end - s.start) for s in before)


def renameable(document: Document, offset: int) -> tuple[Symbol, Span]:
    """The name at a character. Raises RenameError if it cannot be changed."""
    found = document.occurrence_at(offset)
    if found is None:
        raise RenameError("there is no name here that could be changed")
    if is_shipped(found.symbol.source):
        raise RenameError(f"`{found.symbol.name}` is defined in a shipped library")
    return found.symbol, found.span


def rename(
    documents: Documents, document: Document, offset: int, name: str
) -> types.WorkspaceEdit:
    """The edits that rename the name at a character. Raises RenameError."""
    symbol, _ = renameable(document, offset)
    _check_name(name)
    if name == symbol.name:
        return types.WorkspaceEdit({})
    edits = [_Edit(*found) for found in references(documents, symbol)]
    _check_parses(edits)
    _check_meaning(documents, edits, symbol, name)
    return types.WorkspaceEdit(
        {
            edit.document.uri: [
                types.TextEdit(edit.document.positions.range(span), name)
                for span in edit.spans
            ]
            for edit in edits
        }
    )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name == "_":
        raise RenameError(f"`{name}` is no name: letters, digits and `_`")
    if len(name) > MAX_NAME:
        raise RenameError(f"a name has at most {MAX_NAME} characters")
    if name in RESERVED or keyword.iskeyword(name):
        raise RenameError(f"`{name}` is a reserved word")
    if name.startswith("__") and name.endswith("__"):
        raise RenameError("names of the form `__x__` are not allowed")


def _check_parses(edits: Sequence[_Edit]) -> None:
    """Names in what does not parse are not known, and would be left behind."""
    for edit in edits:
        found = edit.document.examination.findings
        if any(f.code.startswith("E1") and f.is_error for f in found):
            raise RenameError(f"{edit.document.source.name} has errors of syntax")


def _check_meaning(
    documents: Documents, edits: Sequence[_Edit], symbol: Symbol, name: str
) -> None:
    """Every name must mean after the change what it means now."""
    edited = {edit.document.uri for edit in edits}
    others = () if symbol.is_local else documents.mentioning(name)
    untouched = (_Edit(each, ()) for each in others if each.uri not in edited)
    checked = [*edits, *untouched]
    texts = {edit.document.uri: edit.text(name) for edit in checked}
    changed = documents.with_texts(texts)
    moves = {place_of(e.document.source, Span(0, 0))[0]: e for e in edits}
    for edit in checked:
        before, after = edit.document, changed.get(edit.document.uri)
        expected = {
            edit.moved(o.span, name): _moved_place(o.symbol, moves, name)
            for o in before.occurrences
        }
        found = {
            o.span: place_of(o.symbol.source, o.symbol.span) for o in after.occurrences
        }
        if found != expected or _codes(after) != _codes(before):
            raise RenameError(f"`{name}` already means something where this is used")


def _moved_place(symbol: Symbol, moves: Mapping[str, _Edit], name: str) -> Place:
    file, span = place_of(symbol.source, symbol.span)
    return file, (moves[file].moved(span, name) if file in moves else span)


def _codes(document: Document) -> Counter[str]:
    return Counter(found.code for found in document.examination.findings)
