"""`qat_fold` against eager fake-quantized execution in eval mode.

A fused model, with the q/dq pairs that a quantizer would have put into it, is its own
oracle: executed node by node with its BatchNorms in eval mode. One exported model a
convolution kind holds every variant as a branch of its own.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Iterator

import attrs
import pytest
import torch
from torch import nn
from torch.fx import GraphModule, Node

from benches.models import ConvBn, capture, randomise_batch_norms
from rewrite_engine import engine, load
from tests.qat.models import BY_RANK, Branches

aten = torch.ops.aten
CHANNELS = 4
SIDES = {1: 9, 2: 6, 3: 5}
KINDS = [(conv, rank) for conv in ("conv", "conv_transpose") for rank in (1, 2, 3)]
FOLD = load("qat_fold")
FUSE = load("qat_fuse")


@attrs.frozen
class Variant:
    """One convolution and BatchNorm; `padding` is a number or a form."""

    padding: int | str
    bias: bool
    groups: int
    affine: bool
    eps: float


def variants(transposed: bool) -> Iterator[Variant]:
    """Every padding form x bias x groups x affine; eps takes turns."""
    paddings = (0, 1) if transposed else (0, 1, "same", "valid")
    grid = itertools.product(paddings, (True, False), (1, 2), (True, False))
    for i, options in enumerate(grid):
        yield Variant(*options, eps=(1e-3, 1e-5, 0.1)[i % 3])


def branch(kind: str, rank: int, variant: Variant) -> ConvBn:
    layer, norm = BY_RANK[kind][rank], BY_RANK["norm"][rank]
    options = {"bias": variant.bias, "groups": variant.groups}
    conv = layer(CHANNELS, 2 * CHANNELS, 3, padding=variant.padding, **options)
    return ConvBn(conv, norm(2 * CHANNELS, variant.eps, affine=variant.affine))


def fused(kind: str, rank: int, dtype: torch.dtype) -> tuple[GraphModule, torch.Tensor]:
    gm, x = _fused(kind, rank, dtype)
    return copy.deepcopy(gm), x


@functools.cache
def _fused(kind: str, rank: int, dtype: torch.dtype):
    torch.manual_seed(0)
    of_kind = variants(kind == "conv_transpose")
    model = Branches([branch(kind, rank, variant) for variant in of_kind])
    randomise_batch_norms(model).to(dtype).train()
    x = torch.randn(3, CHANNELS, *(SIDES[rank],) * rank, dtype=dtype)
    gm = capture(model, (x,))
    assert engine.apply(gm, FUSE).report.matches == len(model.blocks)
    return gm, x


# --- what a quantizer puts in ---


LIMITS = (-127, 127, torch.int8)


def fake_quantize(
    gm: GraphModule, node: Node, reader: Node, form: str, axis: int
) -> Node:
    """Put a q/dq pair of a form between a node and its reader."""
    is_bias = node.target is aten.zeros_like.default
    channels = node.meta["val"].shape[axis]
    scale, zero = 0.01, 0
    if form == "per_channel":
        numbers = torch.linspace(0.005, 0.02, channels)
        scale, zero = numbers, torch.zeros(channels, dtype=torch.int64)
    elif form == "tensors":
        scale, zero = torch.tensor([0.01]), torch.tensor([0])
    name = f"q_{node.name}"
    with gm.graph.inserting_before(reader):
        args = [_stored(gm, f"{name}_{i}", v) for i, v in enumerate((scale, zero))]
        args += [axis] if form == "per_channel" else []
        limits = (-(2**31), 2**31 - 1, torch.int32) if is_bias else LIMITS
        for operator in _PAIRS[form]:
            node = gm.graph.call_function(operator, (node, *args, *limits))
    return node


decomposed = torch.ops.quantized_decomposed
_PAIRS = {
    "per_tensor": (
        decomposed.quantize_per_tensor.default,
        decomposed.dequantize_per_tensor.default,
    ),
    "tensors": (
        decomposed.quantize_per_tensor.tensor,
        decomposed.dequantize_per_tensor.tensor,
    ),
    "per_channel": (
        decomposed.quantize_per_channel.default,
        decomposed.dequantize_per_channel.default,
    ),
}


def _stored(gm: GraphModule, name: str, value: object) -> object:
    if not isinstance(value, torch.Tensor):
        return value
    gm.register_buffer(name, value)
    return gm.graph.get_attr(name)


def quantize(gm: GraphModule, forms: dict[str, str]) -> GraphModule:
    """q/dq pairs around `x`, `weight`, `bias` and `output` of every convolution."""
    for conv in convolutions(gm):
        axis = 1 if "transpose" in str(conv.target) else 0
        for i, operand in enumerate(("x", "weight", "bias")):
            if operand in forms and i < len(conv.args) and conv.args[i] is not None:
                axis = axis if operand == "weight" else 0
                new = fake_quantize(gm, conv.args[i], conv, forms[operand], axis)
                conv.update_arg(i, new)
        if "output" in forms:
            (reader,) = conv.users
            new = fake_quantize(gm, conv, reader, forms["output"], 1)
            reader.update_arg(0, new)
    gm.recompile()
    return gm


def convolutions(gm: GraphModule) -> list[Node]:
    return [n for n in gm.graph.nodes if "aten.conv" in str(n.target)]


def evaluate(gm: GraphModule, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The outputs with every BatchNorm in eval mode; the module stays as it is."""
    gm = copy.deepcopy(gm)
    for norm in gm.graph.find_nodes(op="call_function", target=aten.batch_norm.default):
        norm.update_arg(5, False)
    gm.recompile()
    with torch.no_grad():
        return gm(*inputs)


