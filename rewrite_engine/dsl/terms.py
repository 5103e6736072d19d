"""The left side of a rule: expressions to terms, with macros expanded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from rewrite_engine.dsl import calls, nodes
from rewrite_engine.dsl.checked import (
    Anything,
    Apply,
    Captured,
    Chain,
    Either,
    FamilyUse,
    Hole,
    Items,
    Literal,
    LiteralVariable,
    Maybe,
    Operand,
    Operator,
    Reference,
    Slot,
    Term,
    Variable,
)
from rewrite_engine.dsl.conditions import report_state_read
from rewrite_engine.dsl.functions import Function
from rewrite_engine.dsl.left_names import Frame, LeftNames
from rewrite_engine.dsl.names import Entry, parameter_key
from rewrite_engine.dsl.operand_kinds import is_literal
from rewrite_engine.dsl.operands import check_arguments, check_kinds, kind_of, listed
from rewrite_engine.dsl.operators import Operators
from rewrite_engine.dsl.scopes import Definition, Scope
from rewrite_engine.dsl.walk import terms_in, walk
from rewrite_engine.source import Span

_HOLE: Final = "(hole)"  # no name that a text can hold

MAX_OPERATORS: Final = 256
"""Operators and expanded patterns of one left side."""

MAX_DEPTH: Final = 100
"""Levels of a left side after the expansion of patterns."""


@attrs.define(eq=False)
class Left:
    """Resolves the expressions of one left side."""

    scope: Scope
    operators: Operators
    names: LeftNames
    family: FamilyUse | None = None
    _size: int = 0
    _depth: int = 0
    _was_full: bool = False

    def term(self, expr: nodes.Expr, frame: Frame) -> Term:
        """The term of an expression; what is wrong is reported and matches anything."""
        if self._is_full(expr, frame):
            return Anything(span=frame.place(expr.span))
        self._depth += 1
        try:
            return self._term(expr, frame)
        finally:
            self._depth -= 1

    def operand(self, expr: nodes.Expr, frame: Frame) -> Term:
        """As `term`; an operand may also be optional, `b?`."""
        if isinstance(expr, nodes.Optional):
            value = self.term(expr.value, frame)
            return Maybe(value, span=frame.place(expr.span))
        return self.term(expr, frame)

    def _is_full(self, expr: nodes.Expr, frame: Frame) -> bool:
        if self._size <= MAX_OPERATORS and self._depth < MAX_DEPTH:
            return False
        what = (
            f"more than {MAX_OPERATORS} operators"
            if self._size > MAX_OPERATORS
            else f"more than {MAX_DEPTH} levels"
        )
        message = f"this has {what} once its patterns are expanded"
        # One finding for each rule or pattern, wherever the limit was passed.
        if not self._was_full:
            self.scope.report("E507", message, frame.place(expr.span))
        self._was_full = True
        return True

    def _term(self, expr: nodes.Expr, frame: Frame) -> Term:
        span = frame.place(expr.span)
        match expr:
            case nodes.Name():
                return self.names.value(expr, frame)
            case nodes.LiteralName():
                return self.names.literal(expr, frame)
            case nodes.Constant(value):
                return Literal(value, span=span)
            case nodes.Wildcard():
                return Anything(span=span)
            case nodes.ListExpr():
                return self._list(expr, frame)
            case nodes.Call():
                return self._call(expr, frame)
            case nodes.Capture():
                return self._capture(expr, frame)
            case nodes.Alternatives(options):
                return _either(tuple(self.term(o, frame) for o in options), span)
            case nodes.Infix(sign, left, right) | nodes.Compare(sign, left, right):
                operator = self.operators.infix(frame.scope, sign, expr.span)
                return self._sign(operator, (left, right), expr, frame)
            case nodes.Negate(value):
                operator = self.operators.negate(frame.scope, expr.span)
                return self._sign(operator, (value,), expr, frame)
        return self._misplaced(expr, frame)

    def _misplaced(self, expr: nodes.Expr, frame: Frame) -> Term:
        if isinstance(expr, nodes.StateRead):
            report_state_read(frame.scope, expr)
        else:
            message = f"{_FORMS.get(type(expr), 'this')} has no place in a pattern"
            frame.scope.report("E407", message, expr.span)
            self._declare_names(expr, frame)
        return Anything(span=frame.place(expr.span))

    def _declare_names(self, expr: nodes.Expr, frame: Frame) -> None:
        """Take the names of a wrong form as bound: they are not wrong as well."""
        for part in walk(expr):
            if isinstance(part, nodes.LiteralName):
                self.names.literal(part, frame)
            elif isinstance(part, nodes.Name) and _is_free(part, frame):
                self.names.value(part, frame)
            elif isinstance(part, nodes.HasType | nodes.Matches | nodes.IsConst):
                self.names.value(nodes.Name(part.id, span=part.span), frame)

    def _list(self, expr: nodes.ListExpr, frame: Frame) -> Term:
        span = frame.place(expr.span)
        stars = [item for item in expr.items if isinstance(item, nodes.Star)]
        if len(stars) > 1:
            message = "a list has at most one `*name`"
            frame.scope.report("E407", message, stars[1].span)
        items = tuple(
            self.names.others(item, frame)
            if isinstance(item, nodes.Star)
            else self.term(item, frame)
            for item in expr.items
        )
        values = tuple(item.value for item in items if isinstance(item, Literal))
        if len(values) == len(items):
            return Literal(values, span=span)
        return Items(items, span=span)

    # --- calls ---

    def _sign(
        self,
        operator: Operator | None,
        operands: tuple[nodes.Expr, ...],
        expr: nodes.Expr,
        frame: Frame,
    ) -> Term:
        span = frame.place(expr.span)
        self._size += 1
        terms = [self.term(operand, frame) for operand in operands]
        if all(is_literal(kind_of(term)) for term in terms):
            message = "arithmetic on literals has no place in a pattern"
            hint = "capture a literal, `$k`, and compare it in `where`"
            frame.scope.report("E407", message, expr.span, hint=hint)
        if operator is None:
            return Anything(span=span)
        keyed = (Operand(i, t, span=t.span) for i, t in enumerate(terms))
        return Apply(operator, tuple(keyed), span=span)

    def _call(self, call: nodes.Call, frame: Frame) -> Term:
        self._size += 1
        if call.chain:
            return self._chain(call, frame)
        target = self._target(call.callee, frame)
        if isinstance(target, Definition):
            body, first = self._expand(target, call, frame)
            if not call.optional or first is None:
                return body
            return _either((body, first), frame.place(call.span))
        if isinstance(target, Function):
            message = f"`{target.name}` is computed and has no place in a pattern"
            hint = "compare it in `where`"
            frame.scope.report("E407", message, call.callee.span, hint=hint)
            return Anything(span=frame.place(call.span))
        operands = self._operands(call, frame)
        if isinstance(target, Operator) and target.spellings[0].kind == "hook":
            message = f"`{target.name}` is a hook: it is computed, not matched"
            frame.scope.report("E407", message, call.callee.span)
            return Anything(span=frame.place(call.span))
        if target is None:
            return Anything(span=frame.place(call.span))
        return self._apply(target, operands, call, frame)

    def _chain(self, call: nodes.Call, frame: Frame) -> Term:
        span = frame.place(call.span)
        if not call.args:
            message = "a chain goes on at its first operand, and there is none"
            frame.scope.report("E401", message, call.span)
            return Anything(span=span)
        inner, hole = self.term(call.args[0], frame), Hole(span=span)
        first = nodes.Name(_HOLE, span=call.args[0].span)
        one = attrs.evolve(call, args=(first, *call.args[1:]), chain="")
        inside = attrs.evolve(frame, parameters={**frame.parameters, _HOLE: hole})
        known = dict(self.names.entries)
        link = self.term(one, inside)
        for term in terms_in(link):
            self._check_link(term, known, frame)
        entries = self.names.entries
        for name in entries.keys() - known.keys():
            entries[name] = attrs.evolve(entries[name], kind="each")
        return Chain(link, hole, inner, 1 if call.chain == "+" else 0, span=span)

    def _check_link(self, term: Term, known: Mapping[str, Entry], frame: Frame) -> None:
        """Report what cannot be repeated from link to link."""
        if isinstance(term, Captured | Maybe | Chain | Reference):
            message = "a link of a chain holds calls and names only"
            frame.scope.report("E407", message, term.span)
        elif isinstance(term, Variable | LiteralVariable) and term.name in known:
            message = f"`{term.name}` stands inside and outside of a chain"
            notes = (known[term.name].note(),)
            frame.scope.report("E203", message, term.span, notes=notes)

    def _target(
        self, callee: nodes.Name, frame: Frame
    ) -> Operator | Slot | Definition | Function | None:
        is_slot = self.family is not None and callee.id == self.family.slot
        if is_slot and not frame.expanding:
            return Slot(callee.id)
        return self.operators.callee(frame.scope, callee)

    def _operands(self, call: nodes.Call, frame: Frame) -> tuple[Operand, ...]:
        if call.rest is not None and call.rest.of is not None:
            message = "`..` takes no name on the left side"
            frame.scope.report("E407", message, call.rest.span)
        return tuple(
            Operand(key, self.operand(expr, frame), span=frame.place(expr.span))
            for key, expr in call.operands
        )

    def _apply(
        self,
        target: Operator | Slot,
        operands: tuple[Operand, ...],
        call: nodes.Call,
        frame: Frame,
    ) -> Term:
        fitted: Operator | Slot = target
        if isinstance(target, Operator):
            fitted = calls.fit(frame.scope, target, call)
        rows = self.rows(fitted)
        for row in rows if isinstance(target, Slot) else ():
            calls.fit(frame.scope, row, call)
        check_kinds(frame.scope, rows, operands, call)
        operands = listed(frame.scope, rows, operands)
        if call.optional:
            self._check_skippable(operands, call, frame)
        rest = call.rest is not None
        span = frame.place(call.span)
        return Apply(fitted, operands, rest, call.optional, span=span)

    def rows(self, operator: Operator | Slot) -> tuple[Operator, ...]:
        """The operators that a callee stands for, one for each row of a family."""
        if isinstance(operator, Operator):
            return (operator,)
        return self.family.operators if self.family else ()

    def _check_skippable(
        self, operands: tuple[Operand, ...], call: nodes.Call, frame: Frame
    ) -> None:
        first = next((o for o in operands if o.key == 0), None)
        if first is None or is_literal(kind_of(first.value)):
            message = "an optional call needs a graph value as its first operand"
            hint = "where the call is absent, its first operand stands for it"
            frame.scope.report("E401", message, call.span, hint=hint)

    # --- captures and patterns ---

    def _capture(self, expr: nodes.Capture, frame: Frame) -> Term:
        span, hole, value = frame.place(expr.span), None, expr.value
        pattern = self._pattern(value, frame)
        if isinstance(value, nodes.Call) and pattern is not None:
            self._size += 1
            term, hole = self._expand(pattern, value, frame)
            if value.optional and hole is not None:
                # What is not there is not captured: the name is absent, too.
                return _either(
                    (self.names.capture(expr, term, hole, frame), hole), span
                )
        else:
            term = self.term(value, frame)
            hole = term.inner if isinstance(term, Chain) else None
        if hole is None and not _is_call(value):
            message = "a capture names a call: `N@relu(x)`"
            hint = None
            if isinstance(value, nodes.Name):
                product = f"`matmul({expr.id}, {value.id})`"
                hint = f"it is no matrix product, which is written {product}"
            frame.scope.report("E403", message, expr.span, hint=hint)
        if isinstance(value, nodes.Alternatives):
            self._check_alternatives(value, frame)
        return self.names.capture(expr, term, hole, frame)

    def _check_alternatives(self, expr: nodes.Alternatives, frame: Frame) -> None:
        """Report what is more than one call: `N(v)` builds that one again."""
        for option in expr.options:
            if not isinstance(option, nodes.Call):
                continue
            if option.chain or self._pattern(option, frame) is not None:
                message = "a captured alternative is the call of one operator"
                hint = "`pattern p(v) = … | …` may hold any, for `N@p(x)`"
                frame.scope.report("E403", message, option.span, hint=hint)

    def _pattern(self, expr: nodes.Expr, frame: Frame) -> Definition | None:
        """The pattern that an expression calls, if it calls one."""
        if not isinstance(expr, nodes.Call) or expr.chain:
            return None
        target = self._target(expr.callee, frame)
        return target if isinstance(target, Definition) else None

    def _expand(
        self, definition: Definition, call: nodes.Call, frame: Frame
    ) -> tuple[Term, Term | None]:
        """A pattern's body for a call, and the term of its first parameter."""
        item, span = definition.item, frame.place(call.span)
        assert isinstance(item, nodes.PatternDef)
        arguments = [self.term(argument, frame) for argument in call.args]
        for keyword in call.keywords:
            self.term(keyword.value, frame)
        if definition in frame.expanding:
            message = f"the pattern `{item.name}` contains itself"
            notes = (definition.note("defined here"),)
            frame.scope.report("E509", message, call.span, notes=notes)
            return Anything(span=span), None
        if not check_arguments(frame.scope, definition, call, arguments):
            return Anything(span=span), None
        keys = [parameter_key(parameter) for parameter in item.parameters]
        terms = dict(zip(keys, arguments, strict=True))
        expanding = (*frame.expanding, definition)
        inner = Frame(definition.scope, terms, span, expanding)
        body = self.term(item.value, inner)
        return body, arguments[0] if arguments else None


_FORMS: Final[Mapping[type, str]] = {
    nodes.IfElse: "`if … else`",
    nodes.Optional: "`?` is for operands of calls; here it",
    nodes.Star: "`*name` is for lists, `[*name]`; here it",
    nodes.Not: "a condition",
    nodes.And: "a condition",
    nodes.Or: "a condition",
    nodes.HasType: "a type",
    nodes.IsConst: "a condition",
    nodes.Matches: "a condition",
}


def _is_free(name: nodes.Name, frame: Frame) -> bool:
    return "." not in name.id and frame.scope.find(name.id) is None


def _either(options: tuple[Term, ...], span: Span) -> Either:
    """Alternatives; those that a pattern's body brings along become their own."""
    flat: list[Term] = []
    for option in options:
        flat.extend(option.options if isinstance(option, Either) else (option,))
    return Either(tuple(flat), span=span)


def _is_call(expr: nodes.Expr) -> bool:
    if isinstance(expr, nodes.Alternatives):
        return all(map(_is_call, expr.options))
    return isinstance(expr, nodes.Call | nodes.Infix | nodes.Negate)
