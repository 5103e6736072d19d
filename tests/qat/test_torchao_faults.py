"""What torchao's fuse gets wrong, and `qat_fuse` gets right.

Each test also shows torchao's fault, so that we notice when it is mended.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.observer import MovingAverageMinMaxObserver
from torchao.quantization.pt2e.qat_utils import _fuse_conv_bn_qat
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
)

from benches.models import ConvBn, capture, randomise_batch_norms
from rewrite_engine import engine

aten = torch.ops.aten
ANNOTATION = "quantization_annotation"
PLANE = (2, 4, 6, 6)


def _capture(module: nn.Module, dtype: torch.dtype = torch.float32):
    """The exported training model, and an input for it."""
    torch.manual_seed(0)
    inputs = (torch.randn(PLANE, dtype=dtype),)
    return capture(randomise_batch_norms(module).to(dtype), inputs), inputs


def _pair(**options) -> ConvBn:
    return ConvBn(nn.Conv2d(4, 6, 3, **options), nn.BatchNorm2d(6)).train()


def _nodes(gm: GraphModule, target: object) -> list[Node]:
    return gm.graph.find_nodes(op="call_function", target=target)


def _node(gm: GraphModule, target: object) -> Node:
    (node,) = _nodes(gm, target)
    return node


def _assert_same_training(actual, expected, tolerance=1e-4):
    assert actual.state.keys() == expected.state.keys()
    for tensors in ("outputs", "state"):
        for name, tensor in getattr(expected, tensors).items():
            torch.testing.assert_close(
                getattr(actual, tensors)[name], tensor, rtol=tolerance, atol=tolerance
            )


# --- numbers ---


def test_eps_and_momentum_are_kept(fuse, train):
    norm = nn.BatchNorm2d(6, eps=1e-3, momentum=0.01)
    gm, inputs = _capture(ConvBn(nn.Conv2d(4, 6, 3), norm).train())
    ours = fuse(gm).graph_module
    assert _node(ours, aten.batch_norm.default).args[6:8] == (0.01, 1e-3)
    _assert_same_training(train(ours, inputs, 5), train(gm, inputs, 5))

    theirs = _fuse_conv_bn_qat(copy.deepcopy(gm))
    assert _node(theirs, aten.batch_norm.default).args[6:8] == (0.1, 1e-5)
    with pytest.raises(AssertionError):
        _assert_same_training(train(theirs, inputs, 5), train(gm, inputs, 5))


def test_a_frozen_batch_norm_stays_frozen(fuse, train):
    module = _pair()
    module.bn.eval()
    gm, inputs = _capture(module)
    result = fuse(gm)
    assert not result.modified
    _assert_same_training(train(result.graph_module, inputs), train(gm, inputs))

    theirs = _fuse_conv_bn_qat(copy.deepcopy(gm))
    assert _node(theirs, aten.batch_norm.default).args[5] is True


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes_run(dtype, fuse, train):
    gm, inputs = _capture(_pair(), dtype)
    result = fuse(gm)
    assert result.modified
    _assert_same_training(train(result.graph_module, inputs), train(gm, inputs), 5e-2)

    theirs = _fuse_conv_bn_qat(copy.deepcopy(gm))
    with pytest.raises(RuntimeError):
        theirs(*inputs)


@pytest.mark.parametrize("absent", ["affine", "track_running_stats"])
def test_batch_norms_without_some_tensors_run(absent, fuse, train):
    norm = nn.BatchNorm2d(6, **{absent: False})
    gm, inputs = _capture(ConvBn(nn.Conv2d(4, 6, 3), norm).train())
    result = fuse(gm)
    assert result.modified == (absent == "affine")
    _assert_same_training(train(result.graph_module, inputs), train(gm, inputs))

    theirs = _fuse_conv_bn_qat(copy.deepcopy(gm))
    with pytest.raises((TypeError, RuntimeError)):
        theirs(*inputs)


def test_grouped_transposed_convolutions_run(fuse, train):
    conv = nn.ConvTranspose2d(4, 6, 3, groups=2)
    gm, inputs = _capture(ConvBn(conv, nn.BatchNorm2d(6)).train())
    result = fuse(gm)
    assert result.modified
    _assert_same_training(train(result.graph_module, inputs), train(gm, inputs))

    theirs = _fuse_conv_bn_qat(copy.deepcopy(gm))
    with pytest.raises(RuntimeError):
        theirs(*inputs)


def test_zeros_in_gamma_stay_finite(fuse, train):
    module = _pair()
    gm, inputs = _capture(module)
    gm.get_parameter("bn.weight").data.zero_()
    ours = fuse(gm).graph_module
    _assert_same_training(train(ours, inputs, 5), train(gm, inputs, 5))

    theirs = _fuse_conv_bn_qat(copy.deepcopy(gm))
    assert train(theirs, inputs).state["bn.running_mean"].isnan().any()


def test_literals_given_as_keywords_are_kept(fuse, train):
    gm, inputs = _capture(_pair(stride=2, padding=1))
    conv = _node(gm, aten.conv2d.default)
    conv.args, conv.kwargs = conv.args[:3], {"stride": [2, 2], "padding": [1, 1]}
    gm.recompile()
    result = fuse(gm)
    assert result.modified
    assert _node(result.graph_module, aten.conv2d.default).kwargs == conv.kwargs
    _assert_same_training(train(result.graph_module, inputs), train(gm, inputs))

    theirs = _fuse_conv_bn_qat(copy.deepcopy(gm))
    assert _node(theirs, aten.conv2d.default).kwargs == {}
    assert theirs(*inputs).shape != gm(*inputs).shape


# --- annotations ---


def _qspec(dtype: torch.dtype) -> QuantizationSpec:
    return QuantizationSpec(
        dtype=dtype, observer_or_fake_quant_ctr=MovingAverageMinMaxObserver
    )


def _annotate(conv: Node, *operands: int) -> None:
    """Annotate operands of `conv`: the weight as int8, others as uint8."""
    qspecs = {
        conv.args[i]: _qspec(torch.int8 if i == 1 else torch.uint8) for i in operands
    }
    conv.meta[ANNOTATION] = QuantizationAnnotation(
        input_qspec_map=qspecs, _annotated=True
    )


def _annotated(module: nn.Module, *operands: int) -> GraphModule:
    # An annotation names nodes, so it does not survive a copy of the graph.
    gm, _ = _capture(module)
    for conv in _nodes(gm, aten.conv2d.default):
        _annotate(conv, *operands)
    return gm


def _dtypes(conv: Node) -> dict[int, torch.dtype]:
    """What each annotated operand of `conv` is quantized to, by position."""
    qspecs = conv.meta[ANNOTATION].input_qspec_map
    return {conv.args.index(node): qspec.dtype for node, qspec in qspecs.items()}


def test_qspecs_follow_their_operands_and_not_their_order(rules):
    ours = _annotated(_pair(), 1, 0)
    engine.apply(ours, rules)
    right = {0: torch.uint8, 1: torch.int8}
    assert _dtypes(_node(ours, aten.conv2d.default)) == right

    theirs = _fuse_conv_bn_qat(_annotated(_pair(), 1, 0))
    swapped = {0: torch.int8, 1: torch.uint8}
    assert _dtypes(_node(theirs, aten.conv2d.default)) == swapped


@pytest.mark.parametrize("operand", [0, 1])
def test_one_operand_may_be_annotated_alone(operand, rules):
    ours = _annotated(_pair(), operand)
    engine.apply(ours, rules)
    assert list(_dtypes(_node(ours, aten.conv2d.default))) == [operand]

    with pytest.raises(IndexError):
        _fuse_conv_bn_qat(_annotated(_pair(), operand))


class SharedWeight(nn.Module):
    """One weight, read by a fused convolution and by one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = _pair()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pair(x), nn.functional.conv2d(x, self.pair.conv.weight, stride=3)


