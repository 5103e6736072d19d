"""Which layers are equalized, and what watches them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs
from torch import nn

from rewrite_engine.equalize.observers import InputEqualizationObserver


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

    input_observer: Callable[[int], nn.Module] = InputEqualizationObserver
    """Makes the observer of an input, given its channel axis (negative)."""

    def selects(self, names: Iterable[str]) -> bool:
        """Whether a layer that goes by `names` is to be equalized."""
        return self.layers is None or any(
            name == one or name.startswith(f"{one}.")
            for one in self.layers
            for name in names
        )
