"""Calls up to the identity of their operands, and results known without running them.

Running an operator on fake tensors costs about 100 µs. Most calls that a rewrite
creates are elementwise or reshapes of row-major tensors, whose results follow from the
operand types in a few µs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from itertools import zip_longest
from operator import itemgetter
from typing import Any, Final, NamedTuple

import torch
from torch import fx

from rewrite_engine.tensor_types import (
    TensorType,
    dense_stride,
    is_dense,
    is_static,
    type_of,
)

aten = torch.ops.aten

_SYMBOLIC: Final = (torch.SymInt, torch.SymFloat, torch.SymBool)
_SCALARS: Final = frozenset({int, float, bool, str, type(None)})
_RESHAPES: Final = frozenset({aten.reshape.default, aten.view.default})
# Elementwise operators that torch does not tag as pointwise.
_ELEMENTWISE: Final = frozenset(
    {
        aten.where.ScalarOther,
        aten.where.ScalarSelf,
        aten.zeros_like.default,
        aten.ones_like.default,
    }
)
# The dtypes of elementwise results by signature. Filled by any thread: single dict
# operations are atomic, and a lost entry only costs another run.
_DTYPES: Final[dict[Hashable, torch.dtype]] = {}
_MOST_DTYPES: Final = 4096


class Literal(NamedTuple):
    """A literal argument. Its Python type counts: `1`, `1.0` and `True` are equal."""

    kind: type
    value: Hashable


class Call(NamedTuple):
    """A call with every operand replaced by its type: equal calls, equal results."""

    target: Any
    args: tuple[Any, ...]
    """A TensorType, Literal, symbolic expression, or tuple of such, for each one."""
    kwargs: tuple[tuple[str, Any], ...]


def call_of(node: fx.Node, operand: Callable[[fx.Node], Hashable]) -> Call:
    """The call of a node, with `operand(n)` standing for an operand `n`."""
    args = tuple([_stand_in(arg, operand) for arg in node.args])
    if not node.kwargs:
        return Call(node.target, args, ())
    kwargs = [(name, _stand_in(arg, operand)) for name, arg in node.kwargs.items()]
    return Call(node.target, args, tuple(sorted(kwargs, key=itemgetter(0))))


def identity(value: Any) -> Hashable:
    """What a result depends on in the recorded value of an operand."""
    if isinstance(value, torch.Tensor):
        return _static_type(value)
    if type(value) in _SCALARS:
        return Literal(type(value), value)
    if isinstance(value, (list, tuple)):
        return tuple(map(identity, value))
    if isinstance(value, _SYMBOLIC):
        return value.node.expr
    # What cannot be hashed is stood for by an object that equals no other.
    return Literal(type(value), value if isinstance(value, Hashable) else object())


def is_static_identity(value: Hashable) -> bool:
    """Whether an `identity`, or a tuple of such, means the same in every graph."""
    if isinstance(value, TensorType):
        return is_static((*value.shape, *value.stride))
    if isinstance(value, Literal):
        return value.kind in _SCALARS
    if isinstance(value, tuple):
        return all(map(is_static_identity, value))
    return value is None or isinstance(value, bool)


@lru_cache(maxsize=1024)
def may_alias(target: Any) -> bool:
    """Whether the schema of an ATen operator says that it returns an operand's memory.

    False for every other callable: nothing is known about those.
    """
    if not isinstance(target, torch._ops.OpOverload):
        return False
    return any(result.alias_info is not None for result in target._schema.returns)


def known_elementwise(call: Call) -> TensorType | None:
    """The result of an elementwise call, if its dtype has been remembered."""
    dtype = _DTYPES.get(_signature(call))
    return None if dtype is None else elementwise_result(call, dtype)


def remember_dtype(call: Call, dtype: torch.dtype) -> None:
    """Notes the dtype of a call, for calls of any size; nothing if not elementwise."""
    signature = _signature(call)
    if signature is None:
        return
    if len(_DTYPES) >= _MOST_DTYPES:
        _DTYPES.clear()
    _DTYPES[signature] = dtype


def elementwise_result(call: Call, dtype: torch.dtype) -> TensorType | None:
    """The row-major result of an elementwise call; None if only a run can tell."""
    operands = [arg for arg in call.args if isinstance(arg, TensorType)]
    devices = {operand.device for operand in operands}
    shape = _broadcast([operand.shape for operand in operands])
    if len(devices) != 1 or shape is None:
        return None
    return TensorType(dtype, shape, dense_stride(shape), devices.pop())


def reshape_result(call: Call) -> TensorType | None:
    """The type of a reshape of a row-major tensor; None if only a run can tell."""
    if call.target not in _RESHAPES or call.kwargs or len(call.args) != 2:
        return None
    base, sizes = call.args
    if not isinstance(base, TensorType) or not is_dense(base):
        return None
    if not all(isinstance(size, Literal) and size.kind is int for size in sizes):
        return None
    shape = _resolved(math.prod(base.shape), [size.value for size in sizes])
    if shape is None:
        return None
    return base._replace(shape=shape, stride=dense_stride(shape))


def _stand_in(arg: Any, operand: Callable[[fx.Node], Hashable]) -> Hashable:
    if isinstance(arg, fx.Node):
        return operand(arg)
    if isinstance(arg, (list, tuple)):
        return tuple([_stand_in(item, operand) for item in arg])
    return identity(arg)


def _static_type(value: torch.Tensor) -> TensorType:
    """The type with symbolic sizes as expressions, which compare without guards."""
    kind = type_of(value)
    assert kind is not None
    if not value._has_symbolic_sizes_strides:
        return kind
    shape, stride = (
        tuple(s.node.expr if isinstance(s, torch.SymInt) else s for s in sizes)
        for sizes in (kind.shape, kind.stride)
    )
    return kind._replace(shape=shape, stride=stride)


@lru_cache(maxsize=1024)
def _is_elementwise(target: Any) -> bool:
    if not isinstance(target, torch._ops.OpOverload) or may_alias(target):
        return False
    return target in _ELEMENTWISE or torch.Tag.pointwise in target.tags


def _signature(call: Call) -> Hashable | None:
    """What the dtype of an elementwise call depends on; None if it is no such call.

    Sizes do not matter, but tensors without dimensions promote differently. Only
    row-major tensors and plain literals are considered.
    """
    if call.kwargs or not _is_elementwise(call.target):
        return None
    parts = [_signature_part(arg) for arg in call.args]
    if None in parts:
        return None
    return call.target, torch.get_default_dtype(), *parts


def _signature_part(arg: Any) -> Hashable | None:
    if isinstance(arg, TensorType) and is_dense(arg):
        return arg.dtype, arg.device, not arg.shape
    if isinstance(arg, Literal) and arg.kind in _SCALARS:
        return arg
    return None


def _broadcast(shapes: Sequence[Sequence[Any]]) -> tuple[int, ...] | None:
    """The common shape; None if there is none."""
    sizes_by_axis = zip_longest(*map(reversed, shapes), fillvalue=1)
    result = []
    for sizes in sizes_by_axis:
        wide = set(sizes) - {1}
        if len(wide) > 1:
            return None
        result.append(wide.pop() if wide else 1)
    return tuple(reversed(result))


def _resolved(numel: int, sizes: list[int]) -> tuple[int, ...] | None:
    """The sizes with one -1 filled in; None if they do not hold `numel` elements."""
    if sizes.count(-1) == 1:
        known = -math.prod(sizes)
        sizes = [numel // max(known, 1) if size == -1 else size for size in sizes]
    if any(size < 0 for size in sizes) or math.prod(sizes) != numel:
        return None
    return tuple(sizes)
