"""The right side of a rule, and the body of a test: expressions to values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import attrs

from rewrite_engine.dsl import calls, nodes
from rewrite_engine.dsl.checked import (
    Apply,
    Argument,
    Build,
    Captured,
    Choose,
    Computed,
    Either,
    Initial,
    MakeList,
    Operator,
    Reemit,
    Slot,
    Spread,
    Term,
    Use,
    Value,
)
from rewrite_engine.dsl.conditions import check_condition, check_literal
from rewrite_engine.dsl.environment import VALUES, Environment, Names
from rewrite_engine.dsl.functions import FUNCTIONS, Function
from rewrite_engine.dsl.operand_kinds import (
    Kind,
    check_kind,
    literal_kind,
    takes_none,
)
from rewrite_engine.dsl.operators import Operators
from rewrite_engine.dsl.scopes import Definition

NO_CAPTURES: Final[Mapping[str, Captured]] = {}


@attrs.define(eq=False)
class Right:
    """Resolves the expressions of one right side.

    `rows` are the operators of the family's slot, `captures` what the left captured.
    """

    operators: Operators
    env: Environment
    rows: tuple[Operator, ...] = ()
    captures: Mapping[str, Captured] = NO_CAPTURES

    def value(self, expr: nodes.Expr, present: Names = frozenset()) -> Value:
        """The value of an expression in which the `present` names are not absent."""
        match expr:
            case nodes.Name() if self._is_value(expr):
                return self._name(expr, present)
            case nodes.IfElse() if self._is_value(expr):
                return self._choose(expr, present)
            case nodes.ListExpr() if self._is_value(expr):
                return self._list(expr, present)
            case nodes.Infix() | nodes.Compare() if self._is_value(expr):
                return self._sign(expr, (expr.left, expr.right), present)
            case nodes.Negate(operand) if self._is_value(expr):
                return self._sign(expr, (operand,), present)
            case nodes.Call() if self._is_value(expr):
                return self._call(expr, present)
            case _ if type(expr) in _FORMS:
                message = f"{_FORMS[type(expr)]} has no place on a right side"
                self.env.scope.report("E407", message, expr.span)
            case _:
                check_literal(expr, self.env, present)
        return Computed(expr, span=expr.span)

    def _is_value(self, expr: nodes.Expr) -> bool:
        """Whether an expression has a graph value outside the language's functions."""
        match expr:
            case nodes.Name(id):
                return "." not in id
            case nodes.Star(id):
                entry = self.env.entries.get(id)
                return entry is None or entry.kind in VALUES
            case nodes.Call(callee, args):
                if callee.id not in FUNCTIONS or callee.id == self.env.slot:
                    return True
                # `abs($k)` is arithmetic, `abs(x)` the operator of that name.
                is_operator = self.env.scope.find(callee.id) is not None
                return is_operator and any(map(self._is_value, args))
            case nodes.Infix(_, left, right) | nodes.Compare(_, left, right):
                return self._is_value(left) or self._is_value(right)
            case nodes.Negate(value):
                return self._is_value(value)
            case nodes.IfElse(then, _, otherwise):
                return self._is_value(then) or self._is_value(otherwise)
            case nodes.ListExpr(items):
                return any(map(self._is_value, items))
        return type(expr) in _FORMS

    # --- names, lists and choices ---

    def _name(self, expr: nodes.Name, present: Names) -> Value:
        entry = self.env.value(expr.id, expr.span)
        if entry is not None:
            self.env.check_present(entry, present, expr.span)
            if entry.kind in ("list", "each"):
                message = f"{entry.describe()}; it stands in a list, `[*{expr.id}]`"
                self.env.scope.report("E407", message, expr.span)
        return Use(expr.id, span=expr.span)

    def _list(self, expr: nodes.ListExpr, present: Names) -> Value:
        items = (self._item(item, present) for item in expr.items)
        return MakeList(tuple(items), span=expr.span)

    def _item(self, item: nodes.Expr, present: Names) -> Value:
        if not isinstance(item, nodes.Star):
            return self.value(item, present)
        entry = self.env.value(item.id, item.span)
        if entry is not None and entry.kind not in ("list", "each"):
            message = f"{entry.describe()}, not a list"
            notes = (entry.note(),)
            self.env.scope.report("E203", message, item.span, notes=notes)
        elif entry is not None:
            self.env.check_present(entry, present, item.span)
        return Spread(item.id, span=item.span)

    def _choose(self, expr: nodes.IfElse, present: Names) -> Value:
        env = self.env
        check_condition(expr.condition, env, present)
        then = self.value(expr.then, present | env.present_if(expr.condition))
        absent = env.present_if(expr.condition, False)
        otherwise = self.value(expr.otherwise, present | absent)
        return Choose(expr.condition, then, otherwise, span=expr.span)

    # --- calls ---

    def _sign(
        self,
        expr: nodes.Infix | nodes.Compare | nodes.Negate,
        operands: tuple[nodes.Expr, ...],
        present: Names,
    ) -> Value:
        scope = self.env.scope
        if isinstance(expr, nodes.Negate):
            operator = self.operators.negate(scope, expr.span)
        else:
            operator = self.operators.infix(scope, expr.operator, expr.span)
        values = [self.value(operand, present) for operand in operands]
        if operator is None:
            return Computed(expr, span=expr.span)
        for position, value in enumerate(values):
            self._check_kinds((operator,), position, value)
        arguments = (Argument(i, v, span=v.span) for i, v in enumerate(values))
        return Build(operator, tuple(arguments), span=expr.span)

    def _call(self, call: nodes.Call, present: Names) -> Value:
        scope, name = self.env.scope, call.callee.id
        entry, is_slot = self.env.entries.get(name), name == self.env.slot
        is_free = entry is None and not is_slot and scope.find(name) is None
        if name == INITIAL and is_free:
            return self._initial(call, present)
        if call.optional or call.chain:
            sign = "?" if call.optional else f"^{call.chain}"
            message = f"`{name}{sign}(…)` has no place on a right side"
            scope.report("E407", message, call.span)
        if entry is not None and entry.kind == "capture":
            return self._reemit(self.captures[name], call, present)
        if entry is not None and scope.find(name) is None and not is_slot:
            message = f"{entry.describe()}; only a capture or an operator is called"
            scope.report("E403", message, call.callee.span, notes=(entry.note(),))
            return Computed(call, span=call.span)
        target: Operator | Slot | Definition | Function | None
        target = Slot(name) if is_slot else self.operators.callee(scope, call.callee)
        if isinstance(target, Operator | Slot):
            return self._build(target, call, present)
        if isinstance(target, Definition):
            message = f"the pattern `{name}` cannot be built"
            hint = f"capture what it matches, `N@{name}(…)`, and write `N(…)`"
            notes = (target.note("defined here"),)
            scope.report("E407", message, call.callee.span, notes=notes, hint=hint)
        for _, operand in call.operands:
            self.value(operand, present)
        return Computed(call, span=call.span)

    def _initial(self, call: nodes.Call, present: Names) -> Value:
        if len(call.args) != 1 or not isinstance(call.args[0], nodes.Name):
            message = f"`{INITIAL}(…)` takes the name of an operand"
            self.env.scope.report("E407", message, call.span)
            return Computed(call, span=call.span)
        self._name(call.args[0], present)
        return Initial(call.args[0].id, span=call.span)

    def _build(
        self, target: Operator | Slot, call: nodes.Call, present: Names
    ) -> Value:
        fitted: Operator | Slot = target
        if isinstance(target, Operator):
            fitted = calls.fit(self.env.scope, target, call, calls.RIGHT_HINT)
        rows = (fitted,) if isinstance(fitted, Operator) else self.rows
        for row in rows if isinstance(target, Slot) else ():
            calls.fit(self.env.scope, row, call, calls.RIGHT_HINT)
        arguments = tuple(self._argument(k, e, rows, present) for k, e in call.operands)
        rest = self._rest(call, present)
        return Build(fitted, arguments, rest, span=call.span)

    def _argument(
        self,
        key: int | str,
        expr: nodes.Expr,
        rows: tuple[Operator, ...],
        present: Names,
    ) -> Argument:
        # What is absent on the left may be handed on to what may be absent here.
        if isinstance(expr, nodes.Name) and all(takes_none(r, key) for r in rows):
            present = present | {expr.id}
        value = self.value(expr, present)
        self._check_kinds(rows, key, value)
        return Argument(key, value, span=expr.span)

    def _check_kinds(
        self, rows: tuple[Operator, ...], key: int | str, value: Value
    ) -> None:
        """Report a value that a call cannot be given, whatever is chosen."""
        scope = self.env.scope
        if scope.findings.any_within(scope.source, value.span):
            return
        for each in choices(value):
            kind = self.kind(each)
            check_kind(scope, rows, key, kind, each, builds=True)

    def kind(self, value: Value) -> Kind:
        """What a value is known to be as an operand."""
        match value:
            case Computed(expr):
                return literal_kind(expr)
            case Use(name):
                return "tensor" if name in self.env.tensors else "value"
            case Build(operator, rest_of=None) if isinstance(operator, Operator):
                is_tensor = operator.spellings[0].result == "Tensor"
                return "tensor" if is_tensor else "value"
            case Build() | Reemit():
                return "value"
            case Initial():
                return "tensor"
            case MakeList(items):
                return tuple(map(self.kind, items))
        return "any"

    def _rest(self, call: nodes.Call, present: Names) -> str | None:
        """The name of the matched call whose other arguments are taken."""
        if call.rest is None:
            return None
        span, name = call.rest.span, call.rest.of
        if name is None:
            message = "`..` needs the name of a matched call on a right side"
            self.env.scope.report("E407", message, span, hint="write `..y`")
            return None
        entry = self.env.value(name, span)
        if entry is not None and entry.kind not in ("call", "capture"):
            message = f"{entry.describe()}, not a matched call"
            notes = (entry.note(),)
            self.env.scope.report("E403", message, span, notes=notes)
        elif entry is not None:
            self.env.check_present(entry, present, span)
        return name

    def _reemit(self, captured: Captured, call: nodes.Call, present: Names) -> Value:
        env = self.env
        entry = env.value(captured.name, call.callee.span)
        values = tuple(self.value(argument, present) for argument in call.args)
        if captured.hole is None and entry is not None:
            # Without a hole there is nothing that would stand for an absent capture.
            env.check_present(entry, present, call.callee.span)
        if call.keywords or call.rest is not None:
            message = f"`{captured.name}(…)` takes positional operands only"
            env.scope.report("E403", message, call.span)
        most = 1 if captured.hole is not None else operand_count(captured.value)
        # A capture of no call is reported where it stands.
        if most > 0 and not 1 <= len(call.args) <= most:
            wanted = "1 operand" if most == 1 else f"1 to {most} operands"
            message = f"`{captured.name}(…)` takes {wanted}, not {len(call.args)}"
            env.scope.report("E403", message, call.span)
        return Reemit(captured.name, values, span=call.span)