MIXTURES = {
    "nothing": {},
    "activations": {"x": "per_tensor"},
    "weight per tensor": {"x": "per_tensor", "weight": "per_tensor"},
    "weight by tensors": {"weight": "tensors"},
    "weight per channel": {"x": "per_tensor", "weight": "per_channel"},
    "output": {"weight": "per_channel", "output": "per_tensor"},
    "bias per tensor": {"weight": "per_channel", "bias": "per_tensor"},
    "bias per channel": {"weight": "per_tensor", "bias": "per_channel"},
    "bias alone": {"bias": "per_tensor"},
}


def scaffold_is_gone(gm: GraphModule) -> bool:
    scaffold = (aten.batch_norm, aten.sqrt, aten.rsqrt, aten.div, aten.mul)
    packets = {getattr(n.target, "overloadpacket", None) for n in gm.graph.nodes}
    return not packets & {*scaffold, aten.add_, aten.where, aten.zeros_like}


@pytest.mark.parametrize(("kind", "rank"), KINDS)
def test_a_scaffold_without_quantization_folds_exactly(kind, rank):
    gm, x = fused(kind, rank, torch.float64)
    expected = evaluate(gm, x)
    folded = engine.apply(gm, FOLD).graph_module
    assert scaffold_is_gone(folded)
    torch.testing.assert_close(folded(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize(("kind", "rank"), [("conv", 2), ("conv_transpose", 1)])
def test_every_mixture_is_folded(kind, rank, mixture):
    gm, x = fused(kind, rank, torch.float32)
    quantize(gm, MIXTURES[mixture])
    expected = evaluate(gm, x)
    folded = engine.apply(gm, FOLD).graph_module
    assert scaffold_is_gone(folded)
    actual = folded(x)
    if "bias" not in MIXTURES[mixture]:
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    else:
        # Before folding, the bias is added in full precision.
        half_a_step = {"per_tensor": 0.005, "per_channel": 0.01}
        largest = half_a_step[MIXTURES[mixture]["bias"]] * 1.001 + 1e-5
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=largest)


def pairs_of(gm: GraphModule) -> dict[str, tuple[object, ...]]:
    """What was noted of each quantize and dequantize call: its target, its literals and
    all of its metadata.
    """
    calls = [n for n in gm.graph.nodes if "quantized_decomposed" in str(n.target)]
    return {
        n.meta["noted"]: (
            n.target,
            *map(str, n.args[1:]),
            n.meta["qspec"],
            n.stack_trace,
        )
        for n in calls
    }


@pytest.mark.parametrize("mixture", ["bias per channel", "output", "weight by tensors"])
def test_quantize_and_dequantize_calls_stay_as_they_are(mixture):
    gm, _ = fused("conv", 2, torch.float32)
    quantize(gm, MIXTURES[mixture])
    for node in gm.graph.nodes:
        node.meta |= {"noted": node.name, "qspec": object()}
        node.meta["stack_trace"] = f"in line {node.name}"
    before = pairs_of(gm)
    assert len(before) >= 2 * len(convolutions(gm))
    after = pairs_of(engine.apply(gm, FOLD).graph_module)
    assert after == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_what_is_folded_is_rounded_once(dtype):
    torch.manual_seed(0)
    model = randomise_batch_norms(ConvBn(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    gm = capture(model.to(dtype).train(), (torch.randn(2, 3, 5, 5, dtype=dtype),))
    engine.apply(gm, FUSE)
    state = {name: tensor.double() for name, tensor in model.state_dict().items()}
    engine.apply(gm, FOLD)
    r = state["bn.weight"] / torch.sqrt(state["bn.running_var"] + model.bn.eps)
    weight = state["conv.weight"] * r.reshape(-1, 1, 1, 1)
    bias = (state["conv.bias"] - state["bn.running_mean"]) * r + state["bn.bias"]
    assert torch.equal(gm.get_parameter("conv_weight_wf"), weight.to(dtype))
    assert torch.equal(gm.get_parameter("conv_bias_bf"), bias.to(dtype))
