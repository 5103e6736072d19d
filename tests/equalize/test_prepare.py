"""Observers are put where the configuration says, and change nothing else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import nn

from benches.equalize_cases import CASES, Net, param
from rewrite_engine.equalize import (
    EqualizationConfig,
    InputEqualizationObserver,
    prepare,
)


def exported(model, *inputs):
    return torch.export.export(model.eval(), inputs).module()


def observed(module):
    """Nodes that read an observer, by name."""
    return [
        user.name
        for node in module.graph.nodes
        if node.op == "call_module"
        and isinstance(module.get_submodule(node.target), InputEqualizationObserver)
        for user in node.users
    ]


@pytest.fixture
def three():
    return Net(
        lambda m, x: F.linear(F.relu(m.head(F.relu(m.body(x)))), m.w),
        body=nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8)),
        head=nn.Linear(8, 8),
        w=param(4, 8),
    )


ALL = ["linear", "linear_1", "linear_2", "linear_3"]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (None, ALL),
        ((), []),
        (("body",), ALL[:2]),
        (("body.0", "head"), [ALL[0], ALL[2]]),
        (("head.weight",), [ALL[2]]),
        (("w",), [ALL[3]]),
        (("linear_3", "linear"), [ALL[0], ALL[3]]),
    ],
)
def test_layers_are_chosen_by_name(three, layers, expected):
    module = exported(three, torch.randn(5, 6))
    assert observed(prepare(module, EqualizationConfig(layers))) == expected


def test_an_unknown_name_is_refused_with_a_suggestion(three):
    module = exported(three, torch.randn(5, 6))
    with pytest.raises(ValueError, match=r"called 'haed'.*mean 'head'"):
        prepare(module, EqualizationConfig(("haed",)))


def test_the_model_given_is_untouched_unless_asked_for(three):
    module = exported(three, torch.randn(5, 6))
    code, state = module.code, dict(module.state_dict())
    prepared = prepare(module)
    assert module.code == code
    assert module.state_dict().keys() == state.keys()
    assert prepared is not module
    assert prepare(module, inplace=True) is module
    assert module.code == prepared.code


def test_a_second_time_adds_nothing(three):
    prepared = prepare(exported(three, torch.randn(5, 6)))
    assert prepare(prepared).code == prepared.code


def test_observing_changes_no_output(three):
    x = torch.randn(5, 6)
    module = exported(three, x)
    prepared = prepare(module)
    assert torch.equal(prepared(x), module(x))
    observers = [
        m for m in prepared.children() if isinstance(m, InputEqualizationObserver)
    ]
    assert all(observer.is_calibrated for observer in observers)
    assert len(observers) == 4


@pytest.mark.parametrize(
    ("case", "axis"),
    [("linear", -1), ("conv1d", -2), ("conv2d unbatched", -3), ("conv3d groups", -4)],
)
def test_the_channel_axis_is_that_of_the_layer(case, axis):
    case = CASES[case]
    prepared = prepare(exported(case.model(), case.input()))
    assert prepared.equalization_observer_0.axis == axis


def test_a_name_that_is_taken_is_left_alone():
    model = nn.Sequential()
    model.add_module("equalization_observer_0", nn.Linear(6, 4))
    prepared = prepare(exported(model, torch.randn(5, 6)))
    assert isinstance(prepared.equalization_observer_1, InputEqualizationObserver)
    assert prepared.equalization_observer_0.weight.shape == (4, 6)


def test_an_observer_lies_where_its_layer_does():
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8).to("meta"))
    prepared = prepare(torch.fx.symbolic_trace(model))
    devices = [buffer.device.type for buffer in prepared.buffers()]
    assert devices == ["cpu"] * 3 + ["meta"] * 3


def test_a_computed_weight_lies_nowhere():
    model = Net(lambda m, x: F.linear(x, m.w * 2), w=param(4, 6))
    prepared = prepare(exported(model, torch.randn(5, 6)))
    assert {buffer.device.type for buffer in prepared.buffers()} == {"cpu"}
