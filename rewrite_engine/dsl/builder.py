"""Syntax nodes from what the grammar recognised: one method per grammar rule."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from typing import Any, cast

import attrs

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.nodes import Comment, Constant, Expr
from rewrite_engine.errors import Diagnostic
from rewrite_engine.source import Source, Span

MAX_NAME = 128
MAX_INTEGER = 2**63 - 1
MAX_DIGITS = 64

RESERVED = frozenset(
    "and buffer else erase false if is keep meta none not or param return true where"
    " None True False".split()
)
"""Words that name nothing. A parameter keyword (`where=1`) may be any word, and
`where(…)` is a call."""

_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {'"': '"', "\\": "\\", "n": "\n", "t": "\t"}
_CONSTANTS = {"true": True, "false": False, "none": None}


@attrs.frozen
class Word:
    """One token of the text."""

    text: str
    span: Span


@attrs.frozen
class _Modifier:
    """`field` of a rule, and the word that sets it."""

    field: str
    word: str
    value: Any
    span: Span


class Builder:
    """Builds nodes bottom-up; `problems` gathers what the grammar cannot exclude."""

    def __init__(self, source: Source, comments: tuple[Comment, ...]) -> None:
        self.problems: list[Diagnostic] = []
        self._source = source
        self._comments = comments
        self._ends = [comment.span.end for comment in comments]
        self._docs: set[Span] = set()

    # --- items ---

    def start(self, span: Span, *items: nodes.Item) -> nodes.File:
        comments = (c for c in self._comments if c.span not in self._docs)
        return nodes.File(items, tuple(comments))

    def use_file(
        self, span: Span, path: Word, names: tuple[str, ...] | None
    ) -> nodes.Use:
        return nodes.Use(self._text(path), names or (), span=span)

    def use_hooks(
        self, span: Span, module: Word, names: tuple[str, ...]
    ) -> nodes.UseHooks:
        return nodes.UseHooks(self._word(module), names, span=span)

    def op_def(
        self,
        span: Span,
        name: Word,
        spellings: tuple[nodes.Name, ...],
        commutes: tuple[int, ...] | None,
        when: Expr | None,
    ) -> nodes.OpDef:
        doc = self._doc(span)
        return nodes.OpDef(
            self._word(name), spellings, commutes or (), when, doc, span=span
        )

    def spellings(self, span: Span, *names: nodes.Name) -> tuple[nodes.Name, ...]:
        return names

    def spelling(self, span: Span, word: Word) -> nodes.Name:
        return nodes.Name(self._word(word), span=span)

    def commutes(self, span: Span, *positions: Word) -> tuple[int, ...]:
        return tuple(self._count(word) for word in positions)

    def family_def(
        self,
        span: Span,
        name: Word,
        parameters: tuple[nodes.Name | nodes.LiteralName, ...],
        *rows: nodes.Row,
    ) -> nodes.FamilyDef:
        doc = self._doc(span)
        return nodes.FamilyDef(self._word(name), parameters, rows, doc, span=span)

    def row(self, span: Span, *values: Expr) -> nodes.Row:
        return nodes.Row(tuple(map(_as_spelling, values)), span=span)

    def bare_row(self, span: Span, name: nodes.Name) -> nodes.Row:
        return nodes.Row((name,), span=span)

    def pattern_def(
        self,
        span: Span,
        name: Word,
        parameters: tuple[nodes.Name | nodes.LiteralName, ...] | None,
        value: Expr,
    ) -> nodes.PatternDef:
        doc = self._doc(span)
        return nodes.PatternDef(
            self._word(name), parameters or (), value, doc, span=span
        )

    def parameters(
        self, span: Span, *parameters: nodes.Name | nodes.LiteralName
    ) -> tuple[nodes.Name | nodes.LiteralName, ...]:
        return parameters

    def parameter(self, span: Span, word: Word) -> nodes.Name | nodes.LiteralName:
        if word.text.startswith("$"):
            return self.literal_name(span, word)
        return self.name(span, word)

    def names(self, span: Span, *words: Word) -> tuple[str, ...]:
        return tuple(map(self._word, words))

    # --- rules ---

    def rule_def(self, span: Span, name: Word, *parts: Any) -> nodes.RuleDef:
        *modifiers, left, right = parts
        return nodes.RuleDef(
            self._word(name),
            left,
            right,
            doc=self._doc(span),
            span=span,
            name_span=name.span,
            **self._modifiers(modifiers),
        )

    def _modifiers(self, modifiers: list[_Modifier]) -> dict[str, Any]:
        given: dict[str, _Modifier] = {}
        for modifier in modifiers:
            earlier = given.setdefault(modifier.field, modifier)
            if earlier is not modifier:
                message = f"`{modifier.word}` after `{earlier.word}`: a rule takes one"
                self._problem("E109", message, modifier.span)
        return {field: modifier.value for field, modifier in given.items()}

    def for_family(
        self,
        span: Span,
        parameters: nodes.Name
        | nodes.LiteralName
        | tuple[nodes.Name | nodes.LiteralName, ...],
        family: Word,
    ) -> _Modifier:
        if not isinstance(parameters, tuple):
            parameters = (parameters,)
        value = nodes.ForFamily(parameters, self._word(family), span=span)
        return _Modifier("family", "for", value, span)

    def strategy(self, span: Span, word: Word) -> _Modifier:
        return _Modifier("strategy", word.text, word.text, span)

    def benefit(self, span: Span, number: Word) -> _Modifier:
        return _Modifier("benefit", "benefit", self._count(number), span)

    def exact(self, span: Span) -> _Modifier:
        return _Modifier("precision", "exact", nodes.Precision(0.0, span=span), span)

    def inexact(self, span: Span, tolerance: Constant | None) -> _Modifier:
        precision = nodes.Precision(_tolerance(tolerance), span=span)
        return _Modifier("precision", "inexact", precision, span)

    def left(
        self, span: Span, *statements: nodes.LeftStatement
    ) -> tuple[nodes.LeftStatement, ...]:
        return statements

    def right(
        self, span: Span, *statements: nodes.RightStatement
    ) -> tuple[nodes.RightStatement, ...]:
        return statements

    def bind(self, span: Span, name: Word, value: Expr) -> nodes.Bind:
        return nodes.Bind(self._word(name), value, span=span)

    def where(self, span: Span, *parts: Any) -> nodes.Where:
        *guards, reason = parts
        text = None if reason is None else self._text(reason)
        return nodes.Where(tuple(guards), text, span=span)

    def replace(self, span: Span, name: Word, value: Expr) -> nodes.Replace:
        return nodes.Replace(self._word(name)[:-1], value, span=span)

    def constructed(
        self, span: Span, kind: Word, name: Word, value: Expr
    ) -> nodes.Constructed:
        chosen = cast("Any", kind.text)
        return nodes.Constructed(chosen, self._word(name), value, span=span)

    def assign(self, span: Span, path: Word, value: Expr) -> nodes.Assign:
        module, _, attribute = self._word(path).rpartition(".")
        return nodes.Assign(module, attribute, value, span=span)

    def meta(
        self,
        span: Span,
        names: tuple[str, ...],
        origin: Word,
        keys: tuple[str, ...] | None,
    ) -> nodes.Meta:
        return nodes.Meta(names, self._word(origin), keys or (), span=span)

    def targets(self, span: Span, *words: Word) -> tuple[str, ...]:
        return tuple(map(self._word, words))

    def keys(self, span: Span, *words: Word) -> tuple[str, ...]:
        return tuple(map(self._identifier, words))

    def keep(self, span: Span, names: tuple[str, ...]) -> nodes.Keep:
        return nodes.Keep(names, span=span)

    def erase(self, span: Span, names: tuple[str, ...]) -> nodes.Erase:
        return nodes.Erase(names, span=span)

    # --- pipelines and tests ---

    def pipeline_def(
        self, span: Span, name: Word, *phases: nodes.Phase
    ) -> nodes.PipelineDef:
        doc = self._doc(span)
        return nodes.PipelineDef(self._word(name), phases, doc, span=span)

    def phase(self, span: Span, strategy: Word, *rules: Word) -> nodes.Phase:
        chosen = cast("Any", strategy.text)
        return nodes.Phase(chosen, tuple(map(self._word, rules)), span=span)

    def test_def(
        self,
        span: Span,
        title: Word,
        given: tuple[nodes.Given, ...],
        body: tuple[tuple[nodes.Bind, ...], tuple[Expr, ...]],
        expect: tuple[nodes.ExpectCount, ...],
    ) -> nodes.TestDef:
        binds, returns = body
        doc = self._doc(span)
        return nodes.TestDef(
            self._text(title), given, binds, returns, expect, doc, span=span
        )

    def givens(self, span: Span, *values: nodes.Given | None) -> tuple[Any, ...]:
        return tuple(value for value in values if value is not None)

    def given(
        self, span: Span, name: Word, role: Word | None, type_: nodes.TensorType
    ) -> nodes.Given:
        chosen = cast("Any", role.text if role else "input")
        return nodes.Given(self._word(name), type_, chosen, span=span)

    def body(self, span: Span, *parts: Any) -> tuple[tuple[Any, ...], Any]:
        return parts[:-1], parts[-1]

    def returns(self, span: Span, *values: Expr) -> tuple[Expr, ...]:
        return values

    def expectations(self, span: Span, *values: Any) -> tuple[Any, ...]:
        return values

    def expect_count(
        self, span: Span, rule: Word, _times: Word, count: Word
    ) -> nodes.ExpectCount:
        return nodes.ExpectCount(self._word(rule), self._count(count), span=span)

    def expect_equal(self, span: Span, tolerance: Constant | None) -> nodes.ExpectEqual:
        return nodes.ExpectEqual(_tolerance(tolerance), span=span)

    def expect_refusal(
        self, span: Span, rule: Word, reason: Word
    ) -> nodes.ExpectRefusal:
        return nodes.ExpectRefusal(self._word(rule), self._text(reason), span=span)

    # --- expressions ---

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

    def matches(self, span: Span, name: Word, pattern: Expr) -> nodes.Matches:
        return nodes.Matches(self._word(name), pattern, span=span)

    def alternatives(self, span: Span, *options: Expr) -> nodes.Alternatives:
        flat: list[Expr] = []
        for option in options:
            grouped = isinstance(option, nodes.Alternatives)
            flat.extend(option.options if grouped else (option,))
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
        self._identifier(Word(word.text[1:], span))
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
        return nodes.Rest(self._word(Word(word.text[2:], span)), span=span)

    def keyword(self, span: Span, name: Word, value: Expr) -> nodes.Keyword:
        return nodes.Keyword(self._identifier(name), value, span=span)

    def call(
        self, span: Span, callee: Word, mark: Word | None, *arguments: Any
    ) -> nodes.Call:
        self._check_order(arguments)
        name = (
            self._identifier(callee) if callee.text == "where" else self._word(callee)
        )
        sign = mark.text if mark else ""
        return nodes.Call(
            nodes.Name(name, span=callee.span),
            tuple(
                a for a in arguments if not isinstance(a, nodes.Keyword | nodes.Rest)
            ),
            tuple(a for a in arguments if isinstance(a, nodes.Keyword)),
            next((a for a in arguments if isinstance(a, nodes.Rest)), None),
            optional=sign == "?",
            chain=cast("Any", sign[1:]),
            span=span,
        )

    def _check_order(self, arguments: tuple[Any, ...]) -> None:
        ranks = [_argument_rank(argument) for argument in arguments]
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

    # --- words and documentation ---

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

    def _doc(self, item: Span) -> str:
        """The text of the `##` lines right above an item, which then are no comments."""
        lines: list[Comment] = []
        below = item.start
        for index in range(bisect_right(self._ends, item.start) - 1, -1, -1):
            comment = self._comments[index]
            gap = self._source.text[comment.span.end : below]
            if not _is_doc(comment) or gap.strip() or gap.count("\n") != 1:
                break
            lines.append(comment)
            below = comment.span.start
        doc = "\n".join(c.text[2:].removeprefix(" ") for c in reversed(lines))
        if not doc.strip():
            return ""
        self._docs.update(comment.span for comment in lines)
        return doc


_POSITIONAL, _KEYWORD, _REST = range(3)


def _argument_rank(argument: Any) -> int:
    if isinstance(argument, nodes.Rest):
        return _REST
    return _KEYWORD if isinstance(argument, nodes.Keyword) else _POSITIONAL


def _as_spelling(value: Expr) -> Expr:
    """A dotted name in a family row names an operator, not a module's state."""
    if not isinstance(value, nodes.StateRead):
        return value
    return nodes.Name(f"{value.module}.{value.attribute}", span=value.span)


def _tolerance(number: Constant | None) -> float | None:
    return None if number is None else float(cast(float, number.value))


def _is_unsigned(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.copysign(1, value) > 0


def _is_doc(comment: Comment) -> bool:
    return comment.own_line and comment.text.startswith("##")
