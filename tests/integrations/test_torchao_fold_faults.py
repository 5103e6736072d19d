"""What torchao's fold gets wrong, and ours right: judged by eager execution in fp64.

Each case also shows torchao's fault, so that we notice when it is mended.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import nn
from torch.fx import GraphModule
from torchao.quantization.pt2e import move_exported_model_to_eval, quantize_pt2e

from benches.models import ConvBn, capture, randomise_batch_norms
from rewrite_engine.integrations import torchao
from tests.integrations.flow import (
    Pair,
    assert_convolutions_are_eager,
    assert_outputs_within_a_step,
    in_eval,
    pairs_of,
    train,
)
from tests.integrations.quantizers import QUANTIZERS

aten = torch.ops.aten
X = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(0))


# --- models ---


def pair(conv: nn.Module | None = None, **options: object) -> ConvBn:
    return ConvBn(conv or nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, **options))


class SharedConvolution(nn.Module):
    """A detection head: one convolution for two inputs, a BatchNorm for each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.norms
        return first(self.conv(x)) + second(self.conv(x + 1))


class Applied(nn.Module):
    """One pair, applied twice."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = ConvBn(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pair(self.pair(x))


class Tied(nn.Module):
    """Two pairs whose convolutions share a parameter."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.pairs = nn.ModuleList(pair() for _ in range(2))
        first, second = (each.conv for each in self.pairs)
        setattr(second, name, getattr(first, name))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pairs[0](x) + self.pairs[1](x)


