"""The `test` blocks of a rule file."""

from __future__ import annotations

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.checked import Test
from rewrite_engine.dsl.conditions import check_dtypes
from rewrite_engine.dsl.environment import Environment
from rewrite_engine.dsl.names import Entry
from rewrite_engine.dsl.operators import Operators
from rewrite_engine.dsl.resolver import check_name
from rewrite_engine.dsl.right_side import Statements
from rewrite_engine.dsl.scopes import (
    Scope,
    span_of_name,
)
from rewrite_engine.dsl.values import Right
from rewrite_engine.errors import Note


def resolve_test(item: nodes.TestDef, scope: Scope, operators: Operators) -> Test:
    """The checked form of a test; what is wrong is reported."""
    env = Environment(scope, {}, tensors={given.name for given in item.given})
    scope.names[item.span] = env.entries
    for given in item.given:
        _declare(given, env)
    right = Right(operators, env)
    statements = Statements(right)
    for bind in item.body:
        statements.add(bind)
    returns = tuple(right.value(value) for value in item.returns)
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


def _check_rule(
    expected: nodes.ExpectCount | nodes.ExpectRefusal, scope: Scope
) -> None:
    if expected.rule in scope.rules:
        return
    span = span_of_name(scope.source, expected.span, expected.rule)
    hint = scope.did_you_mean(expected.rule, scope.rules)
    scope.report("E202", f"there is no rule `{expected.rule}`", span, hint=hint)
