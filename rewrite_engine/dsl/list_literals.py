"""Literals that are lists in every graph, and are taken for numbers.

A number in a pattern stands for a list of fixed length; what `$k` captures is the list.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.checked import Apply, LiteralVariable, Operator, Rule, Slot
from rewrite_engine.dsl.walk import terms_in, walk
from rewrite_engine.errors import Diagnostic
from rewrite_engine.signatures import Parameter, Signature

_Place = tuple[Signature, Parameter]
"""A parameter that takes lists only, with its operator."""


def lists_as_numbers(rule: Rule) -> Iterator[Diagnostic]:
    """Guards that compare such a literal with a number, and numbers for it in the rows
    of a family: nothing ever matches.
    """
    compared = [c for guard in rule.guards for c in _comparisons(guard.expr)]
    rows = rule.family.rows if rule.family else ()
    if not compared and not any(row.literals for row in rows):
        return
    places = dict(_list_places(rule))
    for name, number in compared:
        if name.id in places:
            signature, parameter = places[name.id]
            message = (
                f"`${name.id}` is a list, as `{parameter.name}` of `{signature.path}` "
                f"is `{parameter.type}`, and this is a number"
            )
            hint = f"write `{_listed(parameter.type, number.value)}`"
            yield Diagnostic("E305", message, number.span, rule.source, hint=hint)
    yield from _numbers_in_rows(rule)


def _comparisons(
    guard: nodes.Expr,
) -> Iterator[tuple[nodes.LiteralName, nodes.Constant]]:
    for expr in walk(guard):
        match expr:
            case nodes.Compare(
                _, nodes.LiteralName() as name, nodes.Constant() as constant
            ) | nodes.Compare(
                _, nodes.Constant() as constant, nodes.LiteralName() as name
            ):
                if _is_number(constant.value):
                    yield name, constant


def _list_places(rule: Rule) -> Iterator[tuple[str, _Place]]:
    """The names that stand for lists, each with one of the places that say so."""
    for key, variable, called in _literal_operands(rule):
        for operator in rule.operators(called):
            place = _list_place(operator, key)
            if place is not None:
                yield variable.name, place


def _numbers_in_rows(rule: Rule) -> Iterator[Diagnostic]:
    rows = rule.family.rows if rule.family else ()
    for key, variable, called in _literal_operands(rule):
        for row in rows:
            number = row.literals.get(variable.name)
            operator = row.operator if isinstance(called, Slot) else called
            place = _list_place(operator, key) if _is_number(number) else None
            if place is None:
                continue
            signature, parameter = place
            message = (
                f"`{parameter.name}` of `{signature.path}` is `{parameter.type}`, and "
                f"`${variable.name}` is the number {number} in this row of the family"
            )
            hint = f"write `{_listed(parameter.type, number)}` in the row"
            yield Diagnostic("E305", message, variable.span, rule.source, hint=hint)
            break


def _literal_operands(
    rule: Rule,
) -> Iterator[tuple[int | str, LiteralVariable, Operator | Slot]]:
    for binding in rule.bindings:
        for term in terms_in(binding.term):
            if isinstance(term, Apply):
                for operand in term.operands:
                    if isinstance(operand.value, LiteralVariable):
                        yield operand.key, operand.value, term.operator


def _list_place(operator: Operator, key: int | str) -> _Place | None:
    """The first spelling and its parameter, if every spelling takes lists only."""
    found = [(s, p) for s in operator.spellings if (p := s.parameter(key)) is not None]
    takes_lists = found and all(p.type.rstrip("?").endswith("]") for _, p in found)
    return found[0] if takes_lists else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _listed(declared: str, number: Any) -> str:
    """The number as often as the list is long: `[2, 2]` for `SymInt[2]`."""
    length = declared.rstrip("?").rstrip("]").rpartition("[")[2]
    return f"[{', '.join([str(number)] * int(length or 1))}]"
