"""Running extremes of channels, and the scale from them, against plain numpy."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.ao.quantization.fx import _equalize as peer

from rewrite_engine.equalize import (
    InputEqualizationObserver,
    UncalibratedWarning,
    WeightEqualizationObserver,
    calculate_equalization_scale,
)

SHAPES = {
    "linear": ((8, 6), -1),
    "linear on [B, T, C]": ((2, 5, 6), -1),
    "linear on [C]": ((6,), -1),
    "conv1d": ((2, 6, 5), -2),
    "conv1d unbatched": ((6, 5), -2),
    "conv2d": ((2, 6, 5, 4), -3),
    "conv3d": ((2, 6, 5, 4, 3), -4),
    "conv3d unbatched": ((6, 5, 4, 3), -4),
}


@pytest.mark.parametrize("name", SHAPES)
def test_extremes_of_an_input_run_over_all_calls(name):
    shape, axis = SHAPES[name]
    observer = InputEqualizationObserver(axis)
    batches = [torch.randn(shape) * scale for scale in (1, 3, 2)]
    for x in batches:
        assert observer(x) is x
    channels = [np.moveaxis(x.numpy(), axis, 0).reshape(6, -1) for x in batches]
    together = np.concatenate(channels, axis=1)
    np.testing.assert_array_equal(observer.min_val.flatten(), together.min(1))
    np.testing.assert_array_equal(observer.max_val.flatten(), together.max(1))
    np.testing.assert_allclose(observer.value_range(), np.ptp(together, axis=1), 1e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_extremes_broadcast_against_the_input(name):
    shape, axis = SHAPES[name]
    x = torch.randn(shape)
    observer = InputEqualizationObserver(axis)
    observer(x)
    assert observer.min_val.dim() == x.dim()
    assert bool((observer.min_val <= x).all() and (x <= observer.max_val).all())


def test_of_two_ranks_the_smaller_is_kept():
    observer = InputEqualizationObserver(-3)
    observer(torch.ones(2, 6, 5, 5))
    observer(2 * torch.ones(6, 5, 5))
    observer(-torch.ones(3, 6, 4, 4))
    assert observer.min_val.shape == (6, 1, 1)
    assert observer.min_val.unique() == -1
    assert observer.max_val.unique() == 2


def test_an_empty_input_says_nothing():
    observer = InputEqualizationObserver()
    observer(torch.empty(0, 6))
    assert not observer.is_calibrated


def test_observing_has_no_gradient_and_needs_no_copy():
    x = torch.randn(6, requires_grad=True)
    observer = InputEqualizationObserver()
    observer(x)
    with torch.no_grad():
        x.add_(100)
    assert not observer.max_val.requires_grad
    assert observer.max_val.max() < 50


def test_a_positive_axis_is_refused():
    with pytest.raises(ValueError, match="counted from the end"):
        InputEqualizationObserver(1)


def test_extremes_are_saved_and_loaded():
    observer, fresh = InputEqualizationObserver(-3), InputEqualizationObserver(-3)
    observer(torch.randn(2, 6, 5, 5))
    fresh.load_state_dict(observer.state_dict())
    assert torch.equal(fresh.min_val, observer.min_val)
    fresh.reset()
    assert not fresh.is_calibrated
    assert copy.deepcopy(observer).max_val.equal(observer.max_val)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_weight_is_read_by_input_channel(groups):
    conv = torch.nn.Conv2d(6, 12, 3, groups=groups)
    observer = WeightEqualizationObserver(groups)
    observer(conv.weight)
    w = conv.weight.detach().numpy()
    outputs, inputs = 12 // groups, 6 // groups
    for channel in range(6):
        group, place = divmod(channel, inputs)
        met = w[group * outputs : (group + 1) * outputs, place]
        assert observer.min_val[channel] == met.min()
        assert observer.max_val[channel] == met.max()


def scale_of(x, w):
    inputs, weight = InputEqualizationObserver(), WeightEqualizationObserver()
    inputs(x)
    weight(w)
    return calculate_equalization_scale(inputs, weight)


def test_the_scale_balances_the_ranges():
    x, w = torch.randn(50, 6) * torch.logspace(-2, 2, 6), torch.randn(8, 6)
    s = scale_of(x, w)
    torch.testing.assert_close(
        np.ptp((x * s).numpy(), axis=0), np.ptp((w / s).numpy(), axis=0)
    )


def test_the_scale_is_torchs():
    x, w = torch.randn(50, 6) * torch.logspace(-2, 2, 6), torch.randn(8, 6)
    inputs, weight = (
        peer._InputEqualizationObserver(),
        peer._WeightEqualizationObserver(),
    )
    inputs(x)
    weight(w)
    theirs = peer.calculate_equalization_scale(inputs, weight)
    torch.testing.assert_close(scale_of(x, w).flatten(), theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad", [0.0, float("inf"), float("nan"), -float("inf")])
@pytest.mark.parametrize("spoiled", ["input", "weight"])
def test_a_channel_without_a_usable_scale_keeps_its_own(spoiled, bad):
    x, w = torch.randn(50, 6), torch.randn(8, 6)
    (x if spoiled == "input" else w)[:, 2] = bad
    s = scale_of(x, w).flatten()
    assert s[2] == 1
    assert s.isfinite().all() and (s > 0).all()
    assert (s != 1).sum() == 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_scale_is_usable_in_its_own_precision(dtype):
    x = torch.randn(50, 6, dtype=torch.float64) * 10.0 ** torch.arange(-24, 24, 8)
    w = torch.randn(8, 6, dtype=torch.float64)
    s = scale_of(x.to(dtype), w.to(dtype))
    assert s.dtype == dtype
    assert bool(
        s.isfinite().all() and s.reciprocal().isfinite().all() and (s > 0).all()
    )


def test_without_data_the_scale_is_one_and_a_warning_says_so():
    weight = WeightEqualizationObserver()
    weight(torch.randn(8, 6))
    with pytest.warns(UncalibratedWarning, match="no data"):
        s = calculate_equalization_scale(InputEqualizationObserver(), weight)
    assert s.equal(torch.ones(6))


def test_another_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="5 input channels, but a weight with 6"):
        scale_of(torch.randn(50, 5), torch.randn(8, 6))