INITIAL: Final = "initial"
"""`initial(w)`: what the state `w` was before any write of the phase."""

_FORMS: Final[Mapping[type, str]] = {
    nodes.Wildcard: "`_`",
    nodes.Rest: "`..`",
    nodes.Star: "`*name` outside a list",
    nodes.Capture: "a capture, `N@…`,",
    nodes.Optional: "`?`",
    nodes.Alternatives: "`|`",
}


def makes_value(value: Value) -> bool:
    """Whether the result is one graph value, whatever is chosen."""
    if isinstance(value, Choose):
        return makes_value(value.then) and makes_value(value.otherwise)
    return isinstance(value, Use | Initial | Build | Reemit)


def choices(value: Value) -> Iterator[Value]:
    """What a value may be, one for each outcome of its conditions."""
    match value:
        case Choose(_, then, otherwise):
            yield from choices(then)
            yield from choices(otherwise)
        case Computed(nodes.IfElse(then, _, otherwise)):
            yield from choices(Computed(then, span=then.span))
            yield from choices(Computed(otherwise, span=otherwise.span))
        case _:
            yield value


def may_be_absent(value: Value) -> bool:
    """Whether the result is one graph value or, if so chosen, `none`."""
    if not isinstance(value, Choose):
        return False
    ways = value.then, value.otherwise
    return any(map(_is_none, ways)) and all(
        _is_none(way) or makes_value(way) or may_be_absent(way) for way in ways
    )


def values_in(value: Value) -> Iterator[Value]:
    """A value and every value inside it."""
    pending = [value]
    while pending:
        current = pending.pop()
        yield current
        match current:
            case Build(_, arguments):
                pending += [argument.value for argument in arguments]
            case MakeList(items) | Reemit(_, items):
                pending += items
            case Choose(_, then, otherwise):
                pending += [then, otherwise]


def is_hook(operator: Operator | Slot) -> bool:
    """Whether a callee is a function of the caller's."""
    return isinstance(operator, Operator) and operator.spellings[0].kind == "hook"


def _is_none(value: Value) -> bool:
    return isinstance(value, Computed) and value.expr == nodes.Constant(None)


def operand_count(term: Term) -> int:
    """How many operands of a captured call a rule mentions, at most."""
    match term:
        case Apply(_, operands):
            return len(operands)
        case Either(options):
            return max(map(operand_count, options))
    return 0
