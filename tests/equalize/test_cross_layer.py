"""Cross-layer equalization needs no data."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import fx, nn

from rewrite_engine import engine, load


@pytest.fixture(scope="module")
def rules():
    return load("cross_layer")


def linears() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def convolutions() -> nn.Module:
    depthwise = nn.Conv2d(8, 8, 3, groups=8)
    return nn.Sequential(nn.Conv2d(6, 8, 1), nn.ReLU(), depthwise)


SHAPES = {linears: (5, 6), convolutions: (2, 6, 5, 5)}


@pytest.mark.parametrize("frontend", ["fx", "export"])
@pytest.mark.parametrize("build", SHAPES)
@torch.no_grad()
def test_pairs_meet_in_the_middle(build, frontend, rules):
    model, x = build().double().eval(), torch.randn(SHAPES[build], dtype=torch.float64)
    model[0].weight.mul_(torch.logspace(-2, 2, 8).view(-1, *[1] * (x.dim() - 1)))
    gm = copy.deepcopy(model)
    if frontend == "fx":
        gm = fx.symbolic_trace(gm)
    else:
        gm = torch.export.export(gm, (x,)).module()
    assert engine.apply(gm, rules).report.matches == 1
    torch.testing.assert_close(gm(x), model(x), rtol=1e-10, atol=1e-10)
    first, second = gm.get_parameter("0.weight"), gm.get_parameter("2.weight")
    rows = first.flatten(1).abs().amax(1)
    columns = second if build is linears else second.transpose(0, 1)
    torch.testing.assert_close(rows, columns.transpose(0, 1).flatten(1).abs().amax(1))


@pytest.mark.parametrize("place", ["row", "column"])
@torch.no_grad()
def test_a_dead_channel_is_harmless(place, rules):
    model, x = linears().eval(), torch.randn(5, 6)
    dead = model[0].weight[2] if place == "row" else model[2].weight[:, 2]
    dead.zero_()
    gm = fx.symbolic_trace(copy.deepcopy(model))
    assert engine.apply(gm, rules).report.matches == 1
    torch.testing.assert_close(gm(x), model(x), rtol=1e-5, atol=1e-5)
    assert torch.equal(gm.get_parameter("0.weight")[2], model[0].weight[2])


@pytest.mark.parametrize("tied", ["module", "weight"])
def test_shared_and_tied_layers_are_left_alone(tied, rules):
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    last = first if tied == "module" else second
    gm = fx.symbolic_trace(nn.Sequential(first, nn.ReLU(), last))
    report = engine.apply(gm, rules).report
    assert report.matches == 0
    assert "'w1' and 'w2' are one tensor" in report.refusals[0].reason
