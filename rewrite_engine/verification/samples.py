"""Values for tensors: random ones, and those on which formulas break."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf, nan
from typing import Final

import torch

from rewrite_engine.verification.operands import Content

RANDOM: Final = "random"
ADVERSARIAL: Final = ("zeros", "constant", "negative", "wide")
"""Finite values that any rule must take."""
SPECIAL: Final = ("special", "subnormal")
"""Values that `exact` rules must take: infinities, NaN, -0.0, subnormal numbers, and
the extremes of the dtype."""
NAN: Final = "nan"
"""Values that `inexact` rules must take where the left side lets NaN through."""

_Maker = Callable[[torch.Tensor, torch.Generator, torch.finfo], torch.Tensor]
"""From normal values, and the limits of the dtype that they will have."""


def sample(
    kind: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    content: Content,
    generator: torch.Generator,
) -> torch.Tensor:
    """A tensor of a kind of values; operands that are not free take random ones."""
    if content == "mask" or dtype is torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    if content == "index":
        return torch.randint(0, 2, shape, generator=generator)
    if content in ("int8", "zero point"):
        small = torch.randint(-20, 20, shape, generator=generator)
        return small.to(torch.int8 if content == "int8" else torch.int64)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    if content in ("positive", "running variance"):
        return (normal.abs() + 0.25).to(dtype)
    if content in ("minimum", "maximum"):
        far = normal.abs() + 0.25
        return (far if content == "maximum" else -far).to(dtype)
    if content == "fraction":
        return normal.sigmoid().to(dtype)
    if not dtype.is_floating_point and not dtype.is_complex:
        return _integers(kind, shape, dtype, generator)
    made = _MAKERS[kind](normal, generator, torch.finfo(dtype))
    if kind == "wide" and dtype is torch.float16:
        # One power of ten instead of three: products and quotients must not overflow.
        made = made.sign() * made.abs() ** (1 / 3)
    return made.to(dtype)


def spaced(like: torch.Tensor) -> torch.Tensor:
    """Evenly spaced numbers in the place of others."""
    return torch.linspace(-2, 2, like.numel()).reshape(like.shape).to(like.dtype)


def _integers(
    kind: str, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> torch.Tensor:
    limits = torch.iinfo(dtype)
    if kind in SPECIAL:
        extremes = torch.tensor([limits.min, limits.max, 0, 1, 2], dtype=dtype)
        return extremes[torch.randint(0, 5, shape, generator=generator)]
    if kind == "zeros":
        return torch.zeros(shape, dtype=dtype)
    low = max(limits.min, -9)
    return torch.randint(low, 9, shape, generator=generator).to(dtype)


def _wide(
    normal: torch.Tensor, generator: torch.Generator, limits: torch.finfo
) -> torch.Tensor:
    exponents = torch.randint(-3, 4, normal.shape, generator=generator)
    return normal * 10.0**exponents


def _scattered(
    normal: torch.Tensor, generator: torch.Generator, *values: float
) -> torch.Tensor:
    """Normal values, with the given ones strewn among them."""
    choices = torch.tensor([*values, 1.0], dtype=normal.dtype)
    picks = torch.randint(0, len(choices), normal.shape, generator=generator)
    chosen = choices[picks]
    return torch.where(chosen == 1.0, normal, chosen)


def _special(
    normal: torch.Tensor, generator: torch.Generator, limits: torch.finfo
) -> torch.Tensor:
    extremes = (inf, -inf, limits.max, limits.min)
    return _scattered(normal, generator, nan, 0.0, -0.0, *extremes)


def _subnormal(
    normal: torch.Tensor, generator: torch.Generator, limits: torch.finfo
) -> torch.Tensor:
    least = limits.smallest_normal * limits.eps
    numbers = (1e-310, -1e-310, 1e-40, -1e-40, 6e-8, least, -least)
    return _scattered(normal, generator, *numbers)


_MAKERS: Final[Mapping[str, _Maker]] = {
    RANDOM: lambda normal, generator, limits: normal,
    "zeros": lambda normal, generator, limits: torch.zeros_like(normal),
    "constant": lambda normal, generator, limits: torch.full_like(normal, 0.5),
    "negative": lambda normal, generator, limits: -normal.abs(),
    "wide": _wide,
    "nan": lambda normal, generator, limits: _scattered(normal, generator, nan),
    "special": _special,
    "subnormal": _subnormal,
}
