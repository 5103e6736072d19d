"""With batch-norm's default constants `qat_fuse` builds torchao's own graph.

Graphs are compared node for node, see `tests/qat/canonical.py`.
"""

from __future__ import annotations

from collections import Counter

import attrs
import pytest
import torch
from torch import nn
from torch.ao.quantization.observer import MovingAverageMinMaxObserver
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.prepare import prepare
from torchao.quantization.pt2e.qat_utils import _fuse_conv_bn_qat
from torchao.quantization.pt2e.quantizer import (
    DerivedQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)
from torchao.quantization.pt2e.utils import _get_node_name_to_scope

from benches.models import ConvBn, capture
from rewrite_engine import engine
from tests.integrations.quantizers import xnnpack
from tests.qat.canonical import ANNOTATION, Canonical

aten = torch.ops.aten
CONVS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)


class Pairs(nn.Module):
    """A branch a convolution kind and bias; literals away from their defaults."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            _pair(conv, bias=bias) for conv in CONVS for bias in (True, False)
        )

    def forward(
        self, line: torch.Tensor, plane: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        inputs = {nn.BatchNorm1d: line, nn.BatchNorm2d: plane}
        return tuple(block(inputs[type(block.bn)]) for block in self.blocks)


def _pair(conv, *, bias):
    rank = 1 if conv in (nn.Conv1d, nn.ConvTranspose1d) else 2
    norm = nn.BatchNorm1d if rank == 1 else nn.BatchNorm2d
    options = {"stride": 2, "padding": 1, "bias": bias}
    if conv in (nn.Conv1d, nn.Conv2d):
        options |= {"groups": 2, "dilation": 2}
    return ConvBn(conv(4, 6, 3, **options), norm(6), nn.ReLU() if bias else None)


def _capture() -> GraphModule:
    torch.manual_seed(0)
    return capture(Pairs(), (torch.randn(2, 4, 9), torch.randn(2, 4, 9, 9)))


# --- quantizers ---


class DerivedBiasQuantizer(Quantizer):
    """A bias quantized by the scales of input and weight; a ReLU that shares."""

    activation = QuantizationSpec(
        dtype=torch.uint8,
        observer_or_fake_quant_ctr=MovingAverageMinMaxObserver,
        quant_min=0,
        quant_max=255,
        qscheme=torch.per_tensor_affine,
    )
    weight = QuantizationSpec(
        dtype=torch.int8,
        observer_or_fake_quant_ctr=MovingAverageMinMaxObserver,
        quant_min=-127,
        quant_max=127,
        qscheme=torch.per_tensor_symmetric,
    )

    def annotate(self, model: GraphModule) -> GraphModule:
        for node in model.graph.nodes:
            if str(node.target).startswith("aten.conv"):
                self._annotate_conv(node)
            elif node.target is aten.batch_norm.default:
                self._annotate_norm(node)
            elif node.target is aten.relu.default:
                self._annotate_relu(node)
        return model

    def validate(self, model: GraphModule) -> None:
        pass

    def _annotate_conv(self, conv: Node) -> None:
        x, weight, bias = (*conv.args, None)[:3]
        qspecs = {x: self.activation, weight: self.weight}
        if bias is not None:
            qspecs[bias] = DerivedQuantizationSpec(
                derived_from=[(x, conv), (weight, conv)],
                derive_qparams_fn=_product_of_scales,
                dtype=torch.int32,
                quant_min=-(2**31),
                quant_max=2**31 - 1,
                qscheme=torch.per_tensor_symmetric,
            )
        conv.meta[ANNOTATION] = QuantizationAnnotation(
            input_qspec_map=qspecs, _annotated=True
        )

    def _annotate_norm(self, norm: Node) -> None:
        norm.meta[ANNOTATION] = QuantizationAnnotation(
            output_qspec=self.activation, _annotated=True
        )

    def _annotate_relu(self, relu: Node) -> None:
        norm = relu.args[0]
        relu.meta[ANNOTATION] = QuantizationAnnotation(
            input_qspec_map={norm: self.activation},
            output_qspec=SharedQuantizationSpec((norm, relu)),
            _annotated=True,
        )


def _product_of_scales(observers):
    scales = [observer.calculate_qparams()[0] for observer in observers]
    return scales[0] * scales[1], torch.zeros(1, dtype=torch.int32)


QUANTIZERS = {
    "none": lambda: None,
    "per_tensor": lambda: xnnpack(is_per_channel=False),
    "per_channel": lambda: xnnpack(is_per_channel=True),
    "derived_bias": DerivedBiasQuantizer,
}


def _annotated(quantizer: Quantizer | None) -> GraphModule:
    gm = _capture()
    if quantizer is not None:
        quantizer.annotate(quantizer.transform_for_annotation(gm))
    return gm


# --- the comparisons ---


@attrs.frozen(eq=False)
class Fused:
    """What is compared of one fused model."""

    nodes: Counter[object]
    annotations: Counter[object]
    prepared: GraphModule


def _fused(gm: GraphModule) -> Fused:
    canonical = Canonical(gm)
    nodes, annotations = canonical.counts, canonical.annotations()
    prepared = prepare(gm, _get_node_name_to_scope(gm), is_qat=True)
    return Fused(nodes, annotations, prepared)


@pytest.fixture(scope="module", params=QUANTIZERS)
def fused(request, rules):
    """The same annotated model, fused by us and by torchao."""
    ours, theirs = (_annotated(QUANTIZERS[request.param]()) for _ in range(2))
    convs = [n for n in ours.graph.nodes if str(n.target).startswith("aten.conv")]
    assert len(convs) == len(CONVS) * 2
    if request.param != "none":
        assert all(len(n.meta[ANNOTATION].input_qspec_map) >= 2 for n in convs)
    result = engine.apply(ours, rules)
    assert result.report.rules[0].matches == len(CONVS) * 2
    return _fused(result.graph_module), _fused(_fuse_conv_bn_qat(theirs))


def test_structure_is_torchaos(fused):
    ours, theirs = fused
    assert ours.nodes == theirs.nodes


def test_annotations_are_torchaos(fused):
    ours, theirs = fused
    assert ours.annotations == theirs.annotations


def test_prepare_inserts_the_same_observers(fused):
    ours, theirs = (model.prepared for model in fused)
    assert Canonical(ours).counts == Canonical(theirs).counts
    assert len(_called_modules(ours)) == len(_called_modules(theirs))
    outputs = ours(torch.randn(2, 4, 9), torch.randn(2, 4, 9, 9))
    assert all(y.isfinite().all() for y in outputs)


def _called_modules(gm: GraphModule) -> set[nn.Module]:
    nodes = gm.graph.find_nodes(op="call_module")
    return {gm.get_submodule(node.target) for node in nodes}
