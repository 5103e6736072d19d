"""Graphs of any size for the matcher and the driver, and one rewrite for each.

They are built node by node and hold no recorded values: no peer derives any, so none
is derived here. A rewrite is stated three times, once for each engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import fx, nn
from torch._inductor import pattern_matcher as inductor

aten = torch.ops.aten

Pattern = Callable[..., Any]
Handler = Callable[..., None]


@attrs.frozen(eq=False)
class Workload:
    """A graph, and the same rewrite as a rule, as functions and for inductor."""

    name: str
    build: Callable[[int], fx.GraphModule]
    """A graph of at least so many nodes, the last block whole."""
    rule: str
    pattern: Pattern
    replacement: Pattern
    inductor_pattern: Callable[[], inductor.CallFunction]
    inductor_handler: Handler
    matches: Callable[[fx.Graph], int]
    """How often the rewrite applies to a graph."""


class _Builder:
    """A graph in the making; `call` adds a node."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.x = self.graph.placeholder("x")
        self.w = self.graph.placeholder("w")
        self.b = self.graph.placeholder("b")

    def call(self, target: Any, *args: Any) -> fx.Node:
        return self.graph.call_function(target, args)

    def finished(self, result: Any) -> fx.GraphModule:
        self.graph.output(result)
        return fx.GraphModule(nn.Module(), self.graph)

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


def fan_out(nodes: int) -> fx.GraphModule:
    """One value that everything reads: `relu(x * w + b)` beside each other."""
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


def _replaced(match: inductor.Match, target: Any, args: tuple[Any, ...]) -> None:
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
    _replaced(match, aten.addcmul.default, (b, x, w))


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
    _replaced(match, aten.baddbmm.default, (q, k, q))


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
    _replaced(match, aten.mul.Tensor, (x, m))


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


def _scale_sum_relu_on(
    name: str, build: Callable[[int], fx.GraphModule], *, is_missed: bool = False
) -> Workload:
    return Workload(
        name,
        build,
        _SCALE_SUM_RELU,
        _scale_sum_relu,
        _addcmul,
        _inductor_scale_sum_relu,
        _inductor_addcmul,
        lambda graph: 0 if is_missed else _count(graph, aten.relu.default),
    )


WORKLOADS = (
    Workload(
        "conv-bn-relu",
        conv_chain,
        _CONV,
        _conv_relu,
        _norm_only,
        _inductor_conv_relu,
        _inductor_norm_only,
        lambda graph: _count(graph, aten.relu.default),
    ),
    Workload(
        "attention",
        attention,
        _SCORES,
        _scores,
        _plain_scores,
        _inductor_scores,
        _inductor_plain_scores,
        lambda graph: _count(graph, aten.softmax.int),
    ),
    _scale_sum_relu_on("every node", dense),
    _scale_sum_relu_on("fan-out", fan_out),
    _scale_sum_relu_on("near-misses", near_misses, is_missed=True),
)
