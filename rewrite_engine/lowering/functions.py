"""The functions that expressions of a rule may call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import fx

from rewrite_engine.graph_facts import value_readers
from rewrite_engine.lowering.scope import Scope, Unknown, UnknownType
from rewrite_engine.lowering.symbolic import SYMBOLIC, decided
from rewrite_engine.tensor_types import TensorType, type_of


def node_of(scope: Scope, name: str) -> fx.Node:
    """The node that a name stands for. Raises: Unknown, if it is absent."""
    value = scope.value(name)
    if not isinstance(value, fx.Node):
        raise Unknown(f"'{name}' is absent")
    return value


def tensor_type_of(scope: Scope, value: Any) -> TensorType:
    """The type of a node's value or of a tensor. Raises: Unknown."""
    is_node = isinstance(value, fx.Node)
    known = scope.facts.type_of(value) if is_node else type_of(value)
    if known is None:
        raise UnknownType(f"the type of '{value}' is not known")
    return known


def along(n: Any, axis: int, rank: int) -> list[Any]:
    """A shape of `rank` ones with `n` at `axis`."""
    if not 0 <= rank <= 64:
        raise ValueError("a rank is between 0 and 64")
    shape: list[Any] = [1] * rank
    shape[axis] = n
    return shape


def _is_contiguous(scope: Scope, value: Any) -> bool:
    known = tensor_type_of(scope, value)
    expected: Any = 1
    for size, stride in zip(reversed(known.shape), reversed(known.stride), strict=True):
        if not (decided(stride == expected) or decided(size == 1)):
            return False
        expected = expected * size
    return True


def _readers(scope: Scope, value: Any) -> int:
    if not isinstance(value, fx.Node):
        raise Unknown("only a graph value has readers")
    return sum(1 for _ in value_readers(value))


def _qualified_name(scope: Scope, value: Any) -> str:
    name = scope.facts.state_name(value) if isinstance(value, fx.Node) else None
    if name is None:
        raise Unknown(f"'{value}' is no parameter or buffer")
    return name


def _state_name(scope: Scope, value: Any) -> str:
    return _qualified_name(scope, value).rpartition(".")[2]


def _sibling_readers(scope: Scope, value: Any, name: str) -> int:
    module, dot, _ = _qualified_name(scope, value).rpartition(".")
    sibling = module + dot + name
    if not scope.facts.has_state(sibling):
        raise Unknown(f"there is no '{sibling}'")
    nodes = scope.facts.state_nodes(sibling)
    return sum(1 for node in nodes for _ in value_readers(node))


def _is_positive(scope: Scope, value: Any) -> bool:
    held = scope.facts.constant(value) if isinstance(value, fx.Node) else None
    if held is None or held.is_meta or held.is_complex():
        raise Unknown(f"the value of '{value}' is not known")
    return bool((held > 0).all())


def _distinct(scope: Scope, *values: Any) -> bool:
    return len({id(value) for value in values}) == len(values)


def _extreme(
    values: Sequence[Any],
    of_numbers: Callable[..., Any],
    of_two_sizes: Callable[[Any, Any], Any],
) -> Any:
    if any(isinstance(value, SYMBOLIC) for value in values):
        return reduce(of_two_sizes, values)
    return of_numbers(*values)


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "rank": lambda scope, value: len(tensor_type_of(scope, value).shape),
    "shape": lambda scope, value: list(tensor_type_of(scope, value).shape),
    "size": lambda scope, value, axis: tensor_type_of(scope, value).shape[axis],
    "numel": lambda scope, value: math.prod(tensor_type_of(scope, value).shape),
    "dtype": lambda scope, value: tensor_type_of(scope, value).dtype,
    "device": lambda scope, value: tensor_type_of(scope, value).device,
    "is_contiguous": _is_contiguous,
    "uses": _readers,
    "positive": _is_positive,
    "state_name": _state_name,
    "sibling_uses": _sibling_readers,
    "distinct": _distinct,
    "along": lambda scope, n, axis, rank: along(n, axis, rank),
    "min": lambda scope, *values: _extreme(values, min, torch.sym_min),
    "max": lambda scope, *values: _extreme(values, max, torch.sym_max),
    "abs": lambda scope, value: abs(value),
    "len": lambda scope, value: len(value),
    "prod": lambda scope, values: math.prod(values),
}

OF_THE_GRAPH = frozenset({"positive", "sibling_uses", "state_name", "uses"})
"""The functions that depend on more than the types and literals of their arguments."""
