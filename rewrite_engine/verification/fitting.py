"""Shapes that the guards of a rule allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from rewrite_engine.dsl import nodes
from rewrite_engine.verification.operands import Sizes


@attrs.frozen
class Dimensions:
    """The sizes of dimensions that have a name, and of those that have none."""

    named: dict[str, int]
    """Filled in as names are met."""
    sizes: Sizes

    def shape(
        self, dims: tuple[nodes.Expr, ...], likely: tuple[int, ...]
    ) -> tuple[int, ...]:
        """A shape that the dimensions of a guard allow; the likely one, if they do."""
        fitting = _fitted(dims, likely, self.named)
        if fitting is None:
            fitting = tuple(self._chosen(dims))
        for dim, size in zip(dims, fitting, strict=False):
            if isinstance(dim, nodes.LiteralName):
                self.named.setdefault(dim.id, size)
        return fitting

    def _chosen(self, dims: tuple[nodes.Expr, ...]) -> Iterator[int]:
        for i, dim in enumerate(dims):
            match dim:
                case nodes.Constant(value):
                    assert isinstance(value, int)
                    yield value
                case nodes.LiteralName(id):
                    yield self.named.setdefault(id, self._usual(i))
                case nodes.Star():
                    count = max(0, self.sizes.rank - len(dims) + 1)
                    yield from [self.sizes.spatial] * count
                case _:
                    yield self._usual(i)

    def _usual(self, position: int) -> int:
        sizes = self.sizes
        return (sizes.batch, sizes.channels, *[sizes.spatial] * 64)[position]


def _fitted(
    dims: tuple[nodes.Expr, ...], shape: tuple[int, ...], known: Mapping[str, int]
) -> tuple[int, ...] | None:
    """The shape, if it is one that the dimensions allow."""
    star = next((i for i, d in enumerate(dims) if isinstance(d, nodes.Star)), None)
    if star is not None:
        after = len(dims) - star - 1
        if len(shape) < star + after:
            return None
        skipped = [nodes.Wildcard()] * (len(shape) - star - after)
        dims = (*dims[:star], *skipped, *dims[star + 1 :])
    if len(dims) != len(shape):
        return None
    fits = all(_allows(dim, size, known) for dim, size in zip(dims, shape, strict=True))
    return shape if fits else None


def _allows(dim: nodes.Expr, size: int, known: Mapping[str, int]) -> bool:
    match dim:
        case nodes.Constant(value):
            return value == size
        case nodes.LiteralName(id):
            return known.get(id, size) == size
    return True
