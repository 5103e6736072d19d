"""How a project tests its rules: run `pytest --rules` in this folder.

The test blocks of `silu.rules` run beside the tests below. `graph_snapshot` compares a
graph with the text stored under `__snapshots__`, which `--snapshot-update` writes.
"""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from rewrite_engine import engine, load


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        y = self.linear(x)
        return y * torch.sigmoid(y)


@pytest.fixture
def exported():
    torch.manual_seed(0)
    inputs = (torch.randn(2, 8),)
    return torch.export.export(Gate(), inputs).module(), inputs


@pytest.fixture
def rules():
    return load(Path(__file__).parent / "silu.rules")


def test_the_rewritten_model_is_equivalent(exported, rules, assert_equivalent):
    before, inputs = exported
    after = copy.deepcopy(before)
    assert engine.apply(after, rules).report.matches == 1
    assert_equivalent(before, after, inputs, check_gradients=True)


def test_the_rewritten_graph_is_the_one_we_want(exported, rules, graph_snapshot):
    module, _ = exported
    engine.apply(module, rules)
    assert module == graph_snapshot
