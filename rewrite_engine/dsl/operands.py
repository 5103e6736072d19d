"""Whether the terms of a left side fit the operators and patterns they are given to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import attrs

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.checked import (
    Apply,
    Captured,
    Chain,
    Hole,
    Items,
    Literal,
    LiteralVariable,
    Maybe,
    Operand,
    Operator,
    Reference,
    Term,
    Variable,
)
from rewrite_engine.dsl.operand_kinds import (
    Kind,
    check_kind,
    constant_kind,
    is_literal,
)
from rewrite_engine.dsl.scopes import Definition, Scope, counted
from rewrite_engine.source import Span


def kind_of(term: Term) -> Kind:
    """What a term can match."""
    match term:
        case Literal(value):
            return constant_kind(value)
        case LiteralVariable():
            return "literal"
        case Items(items):
            return tuple(map(kind_of, items))
        case Maybe(value):
            return kind_of(value)
        case Variable() | Reference() | Apply() | Captured() | Chain() | Hole():
            return "value"
    return "any"


def check_kinds(
    scope: Scope,
    rows: Sequence[Operator],
    operands: tuple[Operand, ...],
    call: nodes.Call,
) -> None:
    """Report operands of a kind that the operator's schema does not take."""
    for operand, (_, expr) in zip(operands, call.operands, strict=True):
        check_kind(scope, rows, operand.key, kind_of(operand.value), expr)


def listed(
    scope: Scope, rows: Sequence[Operator], operands: tuple[Operand, ...]
) -> tuple[Operand, ...]:
    """The operands; a number in the place of a list of fixed length, `int[2]`, stands
    for so many of it, as torch has it.
    """
    return tuple(_listed(scope, rows, operand) for operand in operands)


def _listed(scope: Scope, rows: Sequence[Operator], operand: Operand) -> Operand:
    number = operand.value.value if isinstance(operand.value, Literal) else None
    lengths = {_fixed_length(row, operand.key) for row in rows}
    if type(number) not in (int, float) or not any(lengths):
        return operand
    if len(lengths) > 1:
        message = "this number stands for a list, of another length in each row"
        hint = "`$name` stands for any, and `where` may ask for its items"
        scope.report("E305", message, operand.span, hint=hint)
        return operand
    literal = Literal((number,) * lengths.pop(), span=operand.span)
    return attrs.evolve(operand, value=literal)


def _fixed_length(operator: Operator, key: int | str) -> int:
    parameter = operator.spellings[0].parameter(key)
    length = _LENGTH.search(parameter.type) if parameter is not None else None
    return int(length.group(1)) if length is not None else 0


_LENGTH: Final = re.compile(r"\[(\d+)\]\??$")


def check_arguments(
    scope: Scope, definition: Definition, call: nodes.Call, arguments: list[Term]
) -> bool:
    """Report what keeps a pattern from being expanded for a call; whether it can be."""
    item = definition.item
    assert isinstance(item, nodes.PatternDef)
    notes = (definition.note("defined here"),)
    if call.keywords or call.rest is not None:
        message = f"the pattern `{item.name}` takes positional operands only"
        scope.report("E302", message, call.span, notes=notes)
        return False
    missing = len(item.parameters) - len(arguments)
    if missing != 0:
        code = "E303" if missing > 0 else "E301"
        wanted = counted(len(item.parameters), "operand")
        message = f"the pattern `{item.name}` takes {wanted}, not {len(arguments)}"
        scope.report(code, message, call.span, notes=notes)
        return False
    fitting = [
        _check_argument(scope, parameter, argument, expr.span)
        for parameter, argument, expr in zip(
            item.parameters, arguments, call.args, strict=True
        )
    ]
    return all(fitting)


def _check_argument(
    scope: Scope,
    parameter: nodes.Name | nodes.LiteralName,
    argument: Term,
    span: Span,
) -> bool:
    kind = kind_of(argument)
    if isinstance(parameter, nodes.Name) and is_literal(kind):
        message = f"`{parameter.id}` stands for a graph value, and this is a literal"
        scope.report("E401", message, span)
        return False
    if isinstance(parameter, nodes.LiteralName) and kind == "value":
        message = f"`${parameter.id}` stands for a literal, and this is a graph value"
        scope.report("E402", message, span)
        return False
    return True
