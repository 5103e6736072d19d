"""The names of a left side that stand for tensors: graph values may be numbers, too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.checked import (
    Apply,
    Binding,
    Captured,
    Chain,
    Guard,
    Maybe,
    Operator,
    Term,
    Variable,
)
from rewrite_engine.dsl.operand_kinds import returns_tensor, wants_tensor


def tensor_names(bindings: Iterable[Binding], guards: Iterable[Guard]) -> set[str]:
    """The names that are tensors in every match in which they are bound."""
    found = {name for guard in guards for name in _of_guard(guard.expr)}
    for binding in bindings:
        found.update(_of_term(binding.term))
        if _is_tensor(binding.term):
            found.add(binding.name)
    return found


def _of_guard(expr: nodes.Expr) -> Iterator[str]:
    match expr:
        case nodes.HasType(id) | nodes.IsConst(id):
            yield id
        case nodes.And(left, right):
            yield from _of_guard(left)
            yield from _of_guard(right)


def _of_term(term: Term) -> Iterator[str]:
    """The names in the operands of calls that are there in every match."""
    match term:
        case Captured(_, value) | Maybe(value):
            yield from _of_term(value)
        case Chain(_, _, inner):
            yield from _of_term(inner)
        case Apply(operator, operands, optional=False):
            for operand in operands:
                yield from _of_term(operand.value)
                if isinstance(operator, Operator) and wants_tensor(
                    operator, operand.key
                ):
                    yield from _named(operand.value)


def _named(term: Term) -> Iterator[str]:
    if isinstance(term, Variable):
        yield term.name
    elif isinstance(term, Maybe):
        yield from _named(term.value)


def _is_tensor(term: Term) -> bool:
    match term:
        case Apply(operator, optional=False):
            return isinstance(operator, Operator) and returns_tensor(operator)
        case Captured(_, value):
            return _is_tensor(value)
    return False
