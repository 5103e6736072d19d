"""Graphs of any size for the matcher and the driver, and what is rewritten in them.

They are built node by node. A rewrite is stated three times, once for each engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import attrs
import torch
from torch import fx, nn
from torch._inductor import pattern_matcher as inductor
from torch.ao.quantization.fx import _decomposed  # noqa: F401  # registers operators

from rewrite_engine import edit
from rewrite_engine.collector import paused_gc

aten = torch.ops.aten
_quantize = torch.ops.quantized_decomposed.quantize_per_tensor.default
_dequantize = torch.ops.quantized_decomposed.dequantize_per_tensor.default
_SCALE = (0.1, 3, -128, 127, torch.int8)

Pattern = Callable[..., Any]
Handler = Callable[..., None]


@attrs.frozen(eq=False)
class Rewrite:
    """One rewrite: as a rule, as functions that torch.fx traces, and for inductor."""

    rule: str
    pattern: Pattern
    replacement: Pattern
    inductor_pattern: Callable[[], inductor.CallFunction]
    inductor_handler: Handler


@attrs.frozen(eq=False)
class Workload:
    """A graph, and what is rewritten in it."""

    name: str
    build: Callable[[int], fx.GraphModule]
    """A graph of at least so many nodes, the last block whole."""
    rewrites: Sequence[Rewrite]
    matches: Callable[[fx.Graph], int]
    """In how many places of a graph something is left to rewrite."""
    has_one_type: bool = False
    """Whether all values are of one shape and dtype, so that they can be recorded."""
    raw_edits: Callable[[fx.GraphModule], object] | None = None
    """The same edits by the quickest means, made without a search or a check."""

    @property
    def text(self) -> str:
        """The rules."""
        return "\n".join(rewrite.rule for rewrite in self.rewrites)


def without_code(graph: fx.Graph) -> fx.GraphModule:
    """A module that has the code of an empty graph: making it takes longest."""
    gm = fx.GraphModule(nn.Module(), fx.Graph())
    with mock.patch.object(fx.GraphModule, "recompile"):
        gm.graph = graph
    return gm


class _Builder:
    """A graph in the making; `call` adds a node."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.x = self.graph.placeholder("x")
        self.w = self.graph.placeholder("w")
        self.b = self.graph.placeholder("b")

    def call(self, target: Any, *args: Any) -> fx.Node:
        return edit.append_call(self.graph, target, args)

    def finished(self, result: Any) -> fx.GraphModule:
        self.graph.output(result)
        return without_code(self.graph)

    def is_short(self, nodes: int) -> bool:
        return len(self.graph.nodes) < nodes


def conv_chain(nodes: int) -> fx.GraphModule:
    """Convolution, BatchNorm in eval mode, ReLU, and again."""
    g = _Builder()
    y = g.x
    while g.is_short(nodes):
        y = g.call(aten.conv2d.default, y, g.w, None, [1, 1], [1, 1])
        norm = (g.b, g.b, g.b, g.b, False, 0.1, 1e-5, False)
        y = g.call(aten.batch_norm.default, y, *norm)
        y = g.call(aten.relu.default, y)
    return g.finished(y)


def attention(nodes: int) -> fx.GraphModule:
    """Blocks of attention and a perceptron, each with a residual sum."""
    g = _Builder()
    y = g.x
    while g.is_short(nodes):
        q, k, v = (g.call(aten.linear.default, y, g.w, g.b) for _ in range(3))
        scores = g.call(aten.matmul.default, q, g.call(aten.transpose.int, k, -2, -1))
        scaled = g.call(aten.div.Tensor, scores, 8.0)
        weights = g.call(aten.softmax.int, scaled, -1)
        attended = g.call(aten.matmul.default, weights, v)
        y = g.call(aten.add.Tensor, y, g.call(aten.linear.default, attended, g.w, g.b))
        hidden = g.call(aten.gelu.default, g.call(aten.linear.default, y, g.w, g.b))
        y = g.call(aten.add.Tensor, y, g.call(aten.linear.default, hidden, g.w, g.b))
    return g.finished(y)


def near_misses(nodes: int) -> fx.GraphModule:
    """`relu(x * w + b)` almost everywhere: a subtraction stands for the sum."""
    g = _Builder()
    y = g.x
    while g.is_short(nodes):
        y = g.call(aten.mul.Tensor, y, g.w)
        y = g.call(aten.sub.Tensor, y, g.b)
        y = g.call(aten.relu.default, y)
    return g.finished(y)


