"""The items of a document: its outline, and the tests that can be run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from lsprotocol import types

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.symbols import ITEM_KINDS, Occurrence, SymbolKind
from rewrite_engine.language_server.documents import Document
from rewrite_engine.source import Span

RUN_TEST: Final = "rewrite_engine.runTest"
"""The command of a lens: takes the address of a document and the title of a test."""

SYMBOL_KINDS: Final[Mapping[SymbolKind, types.SymbolKind]] = {
    "operator": types.SymbolKind.Operator,
    "family": types.SymbolKind.Enum,
    "pattern": types.SymbolKind.Function,
    "rule": types.SymbolKind.Class,
    "pipeline": types.SymbolKind.Package,
    "literal": types.SymbolKind.Number,
    "list": types.SymbolKind.Array,
    "slot": types.SymbolKind.Operator,
    "constant": types.SymbolKind.Constant,
}


def document_symbols(document: Document) -> list[types.DocumentSymbol]:
    """The items of a document, and in each rule and test the names that it binds."""
    found = (_symbol(document, item) for item in document.items)
    return [symbol for symbol in found if symbol is not None]


def lenses(document: Document) -> list[types.CodeLens]:
    """One lens above each test."""
    tests = (item for item in document.items if isinstance(item, nodes.TestDef))
    return [
        types.CodeLens(
            document.positions.range(Span(test.span.start, test.span.start)),
            types.Command("Run test", RUN_TEST, arguments=[document.uri, test.title]),
        )
        for test in tests
    ]


def _symbol(document: Document, item: nodes.Item) -> types.DocumentSymbol | None:
    whole = document.positions.range(item.span)
    if isinstance(item, nodes.TestDef):
        return types.DocumentSymbol(item.title, types.SymbolKind.Event, whole, whole)
    if type(item) not in ITEM_KINDS:
        return None
    defined = [
        occurrence
        for occurrence in document.occurrences
        if occurrence.symbol.item is item and occurrence.is_definition
    ]
    own = next(o for o in defined if not o.symbol.is_local)
    return types.DocumentSymbol(
        own.symbol.name,
        SYMBOL_KINDS[own.symbol.kind],
        whole,
        document.positions.range(own.span),
        detail=own.symbol.kind,
        children=[_child(document, o) for o in defined if o.symbol.is_local],
    )


def _child(document: Document, occurrence: Occurrence) -> types.DocumentSymbol:
    symbol = occurrence.symbol
    place = document.positions.range(occurrence.span)
    kind = SYMBOL_KINDS.get(symbol.kind, types.SymbolKind.Variable)
    return types.DocumentSymbol(symbol.name, kind, place, place, detail=symbol.kind)
