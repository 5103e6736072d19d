"""Where torchao's fold is right, the converted model is torchao's, node for node."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule
from torchao.quantization.pt2e import move_exported_model_to_eval, quantize_pt2e

from benches.models import ConvBn, capture, randomise_batch_norms
from rewrite_engine.integrations import torchao
from tests.integrations.flow import (
    assert_outputs_within_a_step,
    train,
)
from tests.integrations.isomorphism import assert_same_model
from tests.integrations.quantizers import ANNOTATION, QUANTIZERS

aten = torch.ops.aten
X = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(0))


class Kinds(nn.Module):
    """Branches with and without bias, activation and odd literals, and a chain."""

    def __init__(self, conv: type[nn.Module], norm: type[nn.Module]) -> None:
        super().__init__()
        options = {"stride": 2, "padding": 1, "dilation": 2, "groups": 2}
        self.branches = nn.ModuleList(
            ConvBn(
                conv(4, 6, 3, bias=bias, **literals),
                norm(6),
                nn.ReLU() if relu else None,
            )
            for bias in (True, False)
            for relu, literals in ((True, {}), (False, options))
        )
        self.chain = nn.Sequential(
            ConvBn(conv(4, 6, 3), norm(6), nn.ReLU()), ConvBn(conv(6, 4, 1), norm(4))
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (*(pair(x) for pair in self.branches), self.chain(x))


RANKS = {
    "conv2d": (nn.Conv2d, nn.BatchNorm2d, X),
    "conv1d": (nn.Conv1d, nn.BatchNorm1d, X.flatten(2)),
}


def trained(rank: str, quantizer: str, prepare: Callable[..., GraphModule]) -> Any:
    conv, norm, x = RANKS[rank]
    torch.manual_seed(0)
    model = randomise_batch_norms(Kinds(conv, norm)).train()
    return train(prepare(capture(model, (x,)), QUANTIZERS[quantizer]()), (x,))


COMPLETE = ("per_tensor", "per_channel", "derived_bias", "derived_bias_per_channel")
COMBINATIONS = [
    *(("conv2d", quantizer) for quantizer in COMPLETE),
    ("conv1d", "per_channel"),
    *(
        pytest.param(("conv1d", quantizer), marks=pytest.mark.long)
        for quantizer in COMPLETE
        if quantizer != "per_channel"
    ),
]
MODES = ("train", "eval")


@pytest.fixture(scope="module", params=COMBINATIONS, ids=" ".join)
def both(request: pytest.FixtureRequest) -> Any:
    """One trained model, prepared by us and by torchao, and its input."""
    rank, quantizer = request.param
    prepares = torchao.prepare_qat_pt2e, quantize_pt2e.prepare_qat_pt2e
    ours, theirs = (trained(rank, quantizer, each) for each in prepares)
    return ours, theirs, RANKS[rank][2]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fold_quantize", [False, True], ids=["kept", "folded"])
def test_the_converted_model_is_torchaos(
    both: Any, mode: str, fold_quantize: bool
) -> None:
    *models, x = both
    ours, theirs = map(copy.deepcopy, models)
    if mode == "eval":
        move_exported_model_to_eval(ours)
        move_exported_model_to_eval(theirs)
    ours = torchao.convert_pt2e(ours, fold_quantize=fold_quantize)
    theirs = quantize_pt2e.convert_pt2e(theirs, fold_quantize=fold_quantize)
    assert_same_model(ours, theirs)
    assert_outputs_within_a_step(ours, (x,), theirs(x))


def test_what_torchao_prepared_we_convert(both: Any) -> None:
    ours, theirs, _ = map(copy.deepcopy, both)
    assert_same_model(torchao.convert_pt2e(ours), torchao.convert_pt2e(theirs))


def test_the_annotation_of_a_batch_norms_output_moves_to_the_convolution() -> None:
    """So torchao tells the q call that follows where in the model it belongs."""
    converted = torchao.convert_pt2e(
        trained("conv2d", "per_channel", torchao.prepare_qat_pt2e)
    )
    convs = [n for n in converted.graph.nodes if n.target is aten.conv2d.default]
    annotated = [n for n in convs if n.meta[ANNOTATION].output_qspec is not None]
    assert len(convs) == 6 and len(annotated) == 3  # the others end in a ReLU
    for conv in annotated:
        (quantize,) = conv.users
        assert quantize.meta["stack_trace"] == conv.meta["stack_trace"]
        assert conv.meta[ANNOTATION].input_qspec_map