def dense(nodes: int) -> fx.GraphModule:
    """`relu(x * w + b)` over and over: every node is part of a match."""
    g = _Builder()
    y = g.x
    while g.is_short(nodes):
        y = g.call(aten.mul.Tensor, y, g.w)
        y = g.call(aten.add.Tensor, y, g.b)
        y = g.call(aten.relu.default, y)
    return g.finished(y)


def quantized(nodes: int) -> fx.GraphModule:
    """Linear layers between pairs of quantize and dequantize calls."""
    g = _Builder()
    y = g.x
    while g.is_short(nodes):
        y = g.call(_quantize, y, *_SCALE)
        y = g.call(_dequantize, y, *_SCALE)
        y = g.call(aten.linear.default, y, g.w, g.b)
        y = g.call(aten.relu.default, y)
    return g.finished(y)


def fan_out(nodes: int) -> fx.GraphModule:
    """`relu(x * w + b)` of one computed value over and over; the results are summed."""
    g = _Builder()
    x = result = g.call(aten.exp.default, g.x)
    while g.is_short(nodes):
        y = g.call(aten.mul.Tensor, x, g.w)
        y = g.call(aten.add.Tensor, y, g.b)
        y = g.call(aten.relu.default, y)
        result = g.call(aten.maximum.default, result, y)
    return g.finished(result)


def wide_output(nodes: int) -> fx.GraphModule:
    """`relu(x * w + b)` beside each other, all of which are returned."""
    g = _Builder()
    results = []
    while g.is_short(nodes):
        y = g.call(aten.mul.Tensor, g.x, g.w)
        y = g.call(aten.add.Tensor, y, g.b)
        results.append(g.call(aten.relu.default, y))
    return g.finished(tuple(results))


def _count(graph: fx.Graph, target: Any) -> int:
    return len(graph.find_nodes(op="call_function", target=target, sort=False))


def _keyword(name: str) -> inductor.KeywordArg:
    return inductor.KeywordArg(name)


def replaced(match: inductor.Match, target: Any, args: tuple[Any, ...]) -> None:
    """The cheapest handler there is: one node, one replacement of uses."""
    old = match.output_node()
    with match.graph.inserting_before(old):
        new = match.graph.call_function(target, args)
    old.replace_all_uses_with(new)
    match.erase_nodes()


def _scale_sum_relu(x: Any, w: Any, b: Any) -> Any:
    return aten.relu.default(aten.add.Tensor(aten.mul.Tensor(x, w), b))


def _addcmul(x: Any, w: Any, b: Any) -> Any:
    return aten.addcmul.default(b, x, w)


def _inductor_scale_sum_relu() -> inductor.CallFunction:
    product = inductor.CallFunction(aten.mul.Tensor, _keyword("x"), _keyword("w"))
    total = inductor.CallFunction(aten.add.Tensor, product, _keyword("b"))
    return inductor.CallFunction(aten.relu.default, total)


def _inductor_addcmul(match: inductor.Match, x: Any, w: Any, b: Any) -> None:
    replaced(match, aten.addcmul.default, (b, x, w))


def _scores(q: Any, k: Any) -> Any:
    transposed = aten.transpose.int(k, -2, -1)
    scores = aten.div.Tensor(aten.matmul.default(q, transposed), 8.0)
    return aten.softmax.int(scores, -1)


def _plain_scores(q: Any, k: Any) -> Any:
    return aten.baddbmm.default(q, k, q)


def _inductor_scores() -> inductor.CallFunction:
    call = inductor.CallFunction
    transposed = call(aten.transpose.int, _keyword("k"), -2, -1)
    product = call(aten.matmul.default, _keyword("q"), transposed)
    return call(aten.softmax.int, call(aten.div.Tensor, product, 8.0), -1)


def _inductor_plain_scores(match: inductor.Match, q: Any, k: Any) -> None:
    replaced(match, aten.baddbmm.default, (q, k, q))


def _conv_relu(x: Any, m: Any) -> Any:
    norm = aten.batch_norm.default(x, m, m, m, m, False, 0.1, 1e-5, False)
    return aten.relu.default(norm)


def _norm_only(x: Any, m: Any) -> Any:
    return aten.mul.Tensor(x, m)


def _inductor_conv_relu() -> inductor.CallFunction:
    m = _keyword("m")
    norm = (_keyword("x"), m, m, m, m, False, 0.1, 1e-5, False)
    call = inductor.CallFunction
    return call(aten.relu.default, call(aten.batch_norm.default, *norm))


