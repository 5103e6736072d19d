"""Types of the tensors in a graph: reading and comparing them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, fx
from torch.nn import Module

VALUE_KEYS: Final = ("val", "example_value")
"""Where export and ATen tracing, and where dynamo, keep the fake value of a node."""

_STRIDED: Final = torch.strided
_STATIC: Final = frozenset({int})

UNKNOWN: Final = object()
"""Stands for the value of a node of which none is recorded."""


class TensorType(NamedTuple):
    """What a tensor is, without its data. A tuple, because its hash is hot."""

    dtype: torch.dtype
    shape: tuple[int | torch.SymInt, ...]
    stride: tuple[int | torch.SymInt, ...]
    """In elements; empty for a tensor that is not strided."""
    device: torch.device


def type_of(value: object) -> TensorType | None:
    """The type of a tensor, fake or real; None for anything else."""
    if not isinstance(value, Tensor):
        return None
    is_strided = value.layout is _STRIDED
    if is_strided and value.is_nested:
        return None  # its parts have shapes, and it has none
    shape, stride = tuple(value.shape), value.stride() if is_strided else ()
    # torch's own, and quick: where it is missing, each size is looked at.
    if getattr(value, "_has_symbolic_sizes_strides", True):
        shape, stride = tuple(map(_size, shape)), tuple(map(_size, stride))
    return TensorType(value.dtype, shape, stride, value.device)


def _size(size: int | torch.SymInt) -> int | torch.SymInt:
    """A size; a dynamic one that the program has been specialised to is a number."""
    known = size.node.maybe_as_int() if isinstance(size, torch.SymInt) else None
    return size if known is None else int(known)


def compatible(old: fx.Node, new: fx.Node) -> str | None:
    """Why the value of `new` cannot take the place of that of `old`.

    None if it can, or if the type of either node is not recorded.
    """
    return mismatch(recorded(old), recorded(new))


def recorded(node: fx.Node) -> Any:
    """The value recorded for a node, UNKNOWN if there is none."""
    meta = node.meta
    for key in VALUE_KEYS:
        if key in meta:
            return meta[key]
    return UNKNOWN


def attribute(module: torch.nn.Module, target: str) -> Any:
    """What a `get_attr` reads, UNKNOWN if it is not there."""
    value: Any = module
    for name in target.split("."):
        if isinstance(value, Module):
            # What a module holds is found without its slow `__getattr__`. It does not
            # register what is an attribute of it already.
            held = value.__dict__
            if (
                name in (table := held["_modules"])
                or name in (table := held["_parameters"])
                or name in (table := held["_buffers"])
            ):
                value = table[name]
                continue
        value = getattr(value, name, UNKNOWN)
        if value is UNKNOWN:
            return UNKNOWN
    return value


def is_static(sizes: Iterable[object]) -> bool:
    """Whether no size is symbolic."""
    return _STATIC.issuperset(map(type, sizes))


@lru_cache(maxsize=4096)
def dense_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The row-major strides of a shape, in elements."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def is_dense(kind: TensorType) -> bool:
    """Whether a tensor is row-major, with sizes that are all known."""
    if not is_static(kind.shape):
        return False
    return kind.stride == dense_stride(kind.shape)


def mismatch(old: Any, new: Any) -> str | None:
    """Why one recorded value cannot take the place of another, None if it can."""
    if old is UNKNOWN or new is UNKNOWN:
        return None
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        return _mismatch_of_sequences(old, new)
    old_type, new_type = type_of(old), type_of(new)
    if old_type is None and new_type is None:
        return None
    if old_type is None or new_type is None:
        return f"{type(old).__name__} would become {type(new).__name__}"
    return _mismatch_of_tensors(old_type, new_type)


def _mismatch_of_sequences(old: Sequence[Any], new: Sequence[Any]) -> str | None:
    if len(old) != len(new):
        return f"{len(old)} results would become {len(new)}"
    reasons = (
        (i, mismatch(a, b)) for i, (a, b) in enumerate(zip(old, new, strict=True))
    )
    return next((f"result {i}: {reason}" for i, reason in reasons if reason), None)


def _mismatch_of_tensors(old: TensorType, new: TensorType) -> str | None:
    if old.dtype != new.dtype:
        return f"dtype {_name(old.dtype)} would become {_name(new.dtype)}"
    if not _same_sizes(old.shape, new.shape):
        return f"shape {_sizes(old.shape)} would become {_sizes(new.shape)}"
    if old.device != new.device:
        return f"device {old.device} would become {new.device}"
    if not _same_layout(old, new):
        return f"stride {_sizes(old.stride)} would become {_sizes(new.stride)}"
    return None


def _same_layout(old: TensorType, new: TensorType) -> bool:
    """Whether equal indices lie at equal offsets; both tensors have the same shape."""
    if len(old.stride) != len(new.stride):
        return False
    if any(_is_int(size, 0) for size in old.shape):
        return True
    # The stride of an axis of size 1 is never used.
    strides = zip(old.shape, old.stride, new.stride, strict=False)
    used = [(a, b) for size, a, b in strides if not _is_int(size, 1)]
    return all(_is_true(a == b) for a, b in used)


def _is_true(claim: bool | torch.SymBool) -> bool:
    """Whether a claim about sizes is known to hold, without a guard on it."""
    if isinstance(claim, bool):
        return claim
    # Imports sympy, a third of a second that only dynamic shapes should cost.
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(claim)


def _is_int(size: object, number: int) -> bool:
    return type(size) is int and size == number


def _same_sizes(old: Sequence[Any], new: Sequence[Any]) -> bool:
    """Whether all sizes are known to be equal, without a guard on a dynamic one."""
    if len(old) != len(new):
        return False
    return all(_is_true(a == b) for a, b in zip(old, new, strict=True))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _sizes(sizes: Sequence[Any]) -> str:
    return f"[{', '.join(map(str, sizes))}]"
