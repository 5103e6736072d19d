"""Which layers are equalized, and what watches them."""

from __future__ import annotations

from collections.abc import Iterable

import attrs


def _names(layers: Iterable[str] | None) -> tuple[str, ...] | None:
    if isinstance(layers, str):
        return (layers,)
    return None if layers is None else tuple(layers)


@attrs.frozen
class EqualizationConfig:
    """How `prepare` observes a model."""

    layers: tuple[str, ...] | None = attrs.field(default=None, converter=_names)
    """The layers to equalize; None means all. A name is that of a module, of a weight,
    or of a graph node; the name of a container means every layer within it."""

    alpha: float = attrs.field(default=0.5)
    """SmoothQuant's exponent: how much of the difficulty moves from inputs to weights,
    from 0 to 1. Plain equalization has 1/2, whatever it is."""

    @alpha.validator
    def _check_alpha(self, _: object, value: float) -> None:
        if not 0 <= value <= 1:
            raise ValueError(f"alpha lies between 0 and 1, got {value}")

    def selects(self, names: Iterable[str]) -> bool:
        """Whether a layer that goes by `names` is to be equalized."""
        return self.layers is None or any(
            name == one or name.startswith(f"{one}.")
            for one in self.layers
            for name in names
        )
