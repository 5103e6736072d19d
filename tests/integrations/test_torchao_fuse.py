"""The first half of the flow: what is fused before training, and what is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import quantize_pt2e
from torchao.quantization.pt2e.qat_utils import _fuse_conv_bn_qat
from torchao.quantization.pt2e.quantizer import (
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    SharedQuantizationSpec,
)

from benches.models import ConvBn, capture, randomise_batch_norms
from rewrite_engine.integrations import torchao
from rewrite_engine.report import Report
from tests.integrations.quantizers import (
    ACTIVATION,
    ANNOTATION,
    QUANTIZERS,
    OperandQuantizer,
    convolutions,
    derived_bias,
    per_channel,
    per_tensor,
)
from tests.qat.canonical import Canonical

aten = torch.ops.aten
X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def pair(conv: nn.Module | None = None) -> ConvBn:
    return ConvBn(conv or nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()).train()


def captured(module: nn.Module) -> GraphModule:
    torch.manual_seed(0)
    return capture(randomise_batch_norms(module).train(), (X,))


def fused_pairs(gm: GraphModule) -> int:
    return len(gm.graph.find_nodes(op="call_function", target=aten.sqrt.default))


def norm_of(conv: Node) -> Node:
    (norm,) = conv.users
    return norm


# --- the same as torchao's, in place ---


class Pairs(nn.Module):
    """Convolutions with and without bias, with and without activation."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            ConvBn(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
            ConvBn(nn.Conv2d(6, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6)),
            ConvBn(nn.Conv2d(6, 4, 1, stride=2), nn.BatchNorm2d(4), nn.ReLU()),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


BOTH = ("per_tensor", "per_channel", "derived_bias", "derived_bias_per_channel")


@pytest.mark.parametrize("quantizer", BOTH)
def test_the_prepared_model_is_torchaos(quantizer: str) -> None:
    ours = torchao.prepare_qat_pt2e(captured(Pairs()), QUANTIZERS[quantizer]())
    theirs = quantize_pt2e.prepare_qat_pt2e(captured(Pairs()), QUANTIZERS[quantizer]())
    assert fused_pairs(ours) == 3
    assert Canonical(ours).counts == Canonical(theirs).counts
    assert ours.meta.keys() == theirs.meta.keys()
    for gm in (ours, theirs):
        with pytest.raises(NotImplementedError, match="move_exported_model_to_train"):
            gm.train()


@pytest.mark.parametrize("quantizer", ["weight_only", "activation_only"])
def test_one_kind_of_operand_may_be_annotated_alone(quantizer: str) -> None:
    ours = torchao.prepare_qat_pt2e(captured(Pairs()), QUANTIZERS[quantizer]())
    assert fused_pairs(ours) == 3
    assert ours(X).isfinite().all()
    with pytest.raises(IndexError):
        quantize_pt2e.prepare_qat_pt2e(captured(Pairs()), QUANTIZERS[quantizer]())


def test_fuse_works_in_place_once() -> None:
    gm = captured(Pairs())
    QUANTIZERS["per_tensor"]().annotate(gm)
    reports: list[Report] = []
    assert torchao.fuse_conv_bn_qat(gm, on_report=reports.append) is gm
    assert torchao.fuse_conv_bn_qat(gm, on_report=reports.append) is gm
    assert [report.matches for report in reports] == [3, 0]


# --- what is refused, and why ---


def annotate_operands(gm: GraphModule, **extra: Any) -> Node:
    """The one convolution of `gm`, input and weight annotated."""
    (conv,) = convolutions(gm)
    qspecs = {conv.args[0]: ACTIVATION, conv.args[1]: per_channel()}
    conv.meta[ANNOTATION] = QuantizationAnnotation(
        input_qspec_map=qspecs, _annotated=True, **extra
    )
    return conv


def annotate_bias(gm: GraphModule, qspec: Callable[[Node], Any]) -> None:
    conv = annotate_operands(gm)
    conv.meta[ANNOTATION].input_qspec_map[conv.args[2]] = qspec(conv)


def annotate_norm_input(gm: GraphModule) -> None:
    conv = annotate_operands(gm)
    norm_of(conv).meta[ANNOTATION] = QuantizationAnnotation(
        input_qspec_map={conv: ACTIVATION}, _annotated=True
    )


def annotate_weight_itself(gm: GraphModule) -> None:
    weight = annotate_operands(gm).args[1]
    weight.meta[ANNOTATION] = QuantizationAnnotation(output_qspec=per_tensor())


def own_spec(conv: Node) -> QuantizationSpec:
    return per_tensor(torch.int32)


class FrozenNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = pair()

    def train(self, mode: bool = True) -> FrozenNorm:
        super().train(mode)
        self.pair.bn.eval()
        return self


class ComputedBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = pair(nn.Conv2d(4, 6, 3, bias=False))
        self.bias = nn.Parameter(torch.randn(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.conv2d(x, self.pair.conv.weight, 2 * self.bias)
        return self.pair.bn(y)


FrozenNorm.forward = lambda self, x: self.pair(x)  # type: ignore[method-assign]


def weight_norm() -> nn.Module:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3))
    return pair(conv)


REFUSED: Mapping[str, tuple[Callable[[], nn.Module], Callable[[Any], Any], str]] = {
    "not annotated": (pair, lambda gm: None, "none of its operands is annotated"),
    "output of the convolution": (
        pair,
        lambda gm: annotate_operands(gm, output_qspec=ACTIVATION),
        "'conv2d' is quantized before the BatchNorm",
    ),
    "input of the BatchNorm": (
        pair,
        annotate_norm_input,
        "'conv2d' is quantized before the BatchNorm",
    ),
    "weight_norm": (weight_norm, annotate_operands, "is computed in the graph"),
    "computed bias": (ComputedBias, annotate_operands, "is computed in the graph"),
    "weight as output": (pair, annotate_weight_itself, "is quantized before the scale"),
    "bias with a scale of its own": (
        pair,
        lambda gm: annotate_bias(gm, own_spec),
        "the observer of the bias would see zeros",
    ),
    "bias that shares a scale": (
        pair,
        lambda gm: annotate_bias(
            gm, lambda conv: SharedQuantizationSpec((conv.args[1], conv))
        ),
        "the observer of the bias would see zeros",
    ),
    "frozen BatchNorm": (FrozenNorm, annotate_operands, "eval mode"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_fold_could_not_undo_is_refused(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    module, annotate, reason = REFUSED[case]
    gm = captured(module())
    annotate(gm)
    before, code = list(gm.graph.nodes), gm.code
    reports: list[Report] = []
    with caplog.at_level(logging.INFO, "rewrite_engine"):
        assert torchao.fuse_conv_bn_qat(gm, on_report=reports.append) is gm
    assert list(gm.graph.nodes) == before and gm.code == code
    (refusal,) = reports[0].refusals
    assert reason in refusal.reason
    (record,) = [r for r in caplog.records if r.name == torchao.__name__]
    assert str(refusal) in record.getMessage()
    assert record.levelno == (
        logging.INFO if case == "not annotated" else logging.WARNING
    )


BIASES: Mapping[str, Callable[[Node], Any]] = {
    "derived": derived_bias,
    "given": lambda conv: FixedQParamsQuantizationSpec(
        dtype=torch.int32, scale=2**-20, zero_point=0
    ),
    "cast": lambda conv: QuantizationSpec(
        dtype=torch.float16, observer_or_fake_quant_ctr=None
    ),
}


@pytest.mark.parametrize("bias", BIASES)
def test_a_bias_whose_scale_is_not_learnt_may_be_annotated(bias: str) -> None:
    gm = captured(pair())
    annotate_bias(gm, BIASES[bias])
    assert fused_pairs(torchao.fuse_conv_bn_qat(gm)) == 1
    (conv,) = convolutions(gm)
    assert conv.args[2].target is aten.zeros_like.default
    assert conv.args[2] in conv.meta[ANNOTATION].input_qspec_map


def test_a_refused_bias_is_observed_as_it_is_and_torchao_sees_zeros() -> None:
    def qspecs(conv: Node) -> dict[Node, Any]:
        return dict.fromkeys(conv.args[:3], per_tensor())

    def largest_bias(gm: GraphModule) -> float:
        gm(X)
        (conv,) = convolutions(gm)
        observer = gm.get_submodule(conv.args[2].target).activation_post_process
        return max(abs(observer.min_val.item()), abs(observer.max_val.item()))

    quantizer = OperandQuantizer(qspecs)
    ours = torchao.prepare_qat_pt2e(captured(pair()), quantizer)
    theirs = quantize_pt2e.prepare_qat_pt2e(captured(pair()), quantizer)
    bias = ours.get_parameter("conv.bias").abs().max().item()
    assert largest_bias(ours) == pytest.approx(bias)
    assert largest_bias(theirs) == 0


def test_torchao_fuses_computed_weights() -> None:
    gm = captured(weight_norm())
    annotate_operands(gm)
    assert fused_pairs(_fuse_conv_bn_qat(gm)) == 1
