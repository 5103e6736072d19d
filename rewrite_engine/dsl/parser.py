"""Rule text to syntax tree. The language is `grammar/rules.lark`, read from the parse
table that `grammar/generate_table.py` makes of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from operator import itemgetter
from typing import Any, cast

import attrs
from lark import Lark, Token, Tree, UnexpectedInput
from lark.grammar import Rule
from lark.visitors import Transformer_NonRecursive

from rewrite_engine.assets import grammar_directory
from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.builder import Builder
from rewrite_engine.dsl.expression_builder import Word
from rewrite_engine.dsl.scanner import Scan, scan, split_items
from rewrite_engine.dsl.syntax_errors import END, UNKNOWN, Unexpected, explain
from rewrite_engine.dsl.walk import moved
from rewrite_engine.errors import Diagnostic, RuleError
from rewrite_engine.source import NOWHERE, Source, Span

MAX_DEPTH = 160
"""Levels of a syntax tree, so that its visitors may recurse."""

MAX_SYNTAX_ERRORS = 50


@attrs.frozen
class Part:
    """A stretch of a file that parses on its own: its text, and its items."""

    text: str
    span: Span
    items: tuple[nodes.Item, ...]
    docs: tuple[Span, ...]
    """Comments that are documentation of the items."""


@attrs.frozen
class Reading:
    """What of a text is right, and every fault of the rest, in order."""

    file: nodes.File
    problems: tuple[Diagnostic, ...]
    parts: tuple[Part, ...] = ()


NOTHING_KNOWN: Mapping[str, Part] = {}


def parse(source: Source) -> nodes.File:
    """The syntax tree of a rule file. Raises RuleError with every fault found."""
    reading = read(source)
    if reading.problems:
        raise RuleError(reading.problems)
    return reading.file


def read(source: Source, known: Mapping[str, Part] = NOTHING_KNOWN) -> Reading:
    """The items of a rule file that parse, whatever is wrong with the others.

    After a syntax error, reading resumes at the next line that seems to start an item.
    `known` are parts of earlier readings by their text; they are not parsed again.
    """
    overview = scan(source)
    if overview.is_unfit:
        return Reading(nodes.File(()), overview.problems)
    reader = _Reader(source, overview, known)
    reader.read()
    docs = {span for part in reader.parts for span in part.docs}
    comments = tuple(c for c in overview.comments if c.span not in docs)
    items = tuple(item for part in reader.parts for item in part.items)
    problems = overview.problems or _in_order(reader.problems)
    return Reading(nodes.File(items, comments), problems, tuple(reader.parts))


@attrs.define
class _Reader:
    """Parses a source part by part; what is wrong with one concerns no other."""

    source: Source
    overview: Scan
    known: Mapping[str, Part]
    parts: list[Part] = attrs.field(factory=list)
    problems: list[Diagnostic] = attrs.field(factory=list)
    _errors: int = 0

    def read(self) -> None:
        pending = list(split_items(self.source.text))[::-1]
        while pending and self._errors < MAX_SYNTAX_ERRORS:
            span = pending.pop()
            if self._read(span, joined=span.to(pending[-1]) if pending else None):
                pending.pop()

    def _read(self, span: Span, joined: Span | None) -> bool:
        """Read a part; True if it only parses together with the one that follows."""
        known = self.known.get(self._text(span))
        if known is not None:
            self.parts.append(_moved(known, span))
            return False
        if any(_overlap(problem.span, span) for problem in self.overview.problems):
            return False
        try:
            self._add(span, self._parse(span))
        except UnexpectedInput as error:
            unexpected = _unexpected(error, span)
            if joined is not None and unexpected.kind == END and self._try(joined):
                return True
            self._errors += 1
            found = explain(self.source, self.overview, span, unexpected)
            self.problems.append(found)
        return False

    def _try(self, span: Span) -> bool:
        """Whether a part parses, such as one whose line `op in F` goes on a `for`."""
        try:
            self._add(span, self._parse(span))
        except UnexpectedInput:
            return False
        return True

    def _parse(self, span: Span) -> Tree[Token]:
        return _lark().parse(self._text(span))

    def _add(self, span: Span, tree: Tree[Token]) -> None:
        too_deep = _find_too_deep(tree)
        if too_deep is not None:
            message = "this expression is too long or nested too deep"
            hint = "give its parts names, `part = …`"
            place = _moved_span(_span(too_deep.meta), span.start)
            found = Diagnostic("E105", message, place, self.source, hint=hint)
            self.problems.append(found)
            return
        builder = Builder(self.source, self.overview.comments)
        items = _Build(builder, span.start).transform(tree)
        self.problems += builder.problems
        if not builder.problems:
            docs = tuple(builder.docs)
            self.parts.append(Part(self._text(span), span, items, docs))

    def _text(self, span: Span) -> str:
        return self.source.text[span.start : span.end]


def _in_order(problems: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    return tuple(sorted(problems, key=lambda found: found.span.start))


def _overlap(one: Span, other: Span) -> bool:
    return one.start < other.end and other.start < one.end


def _moved(part: Part, span: Span) -> Part:
    by = span.start - part.span.start
    return moved(part, by) if by else part


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
    loaded = Lark._load_from_dict(
        **table, postlex=_WholeWords(), propagate_positions=True
    )
    callbacks = loaded.parser.parser.parser.callbacks
    callbacks.update({rule: _ONLY_CHILD for rule in callbacks if _passes_on(rule)})
    return cast("Lark", loaded)


_ONLY_CHILD = itemgetter(0)


def _passes_on(rule: object) -> bool:
    """Whether a rule hands on its only child, as each level of precedence does.

    lark builds a node, finds that it has one child, and compares positions; nine in
    ten reductions are of this kind.
    """
    return (
        isinstance(rule, Rule)
        and bool(rule.options.expand1)
        and rule.alias is None
        and len(rule.expansion) == 1
        and not rule.expansion[0].is_term
    )


def _numbered(entries: dict[str, Any]) -> dict[str | int, Any]:
    """Makes keys numbers again, which JSON cannot have."""
    return {int(key) if key.isdigit() else key: e for key, e in entries.items()}


class _Build(Transformer_NonRecursive[Token, tuple[nodes.Item, ...]]):
    """Hands each subtree, bottom-up, to the builder's method of the same name."""

    def __init__(self, builder: Builder, start: int) -> None:
        super().__init__()
        self._builder = builder
        self._start = start

    def __default__(self, data: str, children: list[Any], meta: Any) -> Any:
        span = _moved_span(_span(meta), self._start)
        return getattr(self._builder, data)(span, *children)

    def __default_token__(self, token: Token) -> Word:
        span = Span(cast(int, token.start_pos), _end(token))
        return Word(str(token), _moved_span(span, self._start))


def _span(meta: Any) -> Span:
    return NOWHERE if meta.empty else Span(meta.start_pos, meta.end_pos)


def _end(token: Token) -> int:
    return cast(int, token.end_pos)


def _moved_span(span: Span, by: int) -> Span:
    return Span(span.start + by, span.end + by)


def _find_too_deep(tree: Tree[Token]) -> Tree[Token] | None:
    level: list[Tree[Token]] = [tree]
    for _ in range(MAX_DEPTH):
        level = [c for t in level for c in t.children if isinstance(c, Tree)]
        if not level:
            return None
    return level[0]


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
