"""How much each layer loses to quantization, and which layers lose the most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from rewrite_engine.equalize.layers import find_layers

Values = Mapping[str, torch.Tensor]


def sqnr(reference: torch.Tensor, noisy: torch.Tensor) -> float:
    """Signal-to-quantization-noise ratio, `20 log10(|x| / |x - y|)`, in dB.

    Infinite for equal values, and -infinite where only the noise is not zero. Values
    that are not finite in the reference do not count.
    """
    x, y = reference.double().flatten(), noisy.double().flatten()
    counted = x.isfinite()
    signal, noise = x[counted].norm().item(), (x - y)[counted].norm().item()
    if noise == 0:
        return math.inf
    return 20 * math.log10(signal / noise) if signal > 0 else -math.inf


def layer_sqnr(
    reference: fx.GraphModule, quantized: fx.GraphModule, *inputs: Any
) -> dict[str, float]:
    """The SQNR of the output of each layer that both graphs have, in dB.

    Both are run on `inputs`. A layer goes by its first name (that of its module, else
    of its weight), and is found in the quantized graph by its node's name, which the
    quantization of fx graphs and of exported graphs keeps. Where quantization has fused
    a relu into the layer, the outputs of the relu are compared.
    """
    expected = _values(reference, inputs)
    found = _values(quantized, inputs)
    nodes = {node.name: node for node in quantized.graph.nodes}
    result = {}
    for layer in find_layers(reference):
        name = layer.node.name
        if name not in found or name not in expected:
            continue
        x, y = expected[name], found[name]
        if _ends_in_relu(quantized, nodes[name]):
            x = x.relu()
        result[layer.names[0]] = sqnr(x, y)
    return result


def worst_layers(ratios: Mapping[str, float], count: int) -> tuple[str, ...]:
    """The names of the `count` layers with the lowest SQNR, the worst first."""
    return tuple(sorted(ratios, key=lambda name: ratios[name])[:count])


def _values(module: fx.GraphModule, inputs: Sequence[Any]) -> Values:
    recorder = _Recorder(module)
    with torch.no_grad():
        recorder.run(*inputs)
    return recorder.values


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps every tensor, dequantized, by the name of its node."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, torch.Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            plain = value.dequantize() if value.is_quantized else value.detach()
            self.values[n.name] = plain.clone()  # it may be written in place later
        return value


def _ends_in_relu(module: fx.GraphModule, node: fx.Node) -> bool:
    from torch.ao.nn import intrinsic
    from torch.ao.nn.intrinsic import quantized

    if node.op == "call_module":
        kinds = ("LinearReLU", "ConvReLU1d", "ConvReLU2d", "ConvReLU3d")
        places = (intrinsic, quantized)
        fused = tuple(getattr(place, kind) for place in places for kind in kinds)
        return isinstance(module.get_submodule(str(node.target)), fused)
    return str(getattr(node.target, "_schema", "")).partition("(")[0].endswith("_relu")
