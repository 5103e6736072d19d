"""Constants computed at rewrite time: in fp64, rounded once, and never in place."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import attrs
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from rewrite_engine.rewriting.safety import Refused

LARGEST = 64 * 2**20
"""Bytes that a folded constant may take when its inputs are smaller than half of it."""


@attrs.frozen(eq=False)
class Constant:
    """A folded value: `exact` in at least fp64, to be rounded to `dtype`."""

    exact: torch.Tensor
    dtype: torch.dtype
    origin: fx.Node | Fold | None = None
    """What it was read from, or computed by; None if it cannot be computed again."""
    inputs: tuple[Constant, ...] = ()
    """What it was computed from in the end; nothing, if it was read."""

    @staticmethod
    def of(tensor: torch.Tensor, origin: fx.Node | None = None) -> Constant:
        tensor = tensor.detach()
        wide = tensor.double() if tensor.is_floating_point() else tensor
        return Constant(wide, tensor.dtype, origin)

    def rounded(self, like: torch.Tensor | None = None) -> torch.Tensor:
        """The value in its dtype, in the memory format of a tensor of equal shape."""
        # A copy: a new constant shares no memory with those it was made from.
        rounded = self.exact.to(self.dtype, copy=True)
        if like is None or like.shape != rounded.shape:
            return rounded
        if like.layout is torch.strided and like.stride() == rounded.stride():
            return rounded
        empty = torch.empty_like(like, dtype=self.dtype, device=rounded.device)
        return empty.copy_(rounded)


class Fold(NamedTuple):
    """A call on constants."""

    target: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


def fold(
    target: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> Constant:
    """The result of a call on constants.

    Raises: Refused, if it fails or is too large.
    """
    if getattr(getattr(target, "_schema", None), "is_mutable", False):
        raise Refused(f"'{target}' writes its operand, and constants are never written")
    read = tuple(_constants((args, kwargs)))
    with computing():
        dtype = _result_dtype(target, args, kwargs, read)
        exact = target(*_map(args, _exact), **_map(kwargs, _exact))
    return Constant(exact, dtype, Fold(target, args, kwargs), _inputs(read))


def _inputs(read: Iterable[Constant]) -> tuple[Constant, ...]:
    """What constants were computed from, each once."""
    return tuple(dict.fromkeys(i for each in read for i in each.inputs or (each,)))


@contextmanager
def computing() -> Iterator[None]:
    """Where constants are computed. Raises: Refused, if that fails"""
    try:
        with torch.no_grad():
            yield
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise Refused(f"a constant cannot be computed: {error}") from error


def fold_hook(
    hook: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> Constant:
    """The result of a caller's function on constants, which it gets in fp64 copies.

    It has the dtype of the first of them, if both are floating point.

    Raises: Refused, if it fails, is no tensor, or turns finite inputs into inf or nan.
    """
    inputs = list(_constants((args, kwargs)))
    try:
        with torch.no_grad():
            exact = hook(*_map(args, _copy), **_map(kwargs, _copy))
    except Exception as error:
        raise Refused(f"a hook failed: {type(error).__name__}: {error}") from error
    if not isinstance(exact, torch.Tensor) or not _has_values(exact):
        raise Refused("a hook returned no tensor, or one whose values are elsewhere")
    dtype = next((v.dtype for v in inputs if v.dtype.is_floating_point), exact.dtype)
    dtype = dtype if exact.is_floating_point() else exact.dtype
    made = Constant(exact.detach(), dtype, None, tuple(inputs))
    check_finite(made, exact.to(dtype))
    return made


def _copy(value: Constant) -> torch.Tensor:
    return value.exact.clone()


def _result_dtype(
    target: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    inputs: Sequence[Constant],
) -> torch.dtype:
    """The dtype that the call has in the model's own precision, from a fake run.

    Calls whose result is no larger than all inputs together are run but once.
    """
    if _is_pointwise(target) and _stays_small(inputs):
        default = torch.get_default_dtype()  # of integers that are divided
        return _pointwise_dtype(target, _frozen(args), _frozen(kwargs), default)
    if target is torch.ops.aten.reshape.default:
        return inputs[0].dtype

    def fake(value: Constant) -> torch.Tensor:
        shape, device = value.exact.shape, value.exact.device
        return torch.empty(shape, dtype=value.dtype, device=device)

    with FakeTensorMode():
        result = target(*_map(args, fake), **_map(kwargs, fake))
    if not isinstance(result, torch.Tensor):
        raise Refused("a constant must be one tensor")
    size = result.numel() * 8
    if size > max(LARGEST, 2 * sum(value.exact.nbytes for value in inputs)):
        raise Refused(f"a folded constant would take {size / 2**20:.0f} MiB")
    return result.dtype


def _is_pointwise(target: Callable[..., Any]) -> bool:
    return torch.Tag.pointwise in getattr(target, "tags", ())


def _stays_small(inputs: Sequence[Constant]) -> bool:
    """Whether a pointwise call on these constants makes no large one."""
    if math.prod([value.exact.numel() for value in inputs]) <= LARGEST // 8:
        return True  # no broadcast makes more
    shape = torch.broadcast_shapes(*(value.exact.shape for value in inputs))
    return math.prod(shape) <= LARGEST // 8


@attrs.frozen
class _Kind:
    """What the dtype of a pointwise result depends on in an operand."""

    dtype: torch.dtype
    is_scalar: bool


def _frozen(value: Any) -> Any:
    """Arguments as a key: constants by their kind, lists and dictionaries as tuples."""
    if isinstance(value, Constant):
        return _Kind(value.dtype, value.exact.ndim == 0)
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    if isinstance(value, dict):
        return tuple((key, _frozen(item)) for key, item in value.items())
    # `1`, `1.0` and `True` are equal, and make different dtypes.
    return type(value), value


@lru_cache(maxsize=1024)
def _pointwise_dtype(
    target: Callable[..., Any], args: Any, kwargs: Any, _default: torch.dtype
) -> torch.dtype:
    """The dtype of a result; `_default`, which torch looks up, is part of the key."""

    def thaw(item: Any) -> Any:
        if isinstance(item, _Kind):
            return torch.empty([] if item.is_scalar else [1], dtype=item.dtype)
        return item[1]

    result = target(*map(thaw, args), **{key: thaw(item) for key, item in kwargs})
    return torch.as_tensor(result).dtype


def check_finite(value: Constant, stored: torch.Tensor) -> None:
    """Whether what is stored of a value is finite, if all is that it was made from;
    of a call on literals, always.

    Raises: Refused
    """
    is_folded = value.inputs or isinstance(value.origin, Fold)
    inputs = value.inputs if is_folded else (value,)
    if not is_finite(stored) and all(is_finite(each.exact) for each in inputs):
        raise Refused("folding finite constants gives a value that is not finite")


def check_unhooked(tensor: torch.Tensor, name: str) -> None:
    """Whether nothing is called when a tensor that loses its place gets a gradient.

    Raises: Refused
    """
    if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
        raise Refused(f"'{name}' has hooks, which what takes its place would not have")


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor has neither nan nor infinite elements."""
    if tensor.itemsize == 1 and tensor.is_floating_point():
        tensor = tensor.float()  # no sum is defined for eight bits
    # What is not finite stays so in a sum, which is cheaper than a tensor of answers.
    if cmath.isfinite(tensor.sum().item()):
        return True
    return bool(torch.isfinite(tensor).all())


def _exact(value: Constant) -> torch.Tensor:
    return value.exact


def _map(value: Any, change: Callable[[Constant], Any]) -> Any:
    if isinstance(value, Constant):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_map(item, change) for item in value)
    if isinstance(value, dict):
        return {key: _map(item, change) for key, item in value.items()}
    return value


def _constants(value: Any) -> Iterator[Constant]:
    if isinstance(value, Constant):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _constants(item)
    elif isinstance(value, dict):
        yield from _constants(tuple(value.values()))


def constant_node_value(node: fx.Node, held: torch.Tensor | None) -> Constant:
    """The constant that a node stands for.

    Raises: Refused, if it is none.
    """
    if held is None:
        raise Refused(f"'{node}' is not a constant")
    if not _has_values(held):
        raise Refused(f"the values of '{node}' are not available")
    return Constant.of(held, node)


def _has_values(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a plain array of numbers in memory."""
    if tensor.is_meta or tensor.is_quantized or tensor.is_nested:
        return False
    return not isinstance(tensor, FakeTensor) and tensor.layout == torch.strided
