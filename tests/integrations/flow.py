"""Steps of the flow that tests share, and the eager oracle of a converted model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import attrs
import torch
from torch import fx, nn
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import PlaceholderObserver

from tests.integrations.quantizers import convolutions

aten = torch.ops.aten
Tensors = tuple[torch.Tensor, ...]


def as_tuple(outputs: Any) -> Tensors:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def train(gm: GraphModule, inputs: Tensors, steps: int = 3) -> GraphModule:
    """Some steps of SGD on a weighted sum of the outputs, in place."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(gm.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        outputs = as_tuple(gm(*inputs))
        weights = [torch.randn(y.shape, generator=generator) for y in outputs]
        losses = [(y * w).mean() for y, w in zip(outputs, weights, strict=True)]
        torch.stack(losses).sum().backward()
        optimizer.step()
    return gm


def batch_norms(gm: GraphModule) -> list[Node]:
    return gm.graph.find_nodes(op="call_function", target=aten.batch_norm.default)


def in_eval(gm: GraphModule) -> GraphModule:
    """A copy whose BatchNorms use their statistics and whose scales stand still.

    torchao's `move_exported_model_to_eval` would also reset the BatchNorms' eps, and
    its fused fake quantizers round to another scale than the one they are converted to.
    """
    gm = with_fixed_scales(gm)
    for norm in batch_norms(gm):
        norm.update_arg(5, False)
    gm.recompile()
    return gm


def with_fixed_scales(gm: GraphModule) -> GraphModule:
    """A copy whose scales stand still."""
    gm = copy.deepcopy(gm)
    # A quantizer that is shared is there under several names.
    for name, module in list(gm._modules.items()):
        if hasattr(module, "observer_enabled"):
            setattr(gm, name, FixedScale(module))
    return gm


class FixedScale(nn.Module):
    """Rounds as the model that a fake quantizer is converted to."""

    def __init__(self, quantizer: nn.Module) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return fake_quantize(x, self.quantizer)


# --- the oracle ---


def fake_quantize(value: torch.Tensor, quantizer: nn.Module | None) -> torch.Tensor:
    """`value` rounded to what the scale and the limits of a fake quantizer allow."""
    if quantizer is None:
        return value
    if isinstance(quantizer, PlaceholderObserver):
        return value.to(quantizer.dtype).to(value.dtype)
    scale, zero_point = quantizer.calculate_qparams()
    axis = _axis(quantizer) if scale.numel() > 1 else 0
    shape = [-1 if i == axis else 1 for i in range(value.dim())]
    scale = scale.to(value.device).reshape(shape)
    zero_point = zero_point.reshape(shape)
    low, high = _limits(quantizer)
    rounded = torch.round(value * (1.0 / scale)) + zero_point
    return (rounded.clamp(low, high) - zero_point) * scale


def _axis(quantizer: nn.Module) -> int:
    granularity = getattr(quantizer, "granularity", None)
    return quantizer.ch_axis if granularity is None else granularity.axis


def _limits(quantizer: nn.Module) -> tuple[int, int]:
    if quantizer.quant_min is not None:
        return quantizer.quant_min, quantizer.quant_max
    whole = torch.iinfo(quantizer.target_dtype)
    return whole.min, whole.max