def _unfused(gm: GraphModule) -> Node:
    """The convolution that reads the weight itself."""
    convs = _nodes(gm, aten.conv2d.default)
    return next(conv for conv in convs if conv.args[1].op == "get_attr")


def test_another_readers_annotation_is_left_alone(rules):
    ours = _annotated(SharedWeight(), 0, 1)
    engine.apply(ours, rules)
    assert _dtypes(_unfused(ours)) == {0: torch.uint8, 1: torch.int8}

    theirs = _unfused(_fuse_conv_bn_qat(_annotated(SharedWeight(), 0, 1)))
    assert theirs.args[1] not in theirs.meta[ANNOTATION].input_qspec_map


# --- metadata and structure ---


def _vals_by_target(gm: GraphModule) -> dict[object, tuple[int, ...]]:
    return {
        node.target: tuple(node.meta["val"].shape)
        for node in gm.graph.nodes
        if node.op == "call_function" and "val" in node.meta
    }


def _shares_metadata(gm: GraphModule) -> bool:
    metas = [id(node.meta) for node in gm.graph.nodes]
    return len(set(metas)) < len(metas)


def test_new_nodes_have_metadata_of_their_own(rules):
    ours, _ = _capture(_pair())
    stacks = {n.name: n.meta.get("nn_module_stack") for n in ours.graph.nodes}
    engine.apply(ours, rules)
    assert _vals_by_target(ours)[aten.mul.Tensor] == (6, 4, 3, 3)
    assert all("val" in n.meta for n in _nodes(ours, aten.reshape.default))
    assert not _shares_metadata(ours)
    assert all(
        n.meta.get("nn_module_stack") == stacks[n.name]
        for n in ours.graph.nodes
        if n.op in ("placeholder", "get_attr")
    )

    theirs = _fuse_conv_bn_qat(_capture(_pair())[0])
    assert _vals_by_target(theirs)[aten.div.Tensor] != (2, 6, 4, 4)
    assert _shares_metadata(theirs)
    assert "nn_module_stack" in _placeholder(theirs).meta


def _placeholder(gm: GraphModule) -> Node:
    (node,) = gm.graph.find_nodes(op="placeholder")
    return node


class WithoutGrad(nn.Module):
    """A pair in a sub-graph: export turns the block into a higher-order call."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = _pair()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = self.pair(x)
        return y + 1


def _scaled_weights(gm: GraphModule) -> int:
    graphs = [m for m in gm.modules() if isinstance(m, GraphModule)]
    return sum(len(_nodes(graph, aten.sqrt.default)) for graph in graphs)


def test_sub_graphs_are_reached(rules):
    gm, inputs = _capture(WithoutGrad())
    theirs = _fuse_conv_bn_qat(_capture(WithoutGrad())[0])
    assert _scaled_weights(theirs) == 0

    expected = copy.deepcopy(gm)(*inputs)
    result = engine.apply(gm, rules, recurse=True)
    assert result.modified
    assert _scaled_weights(gm) == 1
    torch.testing.assert_close(gm(*inputs), expected, rtol=1e-4, atol=1e-4)


def test_registered_modules_stay(rules):
    ours, _ = _capture(_pair())
    ours.add_module("mine", nn.Linear(2, 2))
    engine.apply(ours, rules)
    assert isinstance(ours.mine, nn.Linear)

    theirs, _ = _capture(_pair())
    theirs.add_module("mine", nn.Linear(2, 2))
    assert not hasattr(_fuse_conv_bn_qat(theirs), "mine")
