"""Guards and literal expressions, compiled to functions of a match."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import fx

from rewrite_engine import torch_ops
from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.walk import walk
from rewrite_engine.graph_facts import value_readers
from rewrite_engine.lowering.functions import FUNCTIONS, OF_THE_GRAPH, node_of
from rewrite_engine.lowering.literals import literals_equal
from rewrite_engine.lowering.scope import Evaluate, Scope, Unknown
from rewrite_engine.lowering.symbolic import SYMBOLIC, decided
from rewrite_engine.lowering.type_tests import compile_type_test


@attrs.frozen(eq=False)
class Condition:
    """A compiled guard. `binds` are the dimension names that it gives a value."""

    text: str
    reason: str | None
    reads: frozenset[str]
    binds: frozenset[str]
    evaluate: Evaluate = attrs.field(repr=False)
    is_local: bool = False
    """Whether literals, types, and what is constant decide it."""

    def holds(self, scope: Scope) -> bool:
        try:
            return bool(self.evaluate(scope))
        except Unknown:
            return False


def compile_guard(
    expr: nodes.Expr, text: str, reason: str | None, patterns: Mapping[Any, Any]
) -> Condition:
    """`patterns` gives the pattern of each `v ~ p` in the guard by its span."""
    reads, binds = frozenset(_reads(expr)), frozenset(_binds(expr))
    evaluate = _compile(expr, patterns)
    is_local = all(map(_is_local, walk(expr)))
    return Condition(text, reason, reads - binds, binds, evaluate, is_local)


def compile_expr(expr: nodes.Expr) -> Evaluate:
    """A literal expression of a right side. Evaluating it may raise `Unknown`."""
    return _compile(expr, {})


def names_read(expr: nodes.Expr) -> tuple[str, ...]:
    """The names that an expression reads, in order of appearance."""
    return tuple(dict.fromkeys(_reads(expr)))


def names_bound(expr: nodes.Expr) -> tuple[str, ...]:
    """The dimension names that the type tests of a guard give a value."""
    return tuple(dict.fromkeys(_binds(expr)))


def reads_only_types(expr: nodes.Expr) -> bool:
    """Whether an expression asks nothing about a graph but types and literals."""
    parts = list(walk(expr))
    return all(map(_is_local, parts)) and not any(
        isinstance(part, nodes.IsConst) for part in parts
    )


def _is_local(part: nodes.Expr) -> bool:
    """Whether a part of an expression asks nothing about the readers of values, what
    constants hold, or calls of the graph.
    """
    if isinstance(part, nodes.Call):
        return part.callee.id not in OF_THE_GRAPH
    return not isinstance(part, nodes.Matches)


def _reads(expr: nodes.Expr) -> Iterator[str]:
    match expr:
        case nodes.Name(id) if "." not in id:
            yield id
        case nodes.LiteralName(id) | nodes.IsConst(id) | nodes.Matches(id):
            yield id
        case nodes.Star(id):
            yield id
        case nodes.HasType(id, type):
            yield id
            yield from (i for d in type.shape or () for i in _reads(d))
        case _:
            yield from (i for child in _children(expr) for i in _reads(child))


def _binds(expr: nodes.Expr) -> Iterator[str]:
    for part in walk(expr):
        if isinstance(part, nodes.HasType):
            dims = part.type.shape or ()
            named = (d for d in dims if isinstance(d, nodes.LiteralName | nodes.Star))
            yield from (dim.id for dim in named)


def _children(expr: nodes.Expr) -> tuple[nodes.Expr, ...]:
    match expr:
        case nodes.ListExpr(items):
            return items
        case nodes.Call():
            return tuple(operand for _, operand in expr.operands)
        case nodes.Infix(_, left, right) | nodes.Compare(_, left, right):
            return left, right
        case nodes.And(left, right) | nodes.Or(left, right):
            return left, right
        case nodes.Not(value) | nodes.Negate(value):
            return (value,)
        case nodes.IfElse(then, condition, otherwise):
            return then, condition, otherwise
    return ()


_ARITHMETIC: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}
_ORDER: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _compile(expr: nodes.Expr, patterns: Mapping[Any, Any]) -> Evaluate:
    match expr:
        case nodes.Constant(value):
            return lambda scope: value
        case nodes.Name(id) if "." in id:
            constant = torch_ops.constant(id)
            return lambda scope: constant
        case nodes.Name(id) | nodes.LiteralName(id):
            return lambda scope: scope.value(id)
        case nodes.ListExpr(items):
            return _compile_list(items, patterns)
        case nodes.Infix(sign, left, right):
            return _compile_arithmetic(sign, left, right, patterns)
        case nodes.Negate(value):
            return _compile_negation(_compile(value, patterns))
        case nodes.Compare(sign, left, right):
            return _compile_comparison(sign, left, right, patterns)
        case nodes.Not() | nodes.And() | nodes.Or() | nodes.IfElse():
            return _compile_logic(expr, patterns)
        case nodes.Call(callee, args):
            return _compile_call(callee.id, args, patterns)
        case nodes.HasType(id, type):
            return compile_type_test(id, type)
        case nodes.IsConst(id):
            return lambda scope: scope.facts.constant(node_of(scope, id)) is not None
    assert isinstance(expr, nodes.Matches), f"the resolver let {expr!r} through"
    return _compile_match(expr, patterns[expr.span])


def _compile_match(expr: nodes.Matches, pattern: Any) -> Evaluate:
    if not expr.of_readers:
        return lambda scope: scope.matches(node_of(scope, expr.id), pattern)

    def evaluate(scope: Scope) -> bool:
        readers = value_readers(node_of(scope, expr.id))
        return all(scope.matches(reader, pattern) for reader in readers)

    return evaluate


def _compile_list(
    items: tuple[nodes.Expr, ...], patterns: Mapping[Any, Any]
) -> Evaluate:
    parts = [
        (isinstance(item, nodes.Star), _compile(_unstar(item), patterns))
        for item in items
    ]

    def evaluate(scope: Scope) -> list[Any]:
        values: list[Any] = []
        for spread, part in parts:
            values.extend(part(scope)) if spread else values.append(part(scope))
        return values

    return evaluate


def _unstar(item: nodes.Expr) -> nodes.Expr:
    return nodes.LiteralName(item.id) if isinstance(item, nodes.Star) else item


def _compile_arithmetic(
    sign: str, left: nodes.Expr, right: nodes.Expr, patterns: Mapping[Any, Any]
) -> Evaluate:
    apply, a, b = _ARITHMETIC[sign], _compile(left, patterns), _compile(right, patterns)

    def evaluate(scope: Scope) -> Any:
        try:
            return apply(a(scope), b(scope))
        except (TypeError, ValueError, ArithmeticError) as error:
            raise Unknown(str(error)) from error

    return evaluate


def _compile_negation(value: Evaluate) -> Evaluate:
    def evaluate(scope: Scope) -> Any:
        try:
            return -value(scope)
        except TypeError as error:
            raise Unknown(str(error)) from error

    return evaluate


def _compile_comparison(
    sign: str, left: nodes.Expr, right: nodes.Expr, patterns: Mapping[Any, Any]
) -> Evaluate:
    a, b = _compile(left, patterns), _compile(right, patterns)
    if sign in ("==", "!="):
        wanted = sign == "=="
        return lambda scope: values_equal(a(scope), b(scope)) is wanted
    order = _ORDER[sign]

    def evaluate(scope: Scope) -> bool:
        try:
            return decided(order(a(scope), b(scope)))
        except TypeError as error:
            raise Unknown(str(error)) from error

    return evaluate


def values_equal(left: Any, right: Any) -> bool:
    """Equality in guards: nodes by identity, devices and dtypes also by their name."""
    if type(left) is int and type(right) is int:
        return left == right  # most are sizes
    if isinstance(left, fx.Node) or isinstance(right, fx.Node):
        return left is right
    for value, other in ((left, right), (right, left)):
        if isinstance(value, torch.device) and isinstance(other, str):
            return other in (value.type, str(value))
        if isinstance(value, torch.dtype) and isinstance(other, str):
            return other in (torch_ops.dtype_name(value), str(value))
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(values_equal, left, right))
    if isinstance(left, SYMBOLIC) or isinstance(right, SYMBOLIC):
        return decided(left == right)
    return literals_equal(left, right)


def _compile_logic(expr: nodes.Expr, patterns: Mapping[Any, Any]) -> Evaluate:
    parts = [_compile(child, patterns) for child in _children(expr)]
    match expr:
        case nodes.Not():
            return lambda scope: not parts[0](scope)
        case nodes.And():
            return lambda scope: parts[0](scope) and parts[1](scope)
        case nodes.Or():
            return lambda scope: parts[0](scope) or parts[1](scope)
    then, condition, otherwise = parts
    return lambda scope: then(scope) if present(condition(scope)) else otherwise(scope)


def present(value: Any) -> bool:
    """A bare name as a condition asks whether it is there; a boolean is itself."""
    return value is not None and value is not False


def _compile_call(
    name: str, args: tuple[nodes.Expr, ...], patterns: Mapping[Any, Any]
) -> Evaluate:
    function = FUNCTIONS[name]
    parts = [_compile(arg, patterns) for arg in args]

    def evaluate(scope: Scope) -> Any:
        values = [part(scope) for part in parts]
        try:
            return function(scope, *values)
        except (TypeError, ValueError, IndexError, OverflowError) as error:
            raise Unknown(f"{name}: {error}") from error

    return evaluate