@attrs.frozen(eq=False)
class Pair:
    """One convolution of a trained model, computed eagerly in fp64."""

    call: Node
    """The convolution of the prepared graph, for its literals."""
    weight: torch.Tensor
    bias: torch.Tensor | None
    weight_quantizer: nn.Module | None
    bias_quantizer: nn.Module | None
    norm: nn.Module | None
    """The BatchNorm that was folded into it, trained; None if it was not fused."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The convolution of [batch, channels, ...] and its BatchNorm in eval mode."""
        weight, bias = self._folded()
        weight = fake_quantize(weight.float(), self.weight_quantizer).double()
        if bias is not None:
            bias = fake_quantize(bias.float(), self.bias_quantizer).double()
        literals = self.call.args[3:]
        return self.call.target(x.double(), weight, bias, *literals).detach()

    def _folded(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        weight = self.weight.double()
        bias = None if self.bias is None else self.bias.double()
        norm = self.norm
        if norm is None:
            return weight, bias
        scale = 1 / torch.sqrt(norm.running_var.double() + norm.eps)
        if norm.affine:
            scale = scale * norm.weight.double()
        shift = norm.bias if norm.affine else 0
        bias = shift + ((0 if bias is None else bias) - norm.running_mean) * scale
        return self._scaled(weight, scale), bias

    def _scaled(self, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        tail = [1] * (weight.dim() - 2)
        if "transpose" not in str(self.call.target):
            return weight * scale.reshape(-1, 1, *tail)
        groups = scale.numel() // weight.shape[1]
        grouped = weight.reshape(groups, -1, *weight.shape[1:])
        scaled = grouped * scale.reshape(groups, 1, -1, *tail)
        return scaled.reshape(weight.shape)


def pairs_of(prepared: GraphModule, model: nn.Module) -> list[Pair]:
    """The convolutions of a prepared model, as `in_order` has them.

    `model` is the module that was exported: the source of the BatchNorms' constants.
    """
    prepared = copy.deepcopy(prepared)
    return [_pair(conv, prepared, model) for conv in in_order(prepared)]


def in_order(gm: GraphModule) -> list[Node]:
    """The convolutions in the order in which a walk from the outputs meets them.

    Prepared and converted graphs agree in it, wherever their nodes stand.
    """
    todo, seen = [gm.graph.output_node()], {}
    while todo:
        node = todo.pop()
        if node not in seen:
            seen[node] = None
            todo += reversed(node.all_input_nodes)
    found = set(convolutions(gm))
    return [node for node in seen if node in found]


def _pair(conv: Node, prepared: GraphModule, model: nn.Module) -> Pair:
    weight = list(_chain(conv.args[1]))
    bias = list(_chain(conv.args[2])) if len(conv.args) > 2 and conv.args[2] else None
    fused = any(node.target is aten.mul.Tensor for node in weight)
    return Pair(
        conv,
        _tensor(prepared, weight[-1].target),
        None if bias is None else _tensor(prepared, bias[-1].target),
        _quantizer(weight, prepared),
        None if bias is None else _quantizer(bias, prepared),
        _norm(conv, prepared, model) if fused else None,
    )


def _chain(node: Node) -> Iterator[Node]:
    """From an operand of a convolution back to the parameter."""
    while node.op != "get_attr":
        yield node
        node = node.args[0]
    yield node


def _tensor(gm: nn.Module, name: str) -> torch.Tensor:
    owner, _, attribute = name.rpartition(".")
    return getattr(gm.get_submodule(owner), attribute).detach()


def _quantizer(chain: list[Node], prepared: GraphModule) -> nn.Module | None:
    calls = (node for node in chain if node.op == "call_module")
    return next((prepared.get_submodule(node.target) for node in calls), None)


def _norm(conv: Node, prepared: GraphModule, model: nn.Module) -> nn.Module:
    node = conv
    while node.target is not aten.batch_norm.default:
        (node,) = node.users
    name = node.args[4].target.rpartition(".")[0]
    norm = copy.deepcopy(model.get_submodule(name)).requires_grad_(False)
    names = norm.state_dict().keys() - {"num_batches_tracked"}
    state = {key: _tensor(prepared, f"{name}.{key}") for key in names}
    norm.load_state_dict(state, strict=False)
    return norm


class Recorder(fx.Interpreter):
    """Runs a graph and keeps what each convolution read and gave."""

    def __init__(self, gm: GraphModule) -> None:
        super().__init__(gm)
        self.seen: dict[Node, Tensors] = {}

    def run_node(self, node: Node) -> Any:
        value = super().run_node(node)
        if str(node.target).startswith("aten.conv"):
            self.seen[node] = self.env[node.args[0]], value
        return value


def assert_convolutions_are_eager(
    converted: GraphModule, pairs: list[Pair], inputs: Tensors, tolerance: float = 1e-5
) -> None:
    """Each convolution of `converted` gives what its pair gives for the same input."""
    recorder = Recorder(converted)
    recorder.run(*inputs)
    for pair, conv in zip(pairs, in_order(converted), strict=True):
        x, y = recorder.seen[conv]
        expected = pair(x)
        error = (y.double() - expected).abs().max() / expected.abs().max()
        assert error < tolerance, f"{pair.call} {pair.norm}: {error}"


def assert_outputs_within_a_step(
    converted: GraphModule, inputs: Tensors, expected: Tensors
) -> None:
    """Outputs are one step of quantization off at most, in 0.1 % of places or one."""
    outputs = as_tuple(converted.graph.output_node().args[0])
    actual = as_tuple(converted(*inputs))
    for node, y, wanted in zip(outputs, actual, as_tuple(expected), strict=True):
        quantized = "dequantize_per_tensor" in str(node.target)
        step = node.args[1] if quantized else 0.0
        difference = (y - wanted).abs()
        assert difference.max() <= step * 1.001 + 1e-5
        assert (difference > 1e-5).sum() <= max(1, 1e-3 * y.numel())
