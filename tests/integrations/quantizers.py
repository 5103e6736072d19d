"""Quantizers for tests: what to annotate is said operand by operand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import (
    MappingType,
    PerAxis,
    PerTensor,
    PlaceholderObserver,
)
from torchao.quantization.pt2e._affine_quantization import (
    AffineQuantizedMovingAverageMinMaxObserver,
)
from torchao.quantization.pt2e.fake_quantize import (
    AffineFakeQuantize,
    FusedMovingAvgObsFakeQuantize,
)
from torchao.quantization.pt2e.observer import (
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
)
from torchao.quantization.pt2e.quantizer import (
    DerivedQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
)
from torchao.testing.pt2e._xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)

ANNOTATION = "quantization_annotation"
aten = torch.ops.aten


def per_tensor(dtype: torch.dtype = torch.int8) -> QuantizationSpec:
    """A scale that a fake quantizer learns, symmetric for weights."""
    limits = torch.iinfo(dtype)
    return QuantizationSpec(
        dtype=dtype,
        quant_min=limits.min,
        quant_max=limits.max,
        qscheme=torch.per_tensor_symmetric,
        observer_or_fake_quant_ctr=FusedMovingAvgObsFakeQuantize.with_args(
            observer=MovingAverageMinMaxObserver, eps=2**-12
        ),
    )


def per_channel(axis: int = 0) -> QuantizationSpec:
    """A learnt scale for each index of `axis`."""
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=-127,
        quant_max=127,
        qscheme=torch.per_channel_symmetric,
        ch_axis=axis,
        observer_or_fake_quant_ctr=FusedMovingAvgObsFakeQuantize.with_args(
            observer=MovingAveragePerChannelMinMaxObserver, eps=2**-12
        ),
    )


ACTIVATION = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-128,
    quant_max=127,
    qscheme=torch.per_tensor_affine,
    observer_or_fake_quant_ctr=FusedMovingAvgObsFakeQuantize.with_args(
        observer=MovingAverageMinMaxObserver, eps=2**-12
    ),
)


def affine(granularity: Any, mapping: MappingType) -> QuantizationSpec:
    """Blocks of any shape: converted to `torchao.quantize_affine` and its inverse.

    Symmetric limits keep the largest weight off the middle between two steps.
    """
    limit = 127 if mapping is MappingType.SYMMETRIC else None
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=limit and -limit,
        quant_max=limit,
        observer_or_fake_quant_ctr=AffineFakeQuantize.with_args(
            observer=AffineQuantizedMovingAverageMinMaxObserver,
            mapping_type=mapping,
            target_dtype=torch.int8,
            granularity=granularity,
            eps=2**-12,
        ),
    )


CAST = QuantizationSpec(
    dtype=torch.float16, observer_or_fake_quant_ctr=PlaceholderObserver
)
"""Rounded to fp16 and back when converted, and not before."""


def derived_bias(conv: Node, *, axis: int | None = None) -> DerivedQuantizationSpec:
    """The scale of the input times that of the weight, for each channel or for all."""
    x, weight = conv.args[:2]
    scheme = torch.per_tensor_symmetric if axis is None else torch.per_channel_symmetric
    return DerivedQuantizationSpec(
        derived_from=[(x, conv), (weight, conv)],
        derive_qparams_fn=_product_of_scales,
        dtype=torch.int32,
        quant_min=-(2**31),
        quant_max=2**31 - 1,
        qscheme=scheme,
        ch_axis=axis,
    )


def _product_of_scales(observers: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    (x_scale, _), (weight_scale, _) = (each.calculate_qparams() for each in observers)
    scale = x_scale * weight_scale
    return scale, torch.zeros_like(scale, dtype=torch.int32)


Annotate = Callable[[Node], Mapping[Node, Any]]


class OperandQuantizer(Quantizer):
    """Annotates the operands of every convolution with what `qspecs(conv)` gives.

    `outputs` are annotated at the end of `conv -> batch_norm [-> relu]`.
    """

    def __init__(self, qspecs: Annotate, outputs: Any = None) -> None:
        self.qspecs = qspecs
        self.outputs = outputs

    def annotate(self, model: GraphModule) -> GraphModule:
        for conv in convolutions(model):
            conv.meta[ANNOTATION] = QuantizationAnnotation(
                input_qspec_map=dict(self.qspecs(conv)), _annotated=True
            )
            if self.outputs is not None:
                _end(conv).meta[ANNOTATION] = QuantizationAnnotation(
                    output_qspec=self.outputs, _annotated=True
                )
        return model

    def validate(self, model: GraphModule) -> None:
        pass


def convolutions(gm: GraphModule) -> list[Node]:
    """The convolutions of a graph, in its order."""
    return [n for n in gm.graph.nodes if str(n.target).startswith("aten.conv")]


def _end(conv: Node) -> Node:
    end = conv
    for target in (aten.batch_norm.default, aten.relu.default):
        following = [user for user in end.users if user.target is target]
        end = following[0] if following else end
    return end


def _bias(conv: Node) -> Node | None:
    return conv.args[2] if len(conv.args) > 2 else None


def _operands(
    weight: Any, *, x: Any = ACTIVATION, bias: Callable[[Node], Any] | None = None
) -> Annotate:
    def qspecs(conv: Node) -> dict[Node, Any]:
        given = {conv.args[0]: x, conv.args[1]: weight}
        if bias is not None and _bias(conv) is not None:
            given[_bias(conv)] = bias(conv)
        return {node: qspec for node, qspec in given.items() if qspec is not None}

    return qspecs


def _derived_bias_per_channel(conv: Node) -> DerivedQuantizationSpec | None:
    # The first axis of a transposed convolution's weight is not that of its bias.
    transposed = "transpose" in str(conv.target)
    return None if transposed else derived_bias(conv, axis=0)


def xnnpack(*, is_per_channel: bool) -> XNNPACKQuantizer:
    config = get_symmetric_quantization_config(
        is_per_channel=is_per_channel, is_qat=True
    )
    return XNNPACKQuantizer().set_global(config)


QUANTIZERS: dict[str, Callable[[], Quantizer]] = {
    "per_tensor": lambda: OperandQuantizer(_operands(per_tensor()), ACTIVATION),
    "per_channel": lambda: OperandQuantizer(_operands(per_channel()), ACTIVATION),
    "derived_bias": lambda: OperandQuantizer(
        _operands(per_tensor(), bias=derived_bias), ACTIVATION
    ),
    "derived_bias_per_channel": lambda: OperandQuantizer(
        _operands(per_channel(), bias=_derived_bias_per_channel),
        ACTIVATION,
    ),
    "affine": lambda: OperandQuantizer(
        _operands(
            affine(PerAxis(0), MappingType.SYMMETRIC),
            x=affine(PerTensor(), MappingType.ASYMMETRIC),
        )
    ),
    "affine_per_tensor": lambda: OperandQuantizer(
        _operands(affine(PerTensor(), MappingType.SYMMETRIC)), ACTIVATION
    ),
    "cast": lambda: OperandQuantizer(_operands(CAST, x=None, bias=lambda conv: CAST)),
    "weight_only": lambda: OperandQuantizer(_operands(per_channel(), x=None)),
    "activation_only": lambda: OperandQuantizer(_operands(None), ACTIVATION),
}
