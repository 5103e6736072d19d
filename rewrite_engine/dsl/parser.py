"""Rule text to syntax tree. The language is `grammar/rules.lark`, read from the parse
table that `grammar/generate_table.py` makes of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any, cast

from lark import Lark, Token, Tree, UnexpectedInput
from lark.visitors import Transformer_NonRecursive

from rewrite_engine.assets import grammar_directory
from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.builder import Builder
from rewrite_engine.dsl.expression_builder import Word
from rewrite_engine.dsl.scanner import Scan, scan, split_items
from rewrite_engine.dsl.syntax_errors import END, UNKNOWN, Unexpected, explain
from rewrite_engine.errors import Diagnostic, RuleError
from rewrite_engine.source import NOWHERE, Source, Span

MAX_DEPTH = 160
"""Levels of a syntax tree, so that its visitors may recurse."""

MAX_SYNTAX_ERRORS = 50


def parse(source: Source) -> nodes.File:
    """The syntax tree of a rule file.

    Raises RuleError with every fault found. After a syntax error, parsing resumes at
    the next line that seems to start an item.
    """
    overview = scan(source)
    if overview.problems:
        raise RuleError(overview.problems)
    try:
        tree = _lark().parse(source.text)
    except UnexpectedInput as error:
        raise RuleError(_syntax_errors(source, overview, error)) from None
    _check_depth(source, tree)
    builder = Builder(source, overview.comments)
    file = _Build(builder).transform(tree)
    if builder.problems:
        raise RuleError(sorted(builder.problems, key=lambda found: found.span.start))
    return file


class _WholeWords:
    """Makes every lexer state read a word or number whole, never only its beginning."""

    always_accept = ("NAME", "FLOAT")

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        return stream


@cache
def _lark() -> Lark:
    path = grammar_directory() / "rules.table.json"
    table = json.loads(path.read_text(encoding="utf-8"), object_hook=_numbered)
    # What lark's own stand-alone parsers call to avoid computing the table again.
    return cast(
        "Lark",
        Lark._load_from_dict(**table, postlex=_WholeWords(), propagate_positions=True),
    )


def _numbered(entries: dict[str, Any]) -> dict[str | int, Any]:
    """Makes keys numbers again, which JSON cannot have."""
    return {int(key) if key.isdigit() else key: e for key, e in entries.items()}


class _Build(Transformer_NonRecursive[Token, nodes.File]):
    """Hands each subtree, bottom-up, to the builder's method of the same name."""

    def __init__(self, builder: Builder) -> None:
        super().__init__()
        self._builder = builder

    def __default__(self, data: str, children: list[Any], meta: Any) -> Any:
        return getattr(self._builder, data)(_span(meta), *children)

    def __default_token__(self, token: Token) -> Word:
        return Word(str(token), Span(cast(int, token.start_pos), _end(token)))


def _span(meta: Any) -> Span:
    return NOWHERE if meta.empty else Span(meta.start_pos, meta.end_pos)


def _end(token: Token) -> int:
    return cast(int, token.end_pos)


def _check_depth(source: Source, tree: Tree[Token]) -> None:
    level: list[Tree[Token]] = [tree]
    for _ in range(MAX_DEPTH):
        level = [c for t in level for c in t.children if isinstance(c, Tree)]
        if not level:
            return
    message = "this expression is too long or nested too deep"
    hint = "give its parts names, `part = …`"
    raise RuleError(
        [Diagnostic("E105", message, _span(level[0].meta), source, hint=hint)]
    )


# --- syntax errors ---


def _syntax_errors(
    source: Source, overview: Scan, first: UnexpectedInput
) -> list[Diagnostic]:
    """One diagnostic for each item that does not parse on its own."""
    found = []
    for part in split_items(source.text):
        try:
            _lark().parse(source.text[part.start : part.end])
        except UnexpectedInput as error:
            unexpected = _unexpected(error, part)
            found.append(explain(source, overview, part, unexpected))
        if len(found) == MAX_SYNTAX_ERRORS:
            return found
    whole = Span(0, len(source.text))
    return found or [explain(source, overview, whole, _unexpected(first, whole))]


def _unexpected(error: UnexpectedInput, part: Span) -> Unexpected:
    """Lark's error as a plain value, placed in the whole file."""
    expected = frozenset(
        getattr(error, "accepts", None) or getattr(error, "allowed", None) or ()
    )
    token = getattr(error, "token", None)
    if token is None:
        start = part.start + cast(int, error.pos_in_stream)
        return Unexpected(UNKNOWN, Span(start, start + 1), expected)
    if token.type == "$END":
        return Unexpected(END, Span(part.end, part.end), expected)
    span = Span(part.start + token.start_pos, part.start + _end(token))
    return Unexpected(token.type, span, expected)
