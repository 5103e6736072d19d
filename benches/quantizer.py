"""A quantizer for benchmarks: it annotates convolutions without tracing patterns."""

from __future__ import annotations

import torch
from torch.fx import GraphModule
from torchao.quantization.pt2e.fake_quantize import FusedMovingAvgObsFakeQuantize
from torchao.quantization.pt2e.observer import (
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
)
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
)

INPUT = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-128,
    quant_max=127,
    qscheme=torch.per_tensor_affine,
    observer_or_fake_quant_ctr=FusedMovingAvgObsFakeQuantize.with_args(
        observer=MovingAverageMinMaxObserver
    ),
)
WEIGHT = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-127,
    quant_max=127,
    qscheme=torch.per_channel_symmetric,
    ch_axis=0,
    observer_or_fake_quant_ctr=FusedMovingAvgObsFakeQuantize.with_args(
        observer=MovingAveragePerChannelMinMaxObserver
    ),
)


class ConvolutionQuantizer(Quantizer):
    """Inputs of convolutions per tensor, their weights per channel."""

    def annotate(self, model: GraphModule) -> GraphModule:
        """Annotate every convolution of `model`."""
        for node in model.graph.nodes:
            if str(node.target).startswith("aten.conv"):
                node.meta["quantization_annotation"] = QuantizationAnnotation(
                    input_qspec_map={node.args[0]: INPUT, node.args[1]: WEIGHT},
                    _annotated=True,
                )
        return model

    def validate(self, model: GraphModule) -> None:
        """Every annotation of this quantizer is valid."""
