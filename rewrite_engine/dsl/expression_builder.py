"""Expressions, names, numbers and strings from what the grammar recognised."""

from __future__ import annotations

import math
import re
from typing import Any, cast

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.lalr import Word
from rewrite_engine.dsl.nodes import Constant, Expr
from rewrite_engine.errors import Diagnostic
from rewrite_engine.source import Source, Span

MAX_NAME = 128
MAX_INTEGER = 2**63 - 1
MAX_DIGITS = 64


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


RESERVED = _words(
    "and buffer else erase false if is keep meta none not or param return true "
    "where None True False"
)
"""Words that name nothing. A parameter keyword (`where=1`) may be any word, and
`where(…)` is a call."""

_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {'"': '"', "\\": "\\", "n": "\n", "t": "\t"}
_CONSTANTS = {"true": True, "false": False, "none": None}


class ExpressionBuilder:
    """Builds expressions; `problems` gathers what the grammar cannot exclude.

    Each public method takes the span and the built children of one grammar rule.
    """

    def __init__(self, source: Source) -> None:
        self.problems: list[Diagnostic] = []
        self._source = source

    def if_else(
        self, span: Span, then: Expr, condition: Expr, otherwise: Expr
    ) -> nodes.IfElse:
        return nodes.IfElse(then, condition, otherwise, span=span)

    def or_(self, span: Span, left: Expr, right: Expr) -> nodes.Or:
        return nodes.Or(left, right, span=span)

    def and_(self, span: Span, left: Expr, right: Expr) -> nodes.And:
        return nodes.And(left, right, span=span)

    def not_(self, span: Span, _word: Word, value: Expr) -> nodes.Not:
        return nodes.Not(value, span=span)

    def compare(
        self, span: Span, left: Expr, operator: Word, right: Expr
    ) -> nodes.Compare:
        return nodes.Compare(cast("Any", operator.text), left, right, span=span)

    def has_type(self, span: Span, name: Word, type_: nodes.TensorType) -> Expr:
        return nodes.HasType(self._word(name), type_, span=span)

    def is_const(self, span: Span, name: Word) -> nodes.IsConst:
        return nodes.IsConst(self._word(name), span=span)

    def matches(self, span: Span, value: Expr, pattern: Expr) -> nodes.Matches:
        match value:
            case nodes.Name(id) if "." not in id and "'" not in id:
                return nodes.Matches(id, pattern, span=span)
            case nodes.Call(nodes.Name("readers"), (nodes.Name(id),), ()):
                return nodes.Matches(id, pattern, of_readers=True, span=span)
        message = "`~` compares a name, or the `readers(…)` of one, with a pattern"
        self._problem("E102", message, value.span)
        return nodes.Matches("_", pattern, span=span)

    def alternatives(self, span: Span, *options: Expr) -> nodes.Alternatives:
        flat: list[Expr] = []
        for option in options:
            inner = option.options if isinstance(option, nodes.Alternatives) else ()
            flat.extend(inner or (option,))
        return nodes.Alternatives(tuple(flat), span=span)

    def infix(self, span: Span, left: Expr, operator: Word, right: Expr) -> nodes.Infix:
        return nodes.Infix(cast("Any", operator.text), left, right, span=span)

    def negate(self, span: Span, _minus: Word, value: Expr) -> Expr:
        if isinstance(value, Constant) and _is_unsigned(value.value):
            return Constant(-cast(float, value.value), span=span)
        return nodes.Negate(value, span=span)

    def optional(self, span: Span, value: Expr) -> nodes.Optional:
        return nodes.Optional(value, span=span)

    def name(self, span: Span, word: Word) -> nodes.Name:
        return nodes.Name(self._word(word), span=span)

    def path(self, span: Span, word: Word) -> Expr:
        head, _, attribute = self._word(word).rpartition(".")
        if "." in head or head == "torch":
            return nodes.Name(word.text, span=span)
        return nodes.StateRead(head, attribute, span=span)

    def literal_name(self, span: Span, word: Word) -> nodes.LiteralName:
        self._identifier(Word(word.text[1:], span.start, span.end))
        return nodes.LiteralName(word.text[1:], span=span)

    def wildcard(self, span: Span) -> nodes.Wildcard:
        return nodes.Wildcard(span=span)

    def integer(self, span: Span, word: Word) -> Constant:
        return Constant(self._count(word), span=span)

    def real(self, span: Span, word: Word) -> Constant:
        value = float(word.text) if len(word.text) <= MAX_DIGITS else math.inf
        if math.isfinite(value):
            return Constant(value, span=span)
        self._problem("E104", "this number is not a finite double", span)
        return Constant(0.0, span=span)

    def string(self, span: Span, word: Word) -> Constant:
        return Constant(self._text(word), span=span)

    def constant(self, span: Span, word: Word) -> Constant:
        return Constant(_CONSTANTS[word.text], span=span)

    def list_expr(self, span: Span, *items: Expr) -> nodes.ListExpr:
        return nodes.ListExpr(items, span=span)

    def capture(self, span: Span, name: Word, value: Expr) -> nodes.Capture:
        return nodes.Capture(self._word(name), value, span=span)

    def star(self, span: Span, _star: Word, name: Word) -> nodes.Star:
        return nodes.Star(self._word(name), span=span)

    def rest(self, span: Span, word: Word) -> nodes.Rest:
        if word.text == "..":
            return nodes.Rest(span=span)
        return nodes.Rest(
            self._word(Word(word.text[2:], span.start, span.end)), span=span
        )

    def keyword(self, span: Span, name: Word, value: Expr) -> nodes.Keyword:
        return nodes.Keyword(self._identifier(name), value, span=span)

    def call(
        self, span: Span, callee: Word, mark: Word | None, *arguments: Any
    ) -> nodes.Call:
        ranks = list(map(_argument_rank, arguments))
        self._check_order(ranks, arguments)
        is_where = callee.text == "where"
        name = self._identifier(callee) if is_where else self._word(callee)
        sign = mark.text if mark else ""
        by_rank: tuple[list[Any], ...] = [], [], []
        for rank, argument in zip(ranks, arguments, strict=True):
            by_rank[rank].append(argument)
        positional, keywords, rests = by_rank
        return nodes.Call(
            nodes.Name(name, span=callee.span),
            tuple(positional),
            tuple(keywords),
            rests[0] if rests else None,
            optional=sign == "?",
            chain=cast("Any", sign[1:]),
            span=span,
        )

    def _check_order(self, ranks: list[int], arguments: tuple[Any, ...]) -> None:
        if not any(ranks):
            return
        for before, after, argument in zip(
            ranks, ranks[1:], arguments[1:], strict=False
        ):
            if before == _REST:
                message = "`..` is the last argument of a call"
                self._problem("E102", message, argument.span)
            elif after < before:
                message = "a positional argument comes before `key=value` arguments"
                self._problem("E102", message, argument.span)

    def tensor_type(self, span: Span, *parts: Any) -> nodes.TensorType:
        dtypes, shape = parts if len(parts) == 2 else ((), parts[0])
        return nodes.TensorType(dtypes, shape, span=span)

    def dtypes(self, span: Span, *names: Word) -> tuple[str, ...]:
        return tuple(map(self._word, names))

    def shape(self, span: Span, *dimensions: Expr | None) -> tuple[Expr, ...]:
        return tuple(size for size in dimensions if size is not None)

    # --- words ---

    def _problem(
        self, code: str, message: str, span: Span, hint: str | None = None
    ) -> None:
        self.problems.append(Diagnostic(code, message, span, self._source, hint=hint))

    def _word(self, word: Word) -> str:
        """The text of a name, dotted or not, that is no reserved word."""
        stem = word.text.removesuffix("'")
        if stem not in RESERVED:
            return self._identifier(word)
        hint = None
        if stem in ("None", "True", "False"):
            hint = f"the constant is written `{stem.lower()}`"
        message = f"`{stem}` is a word of the language and names nothing"
        self._problem("E107", message, word.span, hint)
        return word.text

    def _identifier(self, word: Word) -> str:
        if len(word.text) <= MAX_NAME and "__" not in word.text:
            return word.text
        stem = word.text.removesuffix("'").removesuffix(".*")
        for part in stem.split("."):
            if len(part) > MAX_NAME:
                message = f"a name has at most {MAX_NAME} characters"
                self._problem("E107", message, word.span)
            elif part.startswith("__") and part.endswith("__") and part != "":
                message = f"`{part}`: names of the form `__x__` are not allowed"
                self._problem("E107", message, word.span)
        return word.text

    def _count(self, word: Word) -> int:
        digits = word.text.lstrip("0") or "0"
        if len(digits) <= MAX_DIGITS and int(digits) <= MAX_INTEGER:
            return int(digits)
        self._problem("E104", "this integer does not fit in 64 bits", word.span)
        return 0

    def _text(self, word: Word) -> str:
        inner = word.text[1:-1]
        for found in _ESCAPE.finditer(inner):
            if found[1] in _ESCAPES:
                continue
            start = word.span.start + 1 + found.start()
            message = f"`{found[0]}` is no escape of a string"
            hint = 'the escapes are `\\"`, `\\\\`, `\\n` and `\\t`'
            self._problem("E106", message, Span(start, start + 2), hint)
        return _ESCAPE.sub(lambda found: _ESCAPES.get(found[1], found[0]), inner)


_POSITIONAL, _KEYWORD, _REST = range(3)


def _argument_rank(argument: Any) -> int:
    if isinstance(argument, nodes.Rest):
        return _REST
    return _KEYWORD if isinstance(argument, nodes.Keyword) else _POSITIONAL


def _is_unsigned(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.copysign(1, value) > 0
