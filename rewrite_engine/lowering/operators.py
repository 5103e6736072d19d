"""Operators of a pattern: the spellings of an operator class, or of a family's rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from torch import fx

from rewrite_engine import torch_ops
from rewrite_engine.dsl import checked
from rewrite_engine.lowering.guards import compile_expr
from rewrite_engine.lowering.scope import ArgumentScope, Unknown
from rewrite_engine.lowering.spellings import CallKey, Spelling, call_keys, spelling_of
from rewrite_engine.signatures import Signature

_REMEMBERED = 4096
"""Operators of which is known how they are called. A rule set has some hundreds."""


@attrs.frozen(eq=False)
class OperatorPattern:
    """The target of a call in a matcher graph: an operator class, or a family's slot.

    `rows` holds the operator of each family row (one row without a family), and
    `literals` what the family's literal parameters are in that row.
    """

    name: str
    rows: tuple[checked.Operator, ...]
    literals: tuple[Mapping[str, Any], ...]
    is_slot: bool
    spellings: tuple[Spelling, ...]
    conditions: tuple[Callable[[Mapping[str, Any]], bool] | None, ...]
    """Per row, when operands commute, as a function of a call's arguments."""
    __name__: str = attrs.field(init=False)
    _calls: Mapping[CallKey, tuple[Spelling, ...]] = attrs.field(init=False, repr=False)

    @__name__.default
    def _default_name(self) -> str:
        return self.name.replace(".", "_").lstrip("_")

    @_calls.default
    def _by_call(self) -> Mapping[CallKey, tuple[Spelling, ...]]:
        table: dict[CallKey, tuple[Spelling, ...]] = {}
        for spelling in self.spellings:
            for key in spelling.keys:
                table[key] = (*table.get(key, ()), spelling)
        return table

    def __call__(self, *args: object, **kwargs: object) -> object:
        raise TypeError(f"'{self.name}' is a pattern; run one of the rule's instances")

    def __str__(self) -> str:
        return self.name

    def calls(self) -> Mapping[CallKey, tuple[Spelling, ...]]:
        """The spellings by the calls that they cover."""
        return self._calls

    def canonical(self, row: int) -> Signature:
        return self.rows[row].spellings[0]

    def first_spelling(self, row: int) -> Spelling:
        """The spelling whose parameters the rule's operands are named by."""
        return next(s for s in self.spellings if s.row == row)

    def spelling_for(
        self, row: int, args: Sequence[Any], options: Mapping[str, Any]
    ) -> Spelling:
        """The spelling that a right side builds: the first that takes the arguments."""
        mine = [s for s in self.spellings if s.row == row]
        fitting = (s for s in mine if s.accepts(args, options))
        callable_ones = (s for s in mine if s.form is None)
        return next(fitting, None) or next(callable_ones, mine[0])

    def covers(self, node: fx.Node) -> bool:
        """Whether some spelling is what a node calls."""
        return bool(self.spellings_of(node))

    def spellings_of(self, node: fx.Node) -> list[Spelling]:
        """The spellings that a node may be a call of."""
        keys = set(call_keys(node))
        return [spelling for spelling in self.spellings if keys & set(spelling.keys)]

    def has(self, spelling: Spelling) -> bool:
        """Whether a matched call may have been one of this operator."""
        return any(s.keys == spelling.keys for s in self.spellings)


def operator_pattern(
    operator: checked.Operator, *, builds: bool = True
) -> OperatorPattern:
    """The pattern of a plain operator.

    One that only matches (`builds` is False) leaves out the spellings of a library
    that is not imported, and so are in no graph.

    Raises: LookupError if an operator's library is not installed.
    """
    left_out = frozenset[str]() if builds else torch_ops.missing_libraries()
    return _operator_pattern(operator, left_out)


@functools.lru_cache(maxsize=_REMEMBERED)
def _operator_pattern(
    operator: checked.Operator, left_out: frozenset[str]
) -> OperatorPattern:
    spellings = _spellings(operator, 0, left_out)
    conditions = (_condition(operator),)
    return OperatorPattern(
        operator.name, (operator,), ({},), False, spellings, conditions
    )


def slot_pattern(family: checked.FamilyUse) -> OperatorPattern:
    """The pattern of a family's operator parameter: the union of its rows."""
    rows = family.operators
    spellings = tuple(s for i, row in enumerate(rows) for s in _spellings(row, i))
    literals = tuple(
        {name: literal_value(value) for name, value in row.literals.items()}
        for row in family.rows
    )
    conditions = tuple(map(_condition, rows))
    return OperatorPattern(family.slot, rows, literals, True, spellings, conditions)


def _condition(
    operator: checked.Operator,
) -> Callable[[Mapping[str, Any]], bool] | None:
    if operator.when is None:
        return None
    evaluate = compile_expr(operator.when)

    def commutes(arguments: Mapping[str, Any]) -> bool:
        try:
            return bool(evaluate(ArgumentScope(arguments)))
        except Unknown:
            return False

    return commutes


@functools.lru_cache(maxsize=_REMEMBERED)
def _spellings(
    operator: checked.Operator, row: int, left_out: frozenset[str] = frozenset()
) -> tuple[Spelling, ...]:
    taken = (s for s in operator.spellings if s.path.partition(".")[0] not in left_out)
    return tuple(spelling_of(operator.spellings[0], each, row) for each in taken)


def literal_value(value: Any) -> Any:
    """A literal of a checked rule as it stands in a graph."""
    if isinstance(value, checked.TorchConstant):
        return torch_ops.constant(value.name)
    if isinstance(value, tuple):
        return [literal_value(item) for item in value]
    return value
