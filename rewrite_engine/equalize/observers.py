"""What is known of a layer's input channels: running extremes, and the scale from them.

The scale of input channel c is `sqrt(range(W_c) / range(X_c))` (Nagel et al., 2019,
section 4.1, for a layer and its input): X is multiplied by it, W divided.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn


class UncalibratedWarning(UserWarning):
    """An equalization scale was asked for before its observers had seen anything."""


class ChannelObserver(nn.Module):
    """Running minimum and maximum of each channel, over all calls.

    `min_val` and `max_val` broadcast against what is observed: C values along the
    channel axis, 1 along every other; [0] before the first call.
    """

    min_val: torch.Tensor
    max_val: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("min_val", torch.empty(0))
        self.register_buffer("max_val", torch.empty(0))

    @property
    def is_calibrated(self) -> bool:
        """Whether a value has been seen."""
        return self.min_val.numel() > 0

    def record(self, low: torch.Tensor, high: torch.Tensor) -> None:
        """Widen the extremes. Of two ranks the smaller is kept: it fits both."""
        if self.is_calibrated:
            shape = min(low.shape, self.min_val.shape, key=len)
            low = torch.minimum(low.view(shape), self.min_val.view(shape))
            high = torch.maximum(high.view(shape), self.max_val.view(shape))
        self.min_val, self.max_val = low, high

    def value_range(self) -> torch.Tensor:
        """Maximum minus minimum, [C], fp64."""
        return (self.max_val.double() - self.min_val.double()).flatten()

    def reset(self) -> None:
        """Forget everything."""
        self.min_val = self.min_val.new_empty(0)
        self.max_val = self.max_val.new_empty(0)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any
    ) -> None:
        # The number of channels is known only after the first call.
        for name in ("min_val", "max_val"):
            saved = state_dict.get(prefix + name)
            if saved is not None:
                setattr(self, name, torch.empty_like(saved))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class InputEqualizationObserver(ChannelObserver):
    """Watches the input of a layer and passes it on unchanged.

    `axis` is the channel axis, counted from the end so that an input with or without a
    batch dimension is read alike: -1 for Linear, -2, -3, -4 for Conv1d, 2d, 3d.
    `alpha` is the exponent of SmoothQuant, kept for its rules.
    """

    alpha: torch.Tensor

    def __init__(self, axis: int = -1, alpha: float = 0.5) -> None:
        super().__init__()
        if axis >= 0:
            raise ValueError(f"the channel axis is counted from the end, got {axis}")
        self.axis = axis
        self.register_buffer("alpha", torch.tensor(alpha))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x`: any real tensor that has the channel axis; an empty one says nothing."""
        if x.numel() > 0:
            others = [i for i in range(-x.dim(), 0) if i != self.axis]
            seen = x.detach()
            if others:
                low, high = seen.amin(others, True), seen.amax(others, True)
            else:
                low = high = seen.clone()
            self.record(low, high)
        return x

    def extra_repr(self) -> str:
        """The channel axis."""
        return f"axis={self.axis}"


class WeightEqualizationObserver(ChannelObserver):
    """Watches a weight, [outputs, inputs / groups, *kernel], by input channel.

    Input channel c of group g meets only the outputs of group g, so the extremes of
    `groups` groups are [inputs], in the order of the input's channels.
    """

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        """`w`: the weight of a Linear or of a convolution of any rank."""
        if w.numel() > 0:
            seen = w.detach().reshape(self.groups, -1, w.shape[1], w[0, 0].numel())
            low, high = seen.amin((1, 3)), seen.amax((1, 3))
            self.record(low.flatten(), high.flatten())
        return w

    def extra_repr(self) -> str:
        """The number of groups."""
        return f"groups={self.groups}"


def calculate_equalization_scale(
    inputs: ChannelObserver, weight: ChannelObserver
) -> torch.Tensor:
    """`sqrt(range(W) / range(X))` of each input channel, in the weight's dtype.

    Its shape is that of the input's extremes, so it broadcasts against the input. It is
    1 where the formula, or its reciprocal, is zero or not finite in that dtype: for a
    channel that is constant or dead, or has seen inf or nan. All ones, with an
    UncalibratedWarning, if an observer has seen nothing.

    Raises: ValueError if the two have another number of channels.
    """
    if not (inputs.is_calibrated and weight.is_calibrated):
        message = "the equalization observers have seen no data: the scale is 1"
        warnings.warn(message, UncalibratedWarning, stacklevel=2)
        return torch.ones_like(
            weight.min_val if weight.is_calibrated else inputs.min_val
        )
    seen = inputs.min_val.numel(), weight.min_val.numel()
    if seen[0] != seen[1]:
        raise ValueError(f"{seen[0]} input channels, but a weight with {seen[1]}")
    dtype = weight.min_val.dtype
    scale = scale_of(inputs.value_range(), weight.value_range(), dtype)
    return scale.view_as(inputs.min_val)


def scale_of(
    inputs: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype, alpha: float = 0.5
) -> torch.Tensor:
    """`weight^(1 - alpha) / inputs^alpha`, each [C] and fp64, rounded to `dtype`.

    1 where the scale or its reciprocal is zero or not finite.
    """
    scale = (weight ** (1 - alpha) / inputs**alpha).to(dtype)
    usable = scale.isfinite() & scale.reciprocal().isfinite() & (scale > 0)
    return torch.where(usable, scale, torch.ones_like(scale))
