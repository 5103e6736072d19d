"""What each layer loses, on exported graphs with q/dq."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from rewrite_engine.equalize import layer_sqnr, sqnr, worst_layers


def test_sqnr_is_in_decibels():
    x = torch.tensor([3.0, 4.0])
    assert sqnr(x, x) == math.inf
    assert sqnr(x, x + torch.tensor([0.3, 0.4])) == pytest.approx(20, abs=1e-5)
    assert sqnr(torch.zeros(2), x) == -math.inf
    assert sqnr(torch.tensor([1.0, float("nan")]), torch.tensor([1.1, 0.0])) == (
        pytest.approx(20, abs=1e-5)
    )


@pytest.fixture
def pair():
    """An exported graph, and one whose second layer has a coarse weight."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    module = torch.export.export(model.eval(), (torch.randn(5, 6),)).module()
    coarse = copy.deepcopy(module)
    weight = coarse.get_parameter("2.weight")
    weight.data = (weight.data * 4).round() / 4
    return module, coarse


def test_layers_go_by_their_modules_names(pair):
    x = torch.randn(5, 6)
    found = layer_sqnr(*pair, x)
    assert list(found) == ["0", "2"]
    assert found["0"] == math.inf
    module, coarse = pair
    assert found["2"] == pytest.approx(sqnr(module(x), coarse(x)))


def test_the_worst_layers_come_first():
    ratios = {"a": 30.0, "b": 10.0, "c": 20.0}
    assert worst_layers(ratios, 2) == ("b", "c")
    assert worst_layers(ratios, 0) == ()
    assert worst_layers(ratios, 9) == ("b", "c", "a")