def _inductor_norm_only(match: inductor.Match, x: Any, m: Any) -> None:
    replaced(match, aten.mul.Tensor, (x, m))


_SCALE_SUM_RELU = """rule fuse once {
  z = aten.relu.default(aten.add.Tensor(aten.mul.Tensor(x, w), b))
=>
  z' = aten.addcmul.default(b, x, w)
}"""

_SCORES = """rule fuse once {
  s = aten.matmul.default(q, aten.transpose.int(k, -2, -1))
  z = aten.softmax.int(aten.div.Tensor(s, 8.0), -1)
=>
  z' = aten.baddbmm.default(q, k, q)
}"""

_CONV = """rule fuse once {
  n = aten.batch_norm.default(x, m, m, m, m, false, 0.1, 1e-5, false)
  z = aten.relu.default(n)
=>
  z' = aten.mul.Tensor(x, m)
}"""


_QUANTIZED = """rule fuse once {
  q = quantized_decomposed.quantize_per_tensor.default(
    x, 0.1, 3, -128, 127, torch.int8)
  d = quantized_decomposed.dequantize_per_tensor.default(
    q, 0.1, 3, -128, 127, torch.int8)
  z = aten.relu.default(aten.linear.default(d, w, b))
=>
  z' = aten.addmm.default(b, x, w)
}"""


def _quantized_linear(x: Any, w: Any, b: Any) -> Any:
    dequantized = _dequantize(_quantize(x, *_SCALE), *_SCALE)
    return aten.relu.default(aten.linear.default(dequantized, w, b))


def _plain_linear(x: Any, w: Any, b: Any) -> Any:
    return aten.addmm.default(b, x, w)


def _inductor_quantized_linear() -> inductor.CallFunction:
    call = inductor.CallFunction
    pair = call(_dequantize, call(_quantize, _keyword("x"), *_SCALE), *_SCALE)
    linear = call(aten.linear.default, pair, _keyword("w"), _keyword("b"))
    return call(aten.relu.default, linear)


def _inductor_plain_linear(match: inductor.Match, x: Any, w: Any, b: Any) -> None:
    replaced(match, aten.addmm.default, (b, x, w))


def _raw_addcmul(gm: fx.GraphModule) -> None:
    """What `relu(x * w + b) => addcmul(b, x, w)` comes to, edit by edit."""
    with paused_gc():
        for relu in gm.graph.find_nodes(op="call_function", target=aten.relu.default):
            total = relu.args[0]
            product, b = total.args
            x, w = product.args
            target = aten.addcmul.default
            new = edit.new_node(gm.graph, "call_function", target, "addcmul")
            edit.insert(new, relu, (b, x, w), {})
            for user in list(relu.users):
                edit.replace_input(user, relu, new)
            for old in (relu, total, product):
                edit.set_arguments(old, (), {})
                edit.erase(old)


def _relus(graph: fx.Graph) -> int:
    return _count(graph, aten.relu.default)


def _softmaxes(graph: fx.Graph) -> int:
    return _count(graph, aten.softmax.int)


# --- the table ---

_TO_MUL = Rewrite(
    _CONV, _conv_relu, _norm_only, _inductor_conv_relu, _inductor_norm_only
)
_TO_ADDMM = Rewrite(
    _QUANTIZED,
    _quantized_linear,
    _plain_linear,
    _inductor_quantized_linear,
    _inductor_plain_linear,
)
_TO_BADDBMM = Rewrite(
    _SCORES, _scores, _plain_scores, _inductor_scores, _inductor_plain_scores
)
_TO_ADDCMUL = Rewrite(
    _SCALE_SUM_RELU,
    _scale_sum_relu,
    _addcmul,
    _inductor_scale_sum_relu,
    _inductor_addcmul,
)

WORKLOADS = (
    Workload("conv-bn-relu", conv_chain, [_TO_MUL], _relus),
    Workload("q/dq", quantized, [_TO_ADDMM], _relus),
    Workload("attention", attention, [_TO_BADDBMM], _softmaxes),
    Workload("every node", dense, [_TO_ADDCMUL], _relus, True, _raw_addcmul),
    Workload("fan-out", fan_out, [_TO_ADDCMUL], _relus, True),
    Workload("wide output", wide_output, [_TO_ADDCMUL], _relus, True),
    Workload("near-misses", near_misses, [_TO_ADDCMUL], lambda graph: 0, True),
)
