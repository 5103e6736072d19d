"""What the values of a graph must be for the calls that read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeGuard

import attrs
from torch import fx

from rewrite_engine.verification.operands import (
    Arguments,
    Names,
    Operand,
    Sizes,
    is_known,
    operands_of,
)

Demands: TypeAlias = Mapping[fx.Node, Operand]
"""What the values of nodes must be."""


def operands_demanded(graph: fx.Graph, names: Names, sizes: Sizes) -> Demands:
    """What the values of a graph must be for the calls that read them.

    `names` gives the operator of each call and its arguments by parameter name. What an
    elementwise call must give, its operands must be.
    """
    demands: dict[fx.Node, Operand] = {}
    for node in reversed(graph.nodes):
        if node not in names:
            continue
        operator, arguments = names[node]
        try:
            operands = operands_of(operator, _literals(arguments), sizes)
        except (LookupError, TypeError, ValueError, ArithmeticError):
            continue
        for name, value in arguments.items():
            demand = operands.get(name)
            if node in demands and (operator in _KEEPING or not operands):
                demand = _demand_before(operator, arguments, demands[node])
            if isinstance(value, fx.Node) and demand is not None:
                demands.setdefault(value, demand)
    return {**_shaped_back(graph, names, demands), **demands}


def _demand_before(
    operator: str, arguments: Arguments, after: Operand
) -> Operand | None:
    """What an operand must be for the result to be what is demanded of that."""
    if operator not in _RESHAPING:
        return after
    order, rank = arguments.get("dims"), len(after.shape)
    if operator != "permute" or not _is_order(order, rank):
        return None
    places = {axis % rank: place for place, axis in enumerate(order)}
    return attrs.evolve(after, shape=tuple(after.shape[places[i]] for i in range(rank)))


def _is_order(value: Any, rank: int) -> TypeGuard[Sequence[int]]:
    if not isinstance(value, (list, tuple)) or len(value) != rank:
        return False
    if not all(type(axis) is int for axis in value):
        return False
    return sorted(axis % rank for axis in value) == [*range(rank)]


def _shaped_back(graph: fx.Graph, names: Names, demands: Demands) -> Demands:
    """Guesses for values of which nothing else is known: what is reshaped to fit a call
    had that shape before.
    """
    guesses: dict[fx.Node, Operand] = {}
    for node in reversed(graph.nodes):
        operator, arguments = names.get(node, ("", {}))
        guess = guesses.get(node)
        if operator == "reshape":
            guess = guess or demands.get(node)
        elif operator in _RESHAPING or is_known(operator):
            continue
        for value in arguments.values():
            if guess is not None and isinstance(value, fx.Node):
                guesses.setdefault(value, guess)
    return guesses


def _literals(arguments: Arguments) -> Arguments:
    return {k: v for k, v in arguments.items() if not isinstance(v, fx.Node)}


_KEEPING: Final = frozenset(
    {
        "quantize_per_tensor",
        "dequantize_per_tensor",
        "quantize_per_channel",
        "dequantize_per_channel",
    }
)
"""Operators whose result has the shape of their input."""

_RESHAPING: Final = frozenset(
    {
        *("reshape", "view", "permute", "transpose", "flatten", "squeeze"),
        *("unsqueeze", "expand", "cat", "stack", "getitem", "sum", "mean"),
        *("amax", "amin", "t", "select", "slice", "prod"),
    }
)
"""Operators that are neither elementwise nor known."""
