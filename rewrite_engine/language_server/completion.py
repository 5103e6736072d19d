"""What could be written where the cursor stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from lsprotocol import types

from rewrite_engine.assets import rules_directory
from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.catalog import NAMESPACES, OVERLOAD_NAMESPACES
from rewrite_engine.dsl.functions import DTYPES, FUNCTIONS
from rewrite_engine.dsl.loader import PRELUDE
from rewrite_engine.dsl.scopes import Definition, Scope
from rewrite_engine.dsl.symbols import ITEM_KINDS
from rewrite_engine.language_server.cursor import Cursor, cursor_at, item_words
from rewrite_engine.language_server.documents import Document
from rewrite_engine.language_server.schemas import parameter_text, signatures
from rewrite_engine.rule_packs import packed_files
from rewrite_engine.source import Span

_MOST_PATHS: Final = 300

WORDS: Final = {
    "file": ("use", "op", "family", "pattern", "rule", "pipeline", "test"),
    "head": ("for", "in", "once", "fixpoint", "benefit", "exact", "inexact", "given"),
    "left": (
        "where",
        "is",
        "const",
        "not",
        "and",
        "or",
        "else",
        "true",
        "false",
        "none",
    ),
    "right": (
        *("param", "buffer", "value", "own", "meta", "keep", "erase", "if", "else"),
        *("true", "false", "none", "not", "and", "or"),
    ),
    "body": (
        *("commutes", "when", "given", "param", "buffer", "return", "expect"),
        *("equal", "refused", "once", "fixpoint", "true", "false", "none"),
    ),
}
"""The words of the language by where they may stand."""

_KINDS: Final = {
    "operator": types.CompletionItemKind.Function,
    "family": types.CompletionItemKind.Enum,
    "pattern": types.CompletionItemKind.Snippet,
    "rule": types.CompletionItemKind.Class,
    "pipeline": types.CompletionItemKind.Module,
}


def complete(document: Document, offset: int) -> types.CompletionList:
    """What fits at an offset; clients narrow it down by what is typed next."""
    cursor = cursor_at(document.text, offset)
    items = list(_items(document, cursor))
    is_cut = len(items) > _MOST_PATHS and "." in cursor.prefix
    place = document.positions.range(Span(cursor.start, offset))
    for item in items:
        item.text_edit = types.TextEdit(place, item.insert_text or item.label)
        item.filter_text = item.filter_text or item.label
    return types.CompletionList(is_cut, items[:_MOST_PATHS] if is_cut else items)


def _items(document: Document, cursor: Cursor) -> Iterator[types.CompletionItem]:
    scope = document.scope
    if cursor.place == "comment":
        return
    if cursor.place == "string":
        yield from _files(document) if cursor.before == "use" else ()
    elif cursor.place == "type":
        yield from _plain(DTYPES, types.CompletionItemKind.TypeParameter)
    elif "." in cursor.prefix:
        yield from _paths(scope, cursor.prefix)
    elif cursor.place in ("file", "head"):
        if cursor.before == "in":
            yield from _definitions(scope, nodes.FamilyDef)
        yield from _plain(WORDS[cursor.place], types.CompletionItemKind.Keyword)
    else:
        yield from _expression(document, cursor)


def _expression(document: Document, cursor: Cursor) -> Iterator[types.CompletionItem]:
    scope = document.scope
    yield from _parameters(document, cursor)
    yield from _names(document, cursor)
    if cursor.prefix.startswith("$"):
        return
    for kind in (nodes.OpDef, nodes.PatternDef, nodes.FamilyDef):
        yield from _definitions(scope, kind)
    if cursor.place == "body":
        yield from map(_definition, scope.rules.values())
    yield from _plain(FUNCTIONS, types.CompletionItemKind.Function)
    yield from _plain(WORDS[cursor.place], types.CompletionItemKind.Keyword)
    yield from _plain(sorted(NAMESPACES), types.CompletionItemKind.Module)


def _plain(
    words: Iterable[str], kind: types.CompletionItemKind
) -> Iterator[types.CompletionItem]:
    for word in words:
        yield types.CompletionItem(word, kind=kind, sort_text=f"4{word}")


def _definitions(scope: Scope, kind: type) -> Iterator[types.CompletionItem]:
    found = (scope.find(name) for name in dict.fromkeys(scope.visible()))
    for definition in found:
        if definition is not None and isinstance(definition.item, kind):
            yield _definition(definition)


def _definition(definition: Definition) -> types.CompletionItem:
    kind, item = ITEM_KINDS[type(definition.item)], definition.item
    text = item.span.of(definition.scope.source.text)
    return types.CompletionItem(
        item.name,
        kind=_KINDS[kind],
        detail=" ".join(text.partition("{")[0].split()),
        documentation=item.doc or None,
        sort_text=f"3{item.name}",
    )


def _parameters(document: Document, cursor: Cursor) -> Iterator[types.CompletionItem]:
    """The parameters of the operator that is being called, as `name=`."""
    call = cursor.call
    if call is None or cursor.prefix.startswith("$") or cursor.before == "=":
        return
    item_text = cursor.item.of(document.text)
    seen = set(call.keywords)
    for signature in signatures(document.scope, call.callee, item_text):
        given = {p.name for p in signature.positional[: call.position]}
        for parameter in signature.parameters:
            if parameter.name in seen or parameter.name in given:
                continue
            seen.add(parameter.name)
            yield types.CompletionItem(
                f"{parameter.name}=",
                kind=types.CompletionItemKind.Field,
                detail=parameter_text(parameter),
                sort_text=f"1{len(seen):03}",
            )


def _names(document: Document, cursor: Cursor) -> Iterator[types.CompletionItem]:
    """Names of the rule, pattern or test that is being written."""
    taken = {word for words in WORDS.values() for word in words} | DTYPES.keys()
    for name, kind in item_words(document.text, cursor.item, cursor.start).items():
        if name in taken or document.scope.find(name) is not None:
            continue
        label = f"${name}" if kind == "literal" else name
        yield types.CompletionItem(
            label, kind=types.CompletionItemKind.Variable, sort_text=f"2{name}"
        )


def _paths(scope: Scope, prefix: str) -> Iterator[types.CompletionItem]:
    """Paths of the catalog: operators first, overloads of one that is written out."""
    found: dict[str, None] = {}
    for path in scope.catalog.paths():
        if not path.startswith(prefix):
            continue
        namespace, _, rest = path.partition(".")
        if namespace in OVERLOAD_NAMESPACES:
            found.setdefault(f"{namespace}.{rest.partition('.')[0]}")
            if prefix.count(".") < 2:
                continue
        found.setdefault(path)
    for path in found:
        if path.startswith(prefix):
            yield types.CompletionItem(
                path, kind=types.CompletionItemKind.Function, sort_text=f"3{path}"
            )


def _files(document: Document) -> Iterator[types.CompletionItem]:
    """Files that a `use` may name: beside the document, shipped, and of packs."""
    folders = [document.path.parent] if document.path else []
    found = [
        path.name
        for folder in (*folders, rules_directory())
        for path in sorted(Path(folder).glob("*.rules"))
        if path != document.path
    ]
    packed, _ = packed_files()
    for name in dict.fromkeys((*found, *(f"{each}.rules" for each in packed))):
        if name != PRELUDE:
            yield types.CompletionItem(name, kind=types.CompletionItemKind.File)
