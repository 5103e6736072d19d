"""From a name to where it is defined, and to everywhere it stands."""

from __future__ import annotations

from collections.abc import Iterator

from lsprotocol import types

from rewrite_engine.dsl.symbols import Symbol
from rewrite_engine.language_server.documents import (
    Document,
    Documents,
    location,
    place_of,
)
from rewrite_engine.source import Source, Span


def definition(
    documents: Documents, document: Document, offset: int
) -> types.Location | None:
    """Where the name at a character is defined; for a `use`, the file."""
    found = document.occurrence_at(offset)
    if found is not None:
        return location(documents, found.symbol.source, found.symbol.span)
    for use, path in document.examination.unit.uses:
        if use.span.start <= offset <= use.span.end:
            return location(documents, Source(str(path), ""), Span(0, 0))
    return None


def references(
    documents: Documents, symbol: Symbol
) -> Iterator[tuple[Document, tuple[Span, ...]]]:
    """Every document in which a symbol stands, and where."""
    for document in documents.mentioning(symbol.name):
        spans = document.of(symbol)
        if spans:
            yield document, spans


def reference_locations(
    documents: Documents,
    document: Document,
    offset: int,
    *,
    include_declaration: bool,
) -> list[types.Location]:
    """Everywhere the name at a character stands."""
    found = document.occurrence_at(offset)
    if found is None:
        return []
    defined = place_of(found.symbol.source, found.symbol.span)
    return [
        types.Location(other.uri, other.positions.range(span))
        for other, spans in references(documents, found.symbol)
        for span in spans
        if include_declaration or place_of(other.source, span) != defined
    ]
