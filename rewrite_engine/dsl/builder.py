"""Syntax nodes from what the grammar recognised: one method per grammar rule."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, cast

import attrs

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.expression_builder import ExpressionBuilder
from rewrite_engine.dsl.lalr import Word
from rewrite_engine.dsl.nodes import Comment, Constant, Expr
from rewrite_engine.source import Source, Span


@attrs.frozen
class _Modifier:
    """`field` of a rule, and the word that sets it."""

    field: str
    word: str
    value: Any
    span: Span


class Builder(ExpressionBuilder):
    """Builds items bottom-up; comments that document an item become its `doc`.

    `docs` gathers those comments.
    """

    def __init__(self, source: Source, comments: tuple[Comment, ...]) -> None:
        super().__init__(source)
        self._comments = comments
        self.docs: set[Span] = set()

    # --- items ---

    def start(self, span: Span, *items: nodes.Item) -> tuple[nodes.Item, ...]:
        return items

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

    def spelling(
        self, span: Span, word: Word, subclasses: Word | None = None
    ) -> nodes.Name:
        sign = "" if subclasses is None else "+"
        return nodes.Name(self._word(word) + sign, span=span)

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
        *modifiers, claim, left, right = parts
        if claim is not None:
            modifiers.append(claim)
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

    def claim(self, span: Span, precision: _Modifier, when: Expr) -> _Modifier:
        value = attrs.evolve(precision.value, when=when, span=span)
        return attrs.evolve(precision, value=value, span=span)

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

    def assign(
        self, span: Span, own: Word | None, target: Word, value: Expr
    ) -> nodes.Assign:
        return nodes.Assign(self._word(target), value, own is not None, span=span)

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

    # --- documentation ---

    def _doc(self, item: Span) -> str:
        """The text of the `##` lines right above an item; they are no comments then."""
        lines: list[Comment] = []
        below = item.start
        above = bisect_right(self._comments, item.start, key=_end)
        for index in range(above - 1, -1, -1):
            comment = self._comments[index]
            gap = self._source.text[comment.span.end : below]
            if not _is_doc(comment) or gap.strip() or gap.count("\n") != 1:
                break
            lines.append(comment)
            below = comment.span.start
        doc = "\n".join(c.text[2:].removeprefix(" ") for c in reversed(lines))
        if not doc.strip():
            return ""
        self.docs.update(comment.span for comment in lines)
        return doc


def _as_spelling(value: Expr) -> Expr:
    """A dotted name in a family row names an operator, not a module's state."""
    if not isinstance(value, nodes.StateRead):
        return value
    return nodes.Name(f"{value.module}.{value.attribute}", span=value.span)


def _tolerance(number: Constant | None) -> float | None:
    return None if number is None else float(cast(float, number.value))


def _end(comment: Comment) -> int:
    return comment.span.end


def _is_doc(comment: Comment) -> bool:
    return comment.own_line and comment.text.startswith("##")
