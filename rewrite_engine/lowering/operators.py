"""Operators of a pattern: which fx calls they cover, and how those calls' arguments
line up with the operands that the pattern names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import attrs
from torch import fx

from rewrite_engine import torch_ops
from rewrite_engine.dsl import checked
from rewrite_engine.lowering.guards import compile_expr
from rewrite_engine.lowering.literals import literals_equal
from rewrite_engine.lowering.scope import ArgumentScope, Unknown
from rewrite_engine.signatures import REQUIRED, Parameter, Signature

CallKey = tuple[str, object]
"""An fx `op` and its target, with functions replaced by their identity."""


def call_key(node: fx.Node) -> CallKey:
    """The key under which `OperatorPattern.calls` lists the calls like this node."""
    target = node.target
    # Hashing an OpOverload runs Python code; its identity is as good and far cheaper.
    return node.op, target if isinstance(target, str) else id(target)


class _Read(NamedTuple):
    """Where a spelling holds one canonical parameter."""

    name: str
    mine: str | None
    """The parameter's name here, None if it has no counterpart."""
    default: Any
    width: int | None
    """The length of the list that a single number stands for."""


@attrs.frozen(eq=False)
class Spelling:
    """One way in which a graph may call an operator.

    `names` maps a parameter of the operator's canonical signature to the parameter of
    this spelling that holds the same operand; a parameter that has no counterpart here
    is missing from it and stays at its canonical default.
    """

    op: str
    target: Any
    signature: Signature
    canonical: Signature
    names: Mapping[str, str]
    row: int
    _reads: tuple[_Read, ...] = attrs.field(init=False, repr=False)

    @_reads.default
    def _plan(self) -> tuple[_Read, ...]:
        return tuple(self._read(parameter) for parameter in self.canonical.parameters)

    def _read(self, parameter: Parameter) -> _Read:
        mine = self.names.get(parameter.name)
        default = parameter.default if mine is None else self._default(mine)
        size = parameter.type.partition("[")[2].partition("]")[0]
        width = int(size) if size.isdigit() else None
        return _Read(parameter.name, mine, default, width)

    @property
    def key(self) -> CallKey:
        target = self.target
        return self.op, target if isinstance(target, str) else id(target)

    def reordered(self, order: Mapping[str, str]) -> Spelling:
        """The same call read with operands that commute exchanged."""
        names = {name: self.names[order.get(name, name)] for name in self.names}
        return attrs.evolve(self, names=names) if order else self

    def own_name(self, key: int | str) -> str:
        """The name here of the operand at a position or of a canonical name."""
        parameter = self.canonical.parameter(key)
        assert parameter is not None
        return self.names[parameter.name]

    def takes(self, keys: Iterable[int | str]) -> bool:
        """Whether it has a parameter for each of these operands."""
        parameters = (self.canonical.parameter(key) for key in keys)
        return all(p is not None and p.name in self.names for p in parameters)

    def accepts(self, args: Sequence[Any]) -> bool:
        """Whether no Python number stands where the overload insists on a tensor."""
        if self.signature.kind != "overload" or torch_ops.wraps_numbers(self.target):
            return True
        parameters = self.signature.parameters
        return not any(
            isinstance(arg, (int, float)) and parameter.type.startswith("Tensor")
            for arg, parameter in zip(args, parameters, strict=False)
        )

    def arguments(self, node: fx.Node) -> dict[str, Any] | None:
        """The node's arguments by canonical parameter name, defaults filled in.

        None if the node's arguments do not fit this spelling.
        """
        bound = self.signature.bind(node.args, node.kwargs)
        if bound is None:
            return None
        arguments = {}
        for name, mine, default, width in self._reads:
            value = default if mine is None else bound.pop(mine, default)
            if width is not None and type(value) is int:
                # `stride=2` of an `int[2]` parameter means `[2, 2]`.
                value = [value] * width
            arguments[name] = value
        return arguments if not bound or self._at_defaults(bound) else None

    def _default(self, name: str) -> Any:
        parameter = self.signature.parameter(name)
        assert parameter is not None
        return parameter.default

    def _at_defaults(self, extra: Mapping[str, Any]) -> bool:
        """Whether arguments unknown to the canonical signature change nothing."""
        return all(
            literals_equal(value, self._default(name)) for name, value in extra.items()
        )


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

    @__name__.default
    def _default_name(self) -> str:
        return self.name.replace(".", "_").lstrip("_")

    def __call__(self, *args: object, **kwargs: object) -> object:
        raise TypeError(f"'{self.name}' is a pattern; run one of the rule's instances")

    def __str__(self) -> str:
        return self.name

    def calls(self) -> Mapping[CallKey, tuple[Spelling, ...]]:
        """The spellings by the calls that they cover."""
        table: dict[CallKey, tuple[Spelling, ...]] = {}
        for spelling in self.spellings:
            table[spelling.key] = (*table.get(spelling.key, ()), spelling)
        return table

    def canonical(self, row: int) -> Signature:
        return self.rows[row].spellings[0]

    def first_spelling(self, row: int) -> Spelling:
        """The spelling whose parameters the rule's operands are named by."""
        return next(s for s in self.spellings if s.row == row)

    def spelling_for(self, row: int, args: Sequence[Any]) -> Spelling:
        """The spelling that a right side builds: the first that takes the arguments."""
        fitting = (s for s in self.spellings if s.row == row and s.accepts(args))
        return next(fitting, self.first_spelling(row))

    def covers(self, node: fx.Node) -> bool:
        """Whether some spelling is what a node calls."""
        key = call_key(node)
        return any(spelling.key == key for spelling in self.spellings)

    def has(self, spelling: Spelling) -> bool:
        """Whether a matched call may have been one of this operator."""
        return any(s.key == spelling.key for s in self.spellings)


