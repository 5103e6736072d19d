"""The helpers for users' own tests."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812

from rewrite_engine.graph_text import graph_text
from rewrite_engine.testing import GraphSnapshotExtension, assert_equivalent

ROOT = Path(__file__).parents[1]


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.bn = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(self.bn(self.linear(x)))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(5, 3)


def test_a_graph_is_stored_as_its_text(graph_snapshot: Any) -> None:
    assert fx.symbolic_trace(Small()) == graph_snapshot


def test_text_is_stored_as_it_is(graph_snapshot: Any) -> None:
    assert graph_snapshot == "one line\n"


def test_serialisation_of_graphs() -> None:
    gm = fx.symbolic_trace(Small())
    assert GraphSnapshotExtension().serialize(gm) == graph_text(gm)
    assert GraphSnapshotExtension().serialize(gm.graph) == graph_text(gm)


def test_plugin_is_registered_once(request: pytest.FixtureRequest) -> None:
    plugins = request.config.pluginmanager.get_plugins()
    names = [getattr(plugin, "__name__", "") for plugin in plugins]
    assert names.count("rewrite_engine.pytest_plugin") == 1


def test_plugin_imports_neither_torch_nor_the_engine() -> None:
    code = (
        "import sys, rewrite_engine.pytest_plugin; "
        "print({'torch', 'lark', 'rewrite_engine.engine'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "set()"


def test_equal_models_leave_no_trace(x: torch.Tensor) -> None:
    model = Small()
    state, given = copy.deepcopy(model.state_dict()), x.clone()
    assert_equivalent(model, fx.symbolic_trace(model), (x,), check_gradients=True)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    assert torch.equal(x, given)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_exported_programs_are_models_too(x: torch.Tensor) -> None:
    model = Small()
    program = torch.export.export(model, (x,))
    assert_equivalent(model, program, (x,), check_gradients=True)


def test_random_state_is_restored(x: torch.Tensor) -> None:
    state = torch.get_rng_state()
    assert_equivalent(torch.rand_like, torch.rand_like, (x,))
    assert torch.equal(torch.get_rng_state(), state)


def message(before: Any, after: Any, *inputs: Any, **options: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        assert_equivalent(before, after, inputs, **options)
    return str(caught.value)


def test_message_says_which_output_where_and_by_how_much() -> None:
    def after(x: torch.Tensor) -> Any:
        y = x.clone()
        y[1, 2] += 0.5
        return {"same": x, "wrong": [y]}

    x = torch.arange(6.0).reshape(2, 3)
    assert message(lambda x: {"same": x, "wrong": [x]}, after, x) == (
        "the models differ:\n"
        "outputs['wrong'][0]: 1 of 6 elements differ, most at [1, 2]: "
        "5.0 became 5.5, by 0.5; allowed 5e-05 (1e-05 of 5)"
    )


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (lambda x: x.double(), "outputs: f32[5, 3] became f64[5, 3]"),
        (lambda x: x[:, :2], "outputs: f32[5, 3] became f32[5, 2]"),
        (lambda x: x.to("meta"), "outputs: f32[5, 3] on cpu became f32[5, 3] on meta"),
        (lambda x: 3, "outputs: f32[5, 3] on cpu became int"),
        (lambda x: [x], "outputs is missing after\noutputs[0] is new after"),
    ],
)
def test_types_and_structure_must_agree(
    after: Callable[..., Any], expected: str, x: torch.Tensor
) -> None:
    assert expected.replace(" on cpu", "") in message(lambda x: x, after, x).replace(
        " on cpu", ""
    )


def test_other_values_are_compared_by_equality(x: torch.Tensor) -> None:
    assert "outputs[1]: 1 became 2" in message(lambda x: (x, 1), lambda x: (x, 2), x)
    assert_equivalent(lambda x: float("nan"), lambda x: float("nan"), (x,))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float64, 1e-10),
        (torch.float32, 1e-5),
        (torch.bfloat16, 1.6e-2),
        (torch.float16, 2e-3),
        (torch.complex64, 1e-5),
    ],
)
def test_tolerance_is_relative_to_the_largest_magnitude(
    dtype: torch.dtype, tolerance: float
) -> None:
    x = torch.tensor([0.0, 2.0], dtype=dtype)
    inside, outside = (
        torch.tensor([2 * tolerance * factor, 0.0], dtype=dtype)
        for factor in (0.9, 1.1)
    )
    assert_equivalent(lambda x: x, lambda x: x + inside, (x,))
    assert "allowed" in message(lambda x: x, lambda x: x + outside, x)
    assert_equivalent(lambda x: x, lambda x: x + outside, (x,), rtol=2 * tolerance)


def test_integers_must_be_equal_whatever_the_tolerance() -> None:
    x = torch.tensor([2**60, 5])
    assert "[0]" in message(lambda x: x, lambda x: x + torch.tensor([1, 0]), x, rtol=1)
    flags = torch.tensor([True, False])
    assert "2 of 2" in message(lambda x: x, lambda x: ~x, flags)


def test_nan_and_infinity_must_be_in_the_same_places() -> None:
    x = torch.tensor([float("nan"), float("inf"), 1.0])
    assert_equivalent(lambda x: x, torch.clone, (x,))
    assert "most at [0]" in message(lambda x: x, torch.nan_to_num, x)
    assert "most at [1]" in message(
        lambda x: x, lambda x: torch.where(x.isinf(), -x, x), x
    )
    assert "most at [2]: 1.0 became nan" in message(
        lambda x: x, lambda x: x.masked_fill(x == 1, float("nan")), x
    )


def test_inputs_written_in_place_are_compared(x: torch.Tensor) -> None:
    def writing(x: torch.Tensor) -> torch.Tensor:
        return x.add_(1)

    assert "inputs[0]: " in message(writing, lambda x: x + 1, x)
    assert_equivalent(writing, lambda x: x + 1, (x,), check_state=False)
    assert_equivalent(writing, writing, (x,), check_gradients=True)


def test_buffers_are_compared(x: torch.Tensor) -> None:
    model, slower = Small(), Small()
    slower.load_state_dict(model.state_dict())
    slower.bn.momentum = 0.01
    report = message(model, slower, x)
    assert "buffer bn.running_mean: 4 of 4 elements differ" in report
    assert "outputs" not in report
    assert_equivalent(model, slower, (x,), check_state=False)


def test_a_buffer_may_vanish_only_if_it_never_changes(x: torch.Tensor) -> None:
    model = Small()
    without = copy.deepcopy(model)
    without.bn.running_mean = without.bn.running_var = None
    assert "buffer bn.running_mean is missing after" in message(model, without, x)
    assert_equivalent(nn.BatchNorm1d(3).eval(), lambda x: x / (1 + 1e-5) ** 0.5, (x,))


def test_gradients_are_compared_by_name(x: torch.Tensor) -> None:
    class Detached(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(x.detach(), self.weight, self.bias.detach())

    before, after = nn.Linear(3, 4), Detached(3, 4)
    after.load_state_dict(before.state_dict())
    assert_equivalent(before, after, (x,))
    report = message(before, after, x, check_gradients=True)
    assert "gradient of inputs[0]: " in report
    assert "gradient of bias: " in report
    assert "gradient of weight" not in report


def test_gradients_of_normalised_outputs_are_not_all_zero(x: torch.Tensor) -> None:
    bn = nn.BatchNorm1d(3)
    frozen = copy.deepcopy(bn)
    assert "gradient of inputs[0]" in message(
        bn,
        lambda x: frozen(x.detach()) + 0 * x,
        x,
        check_gradients=True,
        check_state=False,
    )


def test_noise_in_a_vanishing_gradient_is_no_difference() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    class Scaled(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self[1](4 * self[0](x / 4 + 0) - 3 * self[0].bias)

    after = Scaled(*copy.deepcopy(model))
    assert_equivalent(model, after, (torch.randn(64, 3),), check_gradients=True)


def test_gradients_at_what_is_no_number_are_not_compared() -> None:
    x = torch.tensor([1.0, float("nan"), -4.0])

    def by_hand(x: torch.Tensor) -> torch.Tensor:
        return x * torch.clamp(x + 3, 0, 6) / 6

    assert_equivalent(by_hand, F.hardswish, (x,), check_gradients=True)

    def without_the_last(x: torch.Tensor) -> torch.Tensor:
        return F.hardswish(x) * 2 - F.hardswish(x).detach()

    with pytest.raises(AssertionError, match="gradient of inputs"):
        assert_equivalent(by_hand, without_the_last, (x,), check_gradients=True)


def test_models_without_gradients_can_be_compared(x: torch.Tensor) -> None:
    assert_equivalent(
        lambda x: x.argmax(), lambda x: x.flatten().argmax(), (x,), check_gradients=True
    )