class BufferWeight(nn.Module):
    """A weight that does not train."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(6, 4, 3, 3))
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(nn.functional.conv2d(x, self.weight))


class Reshaped(nn.Module):
    """A pair on another number of dimensions."""

    def __init__(self, pair: nn.Module, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.pair = pair
        self.sizes = sizes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pair(x.reshape(2, 4, *self.sizes))


def line() -> nn.Module:
    return Reshaped(ConvBn(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)), (81,))


def volume() -> nn.Module:
    return Reshaped(ConvBn(nn.Conv3d(4, 6, 3), nn.BatchNorm3d(6)), (3, 3, 9))


CASES: Mapping[str, Callable[[], nn.Module]] = {
    "eps": lambda: pair(eps=1e-2, momentum=0.01),
    "shared convolution": SharedConvolution,
    "tied weight": lambda: Tied("weight"),
    "tied bias": lambda: Tied("bias"),
    "string padding": lambda: pair(nn.Conv2d(4, 6, 3, padding="same")),
    "three dimensions": volume,
    "one dimension": line,
    "one pair twice": Applied,
    "weight in a buffer": BufferWeight,
    "no affine parameters": lambda: pair(affine=False),
    "groups, transposed": lambda: pair(nn.ConvTranspose2d(4, 6, 3, groups=2)),
    "transposed": lambda: pair(nn.ConvTranspose2d(4, 6, 3, stride=2)),
    "transposed line": lambda: Reshaped(
        ConvBn(nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d(6)), (81,)
    ),
    "transposed volume": lambda: Reshaped(
        ConvBn(nn.ConvTranspose3d(4, 6, 3), nn.BatchNorm3d(6)), (3, 3, 9)
    ),
}


class Branches(nn.Module):
    """Every case on the same input."""

    def __init__(self) -> None:
        super().__init__()
        self.cases = nn.ModuleList(build() for build in CASES.values())

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(case(x) for case in self.cases)


def trained(
    module: Callable[[], nn.Module],
    quantizer: str,
    prepare: Callable[..., GraphModule],
) -> tuple[GraphModule, list[Pair]]:
    """A prepared and trained model, and its convolutions as they should be."""
    torch.manual_seed(0)
    model = randomise_batch_norms(module()).train()
    prepared = prepare(capture(model, (X,)), QUANTIZERS[quantizer]())
    train(prepared, (X,))
    return prepared, pairs_of(prepared, model)


def leftovers(gm: GraphModule) -> set[object]:
    """Calls of training that have no place in a converted model."""
    training = {aten.sqrt.default, aten.rsqrt.default, aten.add_.Tensor}
    training.add(aten.batch_norm.default)
    return training & {node.target for node in gm.graph.nodes}


# --- ours ---


MODES = [*((quantizer, "eval") for quantizer in QUANTIZERS), ("per_channel", "train")]


@pytest.mark.parametrize(("quantizer", "mode"), MODES)
def test_every_case_is_folded_as_eager_execution_says(
    quantizer: str, mode: str
) -> None:
    prepared, pairs = trained(Branches, quantizer, torchao.prepare_qat_pt2e)
    assert all(each.norm is not None for each in pairs)
    expected = in_eval(prepared)(X)
    if mode == "eval":
        move_exported_model_to_eval(prepared)
    converted = torchao.convert_pt2e(prepared)
    assert not leftovers(converted)
    assert_convolutions_are_eager(converted, pairs, (X,))
    # While training, zeros stand for the bias, so its own rounding is no part of this.
    if quantizer not in ("derived_bias", "derived_bias_per_channel", "cast"):
        assert_outputs_within_a_step(converted, (X,), expected)


# --- torchao's ---


def theirs(case: str) -> tuple[GraphModule, list[Pair]]:
    prepare = quantize_pt2e.prepare_qat_pt2e
    return trained(CASES[case], "per_channel", prepare)


@pytest.mark.parametrize(
    "case", ["eps", "shared convolution", "tied weight", "tied bias"]
)
def test_torchao_folds_wrong_numbers(case: str) -> None:
    prepared, pairs = theirs(case)
    converted = quantize_pt2e.convert_pt2e(prepared)
    with pytest.raises(AssertionError):
        assert_convolutions_are_eager(converted, pairs, (X,), tolerance=1e-3)


@pytest.mark.parametrize(
    "case", ["string padding", "three dimensions", "transposed volume"]
)
def test_torchao_leaves_some_convolutions_with_their_batch_norm(case: str) -> None:
    prepared, _ = theirs(case)
    assert aten.batch_norm.default in leftovers(quantize_pt2e.convert_pt2e(prepared))


@pytest.mark.long
def test_torchao_leaves_counters_of_other_batch_norms() -> None:
    prepared, _ = theirs("one dimension")
    assert leftovers(quantize_pt2e.convert_pt2e(prepared)) == {aten.add_.Tensor}


FAILS = (
    "one pair twice",
    "weight in a buffer",
    "no affine parameters",
    "groups, transposed",
)


@pytest.mark.parametrize("case", FAILS)
def test_torchao_fails_in_some_cases(case: str) -> None:
    with pytest.raises((RuntimeError, KeyError)):
        quantize_pt2e.convert_pt2e(theirs(case)[0])


@pytest.mark.parametrize("quantizer", ["affine", "affine_per_tensor"])
def test_torchao_leaves_affine_pairs_with_their_batch_norm(quantizer: str) -> None:
    prepared, _ = trained(pair, quantizer, quantize_pt2e.prepare_qat_pt2e)
    converted = quantize_pt2e.convert_pt2e(prepared)
    assert aten.batch_norm.default in leftovers(converted)


def test_a_counter_may_lack_metadata() -> None:
    prepared, pairs = trained(pair, "per_channel", torchao.prepare_qat_pt2e)
    ours, their = prepared, copy.deepcopy(prepared)
    for gm in (ours, their):
        for counter in gm.graph.find_nodes(op="call_function", target=aten.add_.Tensor):
            counter.meta.clear()
    converted = torchao.convert_pt2e(ours)
    assert not leftovers(converted)
    assert_convolutions_are_eager(converted, pairs, (X,))
    with pytest.raises(KeyError, match="nn_module_stack"):
        quantize_pt2e.convert_pt2e(their)