def operator_pattern(
    operator: checked.Operator, *, builds: bool = True
) -> OperatorPattern:
    """The pattern of a plain operator.

    One that only matches (`builds` is False) leaves out the spellings of a library
    that is not imported, and so are in no graph.

    Raises: LookupError if an operator's library is not installed.
    """
    left_out = frozenset[str]() if builds else torch_ops.missing_libraries()
    spellings = tuple(_spellings(operator, row=0, left_out=left_out))
    conditions = (_condition(operator),)
    return OperatorPattern(
        operator.name, (operator,), ({},), False, spellings, conditions
    )


def slot_pattern(family: checked.FamilyUse) -> OperatorPattern:
    """The pattern of a family's operator parameter: the union of its rows."""
    rows = tuple(row.operator for row in family.rows)
    spellings = tuple(s for i, row in enumerate(rows) for s in _spellings(row, row=i))
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


def _spellings(
    operator: checked.Operator, row: int, left_out: frozenset[str] = frozenset()
) -> Iterator[Spelling]:
    canonical = operator.spellings[0]
    for signature in operator.spellings:
        if signature.path.partition(".")[0] in left_out:
            continue
        op, target = torch_ops.resolve(signature)
        names = dict(_align(canonical, signature))
        yield Spelling(op, target, signature, canonical, names, row)


def _align(canonical: Signature, other: Signature) -> Iterator[tuple[str, str]]:
    """Pairs of parameters that hold the same operand: by name, else by position."""
    shared = {p.name for p in canonical.parameters} & {p.name for p in other.parameters}
    position = 0
    for parameter in canonical.parameters:
        if parameter.name in shared:
            yield parameter.name, parameter.name
        elif not parameter.keyword_only:
            counterpart = other.parameter(position)
            if counterpart is not None and _same_operand(parameter, counterpart):
                yield parameter.name, counterpart.name
        position += not parameter.keyword_only


def _same_operand(parameter: Parameter, counterpart: Parameter) -> bool:
    """Whether two names at one position mean one operand: `self`, `input` and `a` do.

    Options are paired by name only: `scale` and `inplace` may share a position.
    """
    return parameter.default is REQUIRED and counterpart.default is REQUIRED


def literal_value(value: Any) -> Any:
    """A literal of a checked rule as it stands in a graph."""
    if isinstance(value, checked.TorchConstant):
        return torch_ops.constant(value.name)
    if isinstance(value, tuple):
        return [literal_value(item) for item in value]
    return value
