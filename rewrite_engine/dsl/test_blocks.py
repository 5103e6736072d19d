"""The `test` blocks of a rule file."""

from __future__ import annotations

from typing import Final

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.checked import Build, MakeList, Operator, Test, Value
from rewrite_engine.dsl.conditions import check_dtypes
from rewrite_engine.dsl.environment import Environment
from rewrite_engine.dsl.functions import FUNCTIONS
from rewrite_engine.dsl.names import Entry
from rewrite_engine.dsl.operators import Operators
from rewrite_engine.dsl.resolver import check_name
from rewrite_engine.dsl.right_side import Statements
from rewrite_engine.dsl.scopes import (
    Scope,
    span_of_name,
)
from rewrite_engine.dsl.values import Right, values_in
from rewrite_engine.dsl.walk import walk
from rewrite_engine.errors import Note

_QUESTIONS: Final = frozenset(
    name for name, f in FUNCTIONS.items() if "value" in f.parameters
)


def resolve_test(item: nodes.TestDef, scope: Scope, operators: Operators) -> Test:
    """The checked form of a test; what is wrong is reported."""
    env = Environment(scope, {}, tensors={given.name for given in item.given})
    scope.names[item.span] = env.entries
    for given in item.given:
        _declare(given, env)
    statements = Statements(Right(operators, env))
    for bind in item.body:
        _check_written_out(bind.value, scope)
        statements.add(bind)
    for value in item.returns:
        _check_written_out(value, scope)
    returns = tuple(_returned(value, statements) for value in item.returns)
    for made in (*(create.value for create in statements.creates), *returns):
        _check_no_module(made, scope)
    statements.report_unused()
    for entry in env.entries.values():
        check_name(scope, entry.name, entry.span)
    for expected in item.expect:
        if not isinstance(expected, nodes.ExpectEqual):
            _check_rule(expected, scope)
    creates = tuple(statements.creates)
    return Test(
        item.title,
        item.given,
        creates,
        returns,
        item.expect,
        scope.source,
        span=item.span,
    )


def _declare(given: nodes.Given, env: Environment) -> None:
    span = given.span.first(len(given.name))
    earlier = env.entries.setdefault(given.name, Entry(given.name, "variable", span))
    if earlier.span is not span:
        notes = (Note("first given here", earlier.span),)
        message = f"`{given.name}` is given twice"
        env.scope.report("E204", message, span, notes=notes)
    check_dtypes(given.type, env.scope)
    shape = given.type.shape
    is_concrete = shape is not None and all(
        isinstance(dim, nodes.Constant) for dim in shape
    )
    if len(given.type.dtypes) != 1 or not is_concrete:
        message = "a test's input has one dtype and a shape of numbers"
        hint = f"for instance `{given.name}: f32[2, 8]`"
        env.scope.report("E407", message, given.span, hint=hint)


def _returned(expr: nodes.Expr, statements: Statements) -> Value:
    """A graph value, or a list of some."""
    if not isinstance(expr, nodes.ListExpr):
        return statements.graph_value(expr)
    items = (_returned(item, statements) for item in expr.items)
    return MakeList(tuple(items), span=expr.span)


def _check_written_out(expr: nodes.Expr, scope: Scope) -> None:
    """A test is one graph: it chooses nothing, and nothing in it is asked for."""
    for part in walk(expr):
        match part:
            case nodes.IfElse():
                message = "a test is one graph, and has no choices"
                scope.report("E407", message, part.span)
                return
            case nodes.Call(nodes.Name(name)) if name in _QUESTIONS:
                message = f"`{name}` asks about a value, and a test only describes it"
                hint = "write the literal itself: `2`, `[2, 3]`, `torch.float32`"
                scope.report("E402", message, part.span, hint=hint)
                return


def _check_no_module(value: Value, scope: Scope) -> None:
    for part in values_in(value):
        match part:
            case Build(Operator(name=name, spellings=spellings)) if all(
                spelling.kind == "module" for spelling in spellings
            ):
                message = f"`{name}` names modules, and a test has none"
                hint = "call the function: `relu`, not `nn.ReLU`"
                scope.report("E407", message, part.span, hint=hint)


def _check_rule(
    expected: nodes.ExpectCount | nodes.ExpectRefusal, scope: Scope
) -> None:
    if expected.rule in scope.rules:
        return
    span = span_of_name(scope.source, expected.span, expected.rule)
    hint = scope.did_you_mean(expected.rule, scope.rules)
    scope.report("E202", f"there is no rule `{expected.rule}`", span, hint=hint)
