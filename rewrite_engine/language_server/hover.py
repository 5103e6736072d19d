"""What is known about the word under the pointer, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.expression_text import print_expr
from rewrite_engine.dsl.functions import DTYPES, FUNCTIONS
from rewrite_engine.dsl.names import DESCRIPTIONS, NameKind
from rewrite_engine.dsl.scopes import Scope
from rewrite_engine.dsl.symbols import Symbol
from rewrite_engine.dsl.walk import names_read
from rewrite_engine.language_server.cursor import cursor_at
from rewrite_engine.language_server.documents import Document
from rewrite_engine.language_server.schemas import (
    parameter_text,
    signature_text,
    signatures,
)
from rewrite_engine.source import Span

_WORD: Final = re.compile(r"[$.]?[A-Za-z_][\w.]*'?")
_MOST_SCHEMAS: Final = 12


@attrs.frozen
class Hover:
    """What is said about a word; `symbol` is what it names, if it is a name."""

    span: Span
    text: str
    symbol: Symbol | None = None


def hover(document: Document, offset: int) -> Hover | None:
    """What is known about the word at a character."""
    found = document.occurrence_at(offset)
    if found is not None:
        text = "\n\n".join(_of_symbol(document.scope, found.symbol))
        return Hover(found.span, text, found.symbol)
    word = _word_at(document.text, offset)
    if word is None:
        return None
    text = "\n\n".join(_of_word(document, word))
    return Hover(word, text) if text else None


def question(symbol: Symbol) -> Mapping[str, str] | None:
    """What to ask the process that has torch about a name; see `worker`."""
    item = symbol.item
    if symbol.kind == "rule":
        return {"count": symbol.name}
    if symbol.is_local and isinstance(item, nodes.RuleDef):
        return {"types": item.name}
    is_given = isinstance(item, nodes.TestDef) and any(
        given.name == symbol.name for given in item.given
    )
    if symbol.is_local and isinstance(item, nodes.TestDef) and not is_given:
        return {"types_in_test": item.title}
    return None


def answer_text(symbol: Symbol, answer: Mapping[str, Any]) -> str:
    """What its answer says about the name."""
    if "count" in answer:
        count = answer["count"]
        return f"\n\n{count} instance{'s' * (count != 1)}"
    type = answer.get("types", {}).get(symbol.name)
    if type is None:
        return ""
    how = "for example " if isinstance(symbol.item, nodes.RuleDef) else ""
    return f"\n\n{how}`{type}`"


def _word_at(text: str, offset: int) -> Span | None:
    line = text.rfind("\n", 0, offset) + 1
    words = _WORD.finditer(text, line, len(text))
    for word in words:
        if word.start() > offset:
            return None
        if offset <= word.end():
            return Span(*word.span())
    return None


# --- names ---


def _of_symbol(scope: Scope, symbol: Symbol) -> Iterator[str]:
    item = symbol.item
    if symbol.is_local:
        yield from _of_name(scope, symbol)
        return
    whole = item.span.of(symbol.source.text)
    is_rule = isinstance(item, nodes.RuleDef)
    yield _code(whole.partition("{")[0].rstrip() if is_rule else whole)
    yield from filter(None, [getattr(item, "doc", "")])
    if symbol.kind == "operator":
        yield _schemas(scope, symbol.name)


def _of_name(scope: Scope, symbol: Symbol) -> Iterator[str]:
    item, name = symbol.item, symbol.name
    if symbol.kind == "slot":
        yield f"`{name}`: the operator of the family"
        yield _schemas(scope, name, item.span.of(symbol.source.text))
        return
    kind: NameKind = symbol.kind  # type: ignore[assignment]  # what is local is no item
    yield f"`{name}`: {DESCRIPTIONS[kind].format(name)}"
    if isinstance(item, nodes.RuleDef):
        lines = [*_bound(item, symbol), *_guards(item, name)]
        if lines:
            yield _code("\n".join(lines))
    if isinstance(item, nodes.TestDef):
        given = [g for g in item.given if g.name == name]
        yield from (_code(g.span.of(symbol.source.text)) for g in given)


def _bound(rule: nodes.RuleDef, symbol: Symbol) -> Iterator[str]:
    """The statements that give a name its meaning, and what it becomes."""
    kinds = nodes.Bind | nodes.Replace | nodes.Constructed
    for statement in (*rule.left, *rule.right):
        if isinstance(statement, kinds) and statement.name == symbol.name:
            yield statement.span.of(symbol.source.text)


def _guards(rule: nodes.RuleDef, name: str) -> Iterator[str]:
    """The guards that speak of a name: its type, if any is written."""
    wheres = (s for s in rule.left if isinstance(s, nodes.Where))
    for guard in (guard for where in wheres for guard in where.guards):
        if name in names_read(guard):
            yield f"where {print_expr(guard)}"


# --- other words ---


def _of_word(document: Document, word: Span) -> Iterator[str]:
    text = word.of(document.text)
    after = document.text[word.end :].lstrip()
    if after.startswith("=") and not after.startswith(("==", "=>")):
        yield from _of_parameter(document, word, text)
        return
    if document.scope.catalog.lookup(text):
        yield _schemas(document.scope, text)
    elif text in FUNCTIONS and after.startswith("("):
        yield _code(str(FUNCTIONS[text]))
        yield "computed while matching"
    elif text in DTYPES:
        yield f"`torch.{DTYPES[text]}`"


def _of_parameter(document: Document, word: Span, name: str) -> Iterator[str]:
    cursor = cursor_at(document.text, word.start)
    if cursor.call is None:
        return
    item_text = cursor.item.of(document.text)
    for signature in signatures(document.scope, cursor.call.callee, item_text):
        parameter = signature.parameter(name)
        if parameter is not None:
            yield _code(parameter_text(parameter))
            yield f"parameter of `{signature.path}`"
            return


def _schemas(scope: Scope, callee: str, item_text: str = "") -> str:
    found = [signature_text(s) for s in signatures(scope, callee, item_text)]
    more = len(found) - _MOST_SCHEMAS
    shown = found[:_MOST_SCHEMAS] + ([f"# and {more} more"] if more > 0 else [])
    return _code("\n".join(shown))


def _code(text: str) -> str:
    return f"```rewrite-rules\n{text}\n```"
