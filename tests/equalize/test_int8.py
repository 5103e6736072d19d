"""int8 after `convert_fx`: at worst slightly worse, and better on average."""

from __future__ import annotations

import statistics
import warnings

import pytest
import torch
from torch.ao import quantization as ao
from torch.ao.quantization.quantize_fx import convert_to_reference_fx, prepare_fx

from benches.bench_equalize import QCONFIGS, measure, measure_all
from benches.equalize_cases import CASES
from rewrite_engine.equalize import convert, prepare, sqnr

SAMPLE = (
    "linear on [B, T, C]",
    "conv2d groups",
    "conv1d depthwise",
    "nothing between linears",
    "nn.LeakyReLU between convolutions",
    "torch.relu between linears",
    "nn.Dropout between linears",
    "nn.ReLU6 between linears",
    "max pooling between convolutions",
    "grouped consumer",
    "depthwise and pointwise",
    "conv, batch norm, conv",
    "layer norm read by three linears",
    "a fork, equalized: a, b, c",
    "a value that is also returned",
    "residual with a projection",
    "one module twice in a row",
    "one bias for two layers",
    "a factor between linears",
    "F.linear on parameters",
    "of three: b, c",
    "transformer block",
)


def changes(kind, cases):
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        outcomes = measure_all(QCONFIGS[kind], cases)
    assert all(o.ours is not None for o in outcomes)
    return {o.case: o.ours - o.plain for o in outcomes}


def test_a_sample_of_the_cases_gains():
    found = changes("static", {name: CASES[name] for name in SAMPLE})
    assert found.keys() == set(SAMPLE)
    assert min(found.values()) > -3
    assert statistics.fmean(found.values()) > 1


@pytest.mark.long
@pytest.mark.parametrize("kind", ["static", "per_channel"])
def test_all_cases_gain(kind):
    found = changes(kind, CASES)
    assert len(found) > 100
    assert min(found.values()) > -3
    assert statistics.fmean(found.values()) > 1


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case.qconfig != "static"]
)
@torch.no_grad()
def test_other_quantizers_lose_nothing(name):
    case = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome = measure(case, QCONFIGS[case.qconfig])
    assert outcome is not None
    assert outcome.ours > outcome.plain - 3


def test_a_channel_far_from_zero_is_for_smoothquant():
    """Its range is small; what a quantizer has to hold, from zero on, is large."""
    torch.manual_seed(0)
    model, x = torch.nn.Sequential(torch.nn.Linear(8, 16)).eval(), torch.randn(256, 8)
    x[:, 0] = x[:, 0] / 50 + 3
    mapping = ao.QConfigMapping().set_global(QCONFIGS["static"])
    ratios = {}
    for rules in ("equalize", "smoothquant"):
        prepared = prepare(prepare_fx(model, mapping, (x,)))
        prepared(x)
        quantized = convert_to_reference_fx(convert(prepared, rules))
        ratios[rules] = sqnr(model(x), quantized(x))
    assert ratios["smoothquant"] > ratios["equalize"] + 4
