"""Guards, conditions and literal arithmetic: what is computed while matching."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.environment import Environment, Names
from rewrite_engine.dsl.functions import (
    ATTRIBUTES,
    DTYPES,
    FUNCTIONS,
    TORCH_CONSTANTS,
    Function,
    ParameterKind,
)
from rewrite_engine.dsl.scopes import Scope, counted
from rewrite_engine.errors import Note
from rewrite_engine.source import Span


def check_condition(
    expr: nodes.Expr, env: Environment, present: Names = frozenset()
) -> None:
    """Report what keeps an expression from being a truth value."""
    match expr:
        case nodes.And(left, right) | nodes.Or(left, right):
            # `b and rank(b) == 1` asks for the rank of a `b` that is there.
            known = env.present_if(left, isinstance(expr, nodes.And))
            check_condition(left, env, present)
            check_condition(right, env, present | known)
        case nodes.Not(value):
            check_condition(value, env, present)
        case nodes.Compare(sign, left, right):
            for side in (left, right):
                _check_compared(sign, side, env, present)
        case nodes.HasType(id, type):
            _check_named(id, expr.span, env, present)
            check_type(type, env)
        case nodes.IsConst(id):
            _check_named(id, expr.span, env, present)
        case nodes.Matches(id):
            _check_named(id, expr.span, env, present)
            if not env.is_guard:
                message = "`~` stands in `where` only"
                env.scope.report("E404", message, expr.span)
        case nodes.LiteralName(id):
            env.literal(id, expr.span)
        case nodes.Name(id) if id in env.entries:
            _check_tested(expr, env)
        case nodes.StateRead():
            report_state_read(env.scope, expr)
        case _:
            _check_truth(expr, env, present)


def check_literal(
    expr: nodes.Expr, env: Environment, present: Names = frozenset()
) -> None:
    """Report what keeps an expression from being computed as a literal."""
    match expr:
        case nodes.Constant():
            return
        case nodes.LiteralName(id) | nodes.Star(id):
            _check_literal_name(id, expr.span, env, present)
        case nodes.Name():
            _check_name(expr, env)
        case nodes.ListExpr(items):
            for item in items:
                check_literal(item, env, present)
        case nodes.Infix(_, left, right):
            check_literal(left, env, present)
            check_literal(right, env, present)
        case nodes.Negate(value):
            check_literal(value, env, present)
        case nodes.IfElse(then, condition, otherwise):
            check_condition(condition, env, present)
            check_literal(then, env, present | env.present_if(condition))
            check_literal(otherwise, env, present | env.present_if(condition, False))
        case nodes.Call():
            _check_call(expr, env, present)
        case _ if isinstance(expr, _CONDITIONS):
            check_condition(expr, env, present)
        case _:
            _report_misplaced(expr, env)


def check_type(type_: nodes.TensorType, env: Environment) -> None:
    """Report unknown dtypes, and dimensions that are bound by nothing."""
    check_dtypes(type_, env.scope)
    for dim in type_.shape or ():
        if isinstance(dim, nodes.LiteralName | nodes.Star):
            env.literal(dim.id, dim.span)


def check_dtypes(type_: nodes.TensorType, scope: Scope) -> None:
    """Report unknown dtypes."""
    for dtype in type_.dtypes:
        if dtype not in DTYPES:
            by_torch_name = {long: short for short, long in DTYPES.items()}
            close = by_torch_name.get(dtype)
            hint = f"write `{close}`" if close else scope.did_you_mean(dtype, DTYPES)
            scope.report("E207", f"there is no dtype `{dtype}`", type_.span, hint=hint)


def dimensions_bound(guards: tuple[nodes.Expr, ...]) -> Iterator[tuple[str, Span]]:
    """Literal names that the type tests among guards bind: `$C` of `x: [$C]`.

    Only tests that must hold bind names; those under `or` and `not` compare.
    """
    for guard in guards:
        if isinstance(guard, nodes.And):
            yield from dimensions_bound((guard.left, guard.right))
        elif isinstance(guard, nodes.HasType):
            for dim in guard.type.shape or ():
                if isinstance(dim, nodes.LiteralName | nodes.Star):
                    yield dim.id, dim.span


def _check_named(name: str, span: Span, env: Environment, present: Names) -> None:
    span = span.first(len(name))
    entry = env.value(name, span)
    if entry is not None:
        env.check_present(entry, present, span)


def _check_tested(expr: nodes.Name, env: Environment) -> None:
    entry = env.value(expr.id, expr.span)
    if entry is None or expr.id in env.presence.optional:
        return
    message = f"`{expr.id}` is always present, so it is no condition"
    env.scope.report("E404", message, expr.span, notes=(entry.note(),))


def _check_truth(expr: nodes.Expr, env: Environment, present: Names) -> None:
    function = FUNCTIONS.get(expr.callee.id) if isinstance(expr, nodes.Call) else None
    is_truth = isinstance(expr, nodes.Constant) and isinstance(expr.value, bool)
    if not is_truth and not (function and function.is_condition):
        if isinstance(expr, nodes.Name) or (
            isinstance(expr, nodes.Call) and function is None
        ):
            check_literal(expr, env, present)
            return
        message = "this is no condition"
        hint = "a condition is a comparison, a type, `is const` or a name with `?`"
        env.scope.report("E404", message, expr.span, hint=hint)
        return
    check_literal(expr, env, present)


def _check_compared(
    sign: str, side: nodes.Expr, env: Environment, present: Names
) -> None:
    """`a == b` may also ask whether two names are the same graph value."""
    is_name = isinstance(side, nodes.Name) and side.id in env.entries
    if is_name and isinstance(side, nodes.Name) and sign in ("==", "!="):
        _check_named(side.id, side.span, env, present)
        return
    check_literal(side, env, present)


def _check_name(expr: nodes.Name, env: Environment) -> None:
    if expr.id in TORCH_CONSTANTS:
        return
    if "." in expr.id:
        hint = env.scope.did_you_mean(expr.id, TORCH_CONSTANTS)
        message = f"`{expr.id}` is no constant"
        env.scope.report("E202", message, expr.span, hint=hint)
        return
    entry = env.value(expr.id, expr.span)
    if entry is not None:
        message = f"`{expr.id}` is a graph value, and a literal is needed"
        hint = (
            "its type is known, as in `rank(x)` or `size(x, 0)`, and not what it holds"
        )
        notes = (entry.note(),)
        env.scope.report("E402", message, expr.span, notes=notes, hint=hint)


def _check_literal_name(
    name: str, span: Span, env: Environment, present: Names
) -> None:
    entry = env.literal(name, span)
    if entry is not None:
        env.check_present(entry, present, span)


def report_state_read(scope: Scope, expr: nodes.StateRead) -> None:
    """Report `m.weight`, for which there is another way."""
    message = f"`{expr.module}.{expr.attribute}`: attributes cannot be read yet"
    asked = question(expr.module, expr.attribute)
    hint = asked or f"name the operand in the call: `…, {expr.attribute}=…, ..`"
    scope.report("E901", message, expr.span, hint=hint)


def question(value: str, attribute: str) -> str | None:
    """How the language asks a value for what an attribute of a tensor says."""
    asked = ATTRIBUTES.get(attribute)
    return None if asked is None else f"write `{asked.format(value)}`"


def _report_misplaced(expr: nodes.Expr, env: Environment) -> None:
    if isinstance(expr, nodes.StateRead):
        report_state_read(env.scope, expr)
        return
    message = "this form has no place where a literal is computed"
    env.scope.report("E407", message, expr.span)


_CONDITIONS: Final = (
    nodes.Compare,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.HasType,
    nodes.IsConst,
    nodes.Matches,
)


# --- functions ---


def _check_call(call: nodes.Call, env: Environment, present: Names) -> None:
    callee = call.callee
    if callee.id in FUNCTIONS:
        _check_function(FUNCTIONS[callee.id], call, env, present)
    elif "." in callee.id:
        message = "the call of an operator is no literal"
        value, _, method = callee.id.rpartition(".")
        hint = question(value, method)
        env.scope.report("E402", message, call.span, hint=hint)
    else:
        _report_unknown(callee, env)


def _check_function(
    function: Function, call: nodes.Call, env: Environment, present: Names
) -> None:
    notes = (Note(f"it is called as {function}"),)
    if call.keywords or call.rest is not None:
        message = f"`{function.name}` takes positional operands only"
        env.scope.report("E302", message, call.span, notes=notes)
        return
    wanted = counted(len(function.parameters), "operand")
    if len(call.args) < len(function.parameters):
        message = f"`{function.name}` takes {wanted}, not {len(call.args)}"
        env.scope.report("E303", message, call.span, notes=notes)
    for position, argument in enumerate(call.args):
        kind = function.parameter(position)
        if kind is None:
            message = f"`{function.name}` takes {wanted}, not {len(call.args)}"
            env.scope.report("E301", message, argument.span, notes=notes)
            return
        _CHECKS[kind](argument, env, present)


def _check_value_argument(
    argument: nodes.Expr, env: Environment, present: Names
) -> None:
    if isinstance(argument, nodes.Name) and "." not in argument.id:
        _check_named(argument.id, argument.span, env, present)
    elif isinstance(argument, nodes.Constant | nodes.LiteralName):
        message = "this is a literal, and the name of a graph value is needed"
        env.scope.report("E401", message, argument.span)
    else:
        message = "the name of a graph value is needed here"
        hint = "give the expression a name, `y = …`"
        env.scope.report("E407", message, argument.span, hint=hint)


def _check_any_argument(argument: nodes.Expr, env: Environment, present: Names) -> None:
    if isinstance(argument, nodes.Name) and argument.id in env.entries:
        _check_named(argument.id, argument.span, env, present)
        return
    check_literal(argument, env, present)


def _check_list_argument(
    argument: nodes.Expr, env: Environment, present: Names
) -> None:
    """`$names` may be lists; numbers, truth values and graph values are none."""
    what = _no_list(argument, env)
    if what is None:
        _check_any_argument(argument, env, present)
        return
    span = argument.span
    hint = "`shape(x)` is a list, `rank(x)` its length, `numel(x)` its product"
    env.scope.report("E305", f"a list is needed, and this is {what}", span, hint=hint)


def _no_list(argument: nodes.Expr, env: Environment) -> str | None:
    match argument:
        case nodes.Name(id) if id in env.entries:
            is_list = env.entries[id].kind in ("list", "each")
            return None if is_list else "a graph value"
        case nodes.Call(callee) if callee.id in FUNCTIONS:
            return None if FUNCTIONS[callee.id].gives_list else "a single value"
        case nodes.Constant() | nodes.Infix() | nodes.Negate():
            return "a single value"
    return None


_CHECKS: Final[Mapping[ParameterKind, Callable[..., None]]] = {
    "value": _check_value_argument,
    "literal": check_literal,
    "list": _check_list_argument,
    "any": _check_any_argument,
}


def _report_unknown(callee: nodes.Name, env: Environment) -> None:
    found = env.scope.find(callee.id)
    if found is not None or callee.id == env.slot:
        message = f"`{callee.id}` is an operator; its result is no literal"
        env.scope.report("E402", message, callee.span)
        return
    every = ", ".join(f"`{name}`" for name in FUNCTIONS)
    hint = env.scope.did_you_mean(callee.id, FUNCTIONS) or f"there are {every}"
    if callee.id in ("const", "is_const", "constant"):
        hint = "write `w is const`"
    message = f"there is no function `{callee.id}`"
    env.scope.report("E208", message, callee.span, hint=hint)
