"""What single nodes write, return and draw, in both graph dialects."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.ao.nn.intrinsic as nni
import torch.ao.quantization.fx._decomposed
import torch.nn.functional as F  # noqa: N812
from torch import fx, nn
from torch.ao.quantization.fx import _equalize

from rewrite_engine.equalize import observers
from rewrite_engine.rewriting.effect import PURE
from rewrite_engine.rewriting.effects import effect_of

aten = torch.ops.aten


def call(target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """A call in a fresh graph; operands are named, `"x"` stands for the value `x`."""
    graph = fx.Graph()
    inputs = {name: graph.placeholder(name) for name in ("x", "y", "w", "m", "v")}

    def value(argument: Any) -> Any:
        if isinstance(argument, list):
            return [value(item) for item in argument]
        return inputs.get(argument, argument) if type(argument) is str else argument

    operands = tuple(value(argument) for argument in args)
    keywords = {key: value(argument) for key, argument in kwargs.items()}
    if isinstance(target, str):
        return graph.call_method(target, operands, keywords)
    return graph.call_function(target, operands, keywords)


def summary(node: fx.Node, module: nn.Module | None = None) -> str:
    """The effect in words: `writes=x aliases=x random effectful`."""
    effect = effect_of(node, module)
    words = [
        f"{kind}={','.join(operand.name for operand in operands)}"
        for kind, operands in (("writes", effect.writes), ("aliases", effect.aliases))
        if operands
    ]
    flags = ("clobbers", "random", "own_state", "effectful")
    return " ".join(words + [flag for flag in flags if getattr(effect, flag)])


NORM = ("x", "w", "y", "m", "v")

OVERLOADS = [
    (call(aten.add.Tensor, "x", "y"), ""),
    (call(aten.relu_.default, "x"), "writes=x aliases=x effectful"),
    (call(aten.add_.Tensor, "x", "y"), "writes=x aliases=x effectful"),
    (call(aten.copy_.default, "x", "y"), "writes=x aliases=x effectful"),
    (call(aten.add.out, "x", "y", out="w"), "writes=w aliases=w effectful"),
    (call(aten._foreach_add_.Scalar, ["x", "y"], 1), "writes=x,y effectful"),
    (call(aten.view.default, "x", [1]), "aliases=x"),
    (call(aten.split.Tensor, "x", 1), "aliases=x"),
    (call(aten.contiguous.default, "x"), "aliases=x"),
    (call(aten.to.dtype, self="x", dtype=torch.half), "aliases=x"),
    (call(aten.sym_size.int, "x", 0), ""),
    (call(aten.cat.default, ["x", "y"]), ""),
    # Undeclared views of operands.
    (call(aten.type_as.default, "x", "y"), "aliases=x,y"),
    (call(aten.atleast_1d.default, "x"), "aliases=x"),
    (call(aten.broadcast_tensors.default, ["x", "y"]), "aliases=x,y"),
    (call(aten._unsafe_view.default, "x", [1]), "aliases=x"),
    (call(aten.einsum.default, "ij->ji", ["x"]), "aliases=x"),
    (
        call(aten.set_.source_Tensor, "x", "y"),
        "writes=x aliases=x,y effectful",
    ),
    # Undeclared writes, in training only.
    (
        call(aten.batch_norm.default, *NORM, True, 0.1, 1e-5, False),
        "writes=m,v effectful",
    ),
    (
        call(aten.batch_norm.default, *NORM, "y", 0.1, 1e-5, False),
        "writes=m,v effectful",
    ),
    (call(aten.batch_norm.default, *NORM, False, 0.1, 1e-5, False), ""),
    (
        call(aten.native_batch_norm.default, *NORM, True, 0.1, 1e-5),
        "writes=m,v effectful",
    ),
    (call(aten.native_batch_norm.default, *NORM, False, 0.1, 1e-5), ""),
    (
        call(aten._native_batch_norm_legit.default, *NORM, True, 0.1, 1e-5),
        "writes=m,v effectful",
    ),
    (call(aten._native_batch_norm_legit.default, *NORM, False, 0.1, 1e-5), ""),
    (
        call(aten.instance_norm.default, *NORM, True, 0.1, 1e-5, False),
        "writes=m,v effectful",
    ),
    (call(aten._native_batch_norm_legit_no_training.default, *NORM, 0.1, 1e-5), ""),
    # Random and effectful.
    (call(aten.rand_like.default, "x"), "random effectful"),
    (call(aten.dropout.default, "x", 0.5, True), "aliases=x random effectful"),
    (call(aten.dropout.default, "x", 0.5, False), "aliases=x"),
    (call(aten.native_dropout.default, "x", 0.5, None), "random effectful"),
    (call(aten.scaled_dot_product_attention.default, "x", "y", "w"), ""),
    (
        call(aten.scaled_dot_product_attention.default, "x", "y", "w", None, 0.5),
        "random effectful",
    ),
    (call(aten._assert_async.msg, "x", "bad"), "effectful"),
    (call(aten._assert_scalar.default, "x", "bad"), "effectful"),
    (call(aten.relu, "x"), ""),
    (call(aten.relu_, "x"), "writes=x aliases=x effectful"),
    (call(torch.ops.quantized_decomposed.quantize_per_channel, "x", "y"), ""),
    (
        call(torch.ops.quantized_decomposed.quantize_per_tensor, "x", "y"),
        "aliases=x,y clobbers effectful",
    ),
    (call(torch.ops.quantized.linear.default, "x", "w", 1.0, 0), ""),
    (call(torch.ops.higher_order.cond, "x", "y"), "aliases=x,y clobbers effectful"),
    (
        call(torch.ops.profiler._record_function_enter_new.default, "name"),
        "effectful",
    ),
]

FUNCTIONS = [
    (call(torch.add, "x", "y"), ""),
    (call(torch.add, "x", "y", out="w"), "writes=w aliases=w effectful"),
    (call(torch.max, "x", 0, out=["y", "w"]), "writes=y,w aliases=y,w effectful"),
    (call(torch.relu_, "x"), "writes=x aliases=x effectful"),
    (call(torch.transpose, "x", 0, 1), "aliases=x"),
    (call(torch.transpose, input="x", dim0=0, dim1=1), "aliases=x"),
    (call(torch.split, "x", 2), "aliases=x"),
    (call(torch.broadcast_tensors, "x", "y"), "aliases=x,y"),
    (call(torch.sort, "x"), ""),
    (call(torch.rand_like, "x"), "random effectful"),
    (call(torch.manual_seed, 0), "clobbers effectful"),
    (call(torch._C._set_grad_enabled, False), "clobbers effectful"),
    (call(torch.sym_max, "x", "y"), ""),
    (call(torch._assert, "x", "bad"), "effectful"),
    (call(torch.fft.fft, "x"), ""),
    (call(torch.functional.lu, "x"), "aliases=x clobbers effectful"),
    (call(F.linear, "x", "w"), ""),
    (call(F.gelu, "x"), ""),
    (call(F.max_pool2d, "x", 2), ""),
    (call(F.relu, "x"), ""),
    (call(F.relu, "x", inplace=False), ""),
    (call(F.relu, "x", inplace=True), "writes=x aliases=x effectful"),
    (call(F.relu, "x", True), "writes=x aliases=x effectful"),
    (call(F.relu, input="x", inplace="y"), "writes=x aliases=x effectful"),
    (call(F.dropout, "x"), "aliases=x random effectful"),
    (call(F.dropout, "x", 0.5, False), "aliases=x"),
    (call(F.dropout, "x", training="y"), "aliases=x,y random effectful"),
    (call(F.batch_norm, "x", "m", "v"), ""),
    (call(F.batch_norm, "x", "m", "v", training=True), "writes=m,v effectful"),
    (call(F.batch_norm, "x", "m", "v", None, None, "y"), "writes=m,v effectful"),
    (call(F.instance_norm, "x", "m", "v"), "writes=m,v effectful"),
    (call(F.embedding, "x", "w"), ""),
    (call(F.embedding, "x", "w", max_norm=1.0), "writes=w effectful"),
    (call(F.gumbel_softmax, "x"), "random effectful"),
    (call(operator.add, "x", "y"), ""),
    (call(operator.add, "x", ["y"]), "aliases=x,y"),
    (call(operator.iadd, "x", "y"), "writes=x aliases=x effectful"),
    (call(operator.imul, "x", 2), "writes=x aliases=x effectful"),
    (call(operator.getitem, "x", "y"), "aliases=x"),
    (call(operator.setitem, "x", 0, "y"), "writes=x aliases=x,y effectful"),
    (call(operator.delitem, "x", 0), "writes=x effectful"),
    (call(operator.pos, "x"), "aliases=x"),
    (call(getattr, "x", "shape"), ""),
    (call(getattr, "x", "T"), "aliases=x"),
    (call(len, "x"), ""),
    (call(print, "x"), "aliases=x clobbers effectful"),
    (call(lambda x: x, "x"), "aliases=x clobbers effectful"),
]

METHODS = [
    (call("add", "x", "y"), ""),
    (call("relu", "x"), ""),
    (call("sort", "x"), ""),
    (call("size", "x", 0), ""),
    (call("add_", "x", "y"), "writes=x aliases=x effectful"),
    (call("requires_grad_", "x"), "writes=x aliases=x effectful"),
    (call("bernoulli_", "x"), "writes=x aliases=x random effectful"),
    (call("view", "x", -1), "aliases=x"),
    (call("flatten", "x", 1), "aliases=x"),
    (call("float", "x"), "aliases=x"),
    (call("tolist", "x"), ""),
    (call("type_as", "x", "y"), "aliases=x,y"),
    (call("__iadd__", "x", "y"), "aliases=x,y clobbers effectful"),
    (call("append", "x", "y"), "aliases=x,y clobbers effectful"),
    (call("backward", "x"), "aliases=x clobbers effectful"),
    (call("no_such_method_", "x"), "aliases=x clobbers effectful"),
]


@pytest.mark.parametrize(
    ("node", "expected"),
    OVERLOADS + FUNCTIONS + METHODS,
    ids=lambda value: value.name if isinstance(value, fx.Node) else "",
)
def test_call(node: fx.Node, expected: str) -> None:
    assert summary(node) == expected


def test_setitem_of_a_tensor_copies_the_value() -> None:
    node = call(operator.setitem, "x", 0, "y")
    node.args[0].meta["val"] = torch.empty(2)
    assert summary(node) == "writes=x effectful"


def test_inputs_and_attributes_have_no_effect() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    weight = graph.get_attr("weight")
    end = graph.output((x, weight))
    assert [effect_of(node) for node in (x, weight, end)] == [PURE] * 3


def hooked() -> nn.Module:
    linear = nn.Linear(2, 2)
    linear.register_forward_hook(lambda *_: None)
    return linear


def patched() -> nn.Module:
    linear = nn.Linear(2, 2)
    linear.forward = lambda x: x
    return linear


def parametrized() -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))


def replaced(sequence: nn.Module) -> nn.Module:
    sequence[1] = Custom(2, 2)
    return sequence


class Custom(nn.Linear):
    pass


CLOBBER = "aliases=x clobbers effectful"
STATISTICS = "own_state effectful"
WATCHES = "aliases=x own_state effectful"

MODULES: list[tuple[Callable[[], nn.Module], str]] = [
    (lambda: nn.Linear(2, 2), ""),
    (lambda: nn.Conv2d(2, 2, 1), ""),
    (lambda: nn.ReLU(), ""),
    (lambda: nn.ReLU(inplace=True), "writes=x aliases=x effectful"),
    (lambda: nn.Identity(), "aliases=x"),
    (lambda: nn.Flatten(), "aliases=x"),
    (lambda: nn.Dropout(), "aliases=x random effectful"),
    (lambda: nn.Dropout().eval(), "aliases=x"),
    (lambda: nn.LSTM(2, 2), "aliases=x"),
    (lambda: nn.LSTM(2, 2, 2, dropout=0.5), "aliases=x random effectful"),
    (lambda: nn.BatchNorm2d(2), STATISTICS),
    (lambda: nn.BatchNorm2d(2).eval(), ""),
    (lambda: nn.BatchNorm2d(2, track_running_stats=False), ""),
    (lambda: nn.InstanceNorm2d(2), ""),
    (lambda: nn.InstanceNorm2d(2, track_running_stats=True), STATISTICS),
    (lambda: nn.Embedding(2, 2), ""),
    (lambda: nn.Embedding(2, 2, max_norm=1.0), STATISTICS),
    (lambda: nn.FractionalMaxPool2d(2, 2).eval(), "random effectful"),
    (lambda: nni.LinearReLU(nn.Linear(2, 2), nn.ReLU(inplace=True)), ""),
    (lambda: nni.BNReLU2d(nn.BatchNorm2d(2), nn.ReLU()).eval(), ""),
    (lambda: nni.BNReLU2d(nn.BatchNorm2d(2), nn.ReLU()), STATISTICS),
    (lambda: nni.LinearReLU(hooked(), nn.ReLU()), CLOBBER),
    (lambda: replaced(nni.LinearReLU(nn.Linear(2, 2), nn.ReLU())), CLOBBER),
    (lambda: torch.ao.quantization.MinMaxObserver(), WATCHES),
    (lambda: torch.ao.quantization.FakeQuantize(), WATCHES),
    (lambda: _equalize._InputEqualizationObserver(), WATCHES),
    (lambda: observers.WeightEqualizationObserver(), WATCHES),
    (lambda: Custom(2, 2), CLOBBER),
    (hooked, CLOBBER),
    (patched, CLOBBER),
    (parametrized, CLOBBER),
]


@pytest.mark.parametrize(("make", "expected"), MODULES)
def test_module_call(make: Callable[[], nn.Module], expected: str) -> None:
    graph = fx.Graph()
    node = graph.call_module("called", (graph.placeholder("x"),))
    assert summary(node, nn.ModuleDict({"called": make()})) == expected


def test_unresolved_module_clobbers() -> None:
    graph = fx.Graph()
    node = graph.call_module("called", (graph.placeholder("x"),))
    assert summary(node, nn.Module()) == CLOBBER
    assert summary(node, None) == CLOBBER


def test_input_guard_of_an_export_has_no_effect() -> None:
    program = torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),))
    module = program.module()
    guards = module.graph.find_nodes(op="call_module", target="_guards_fn")
    assert [effect_of(node, module) for node in guards] == [PURE]


PURE_CALLS: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
    (F.interpolate, (torch.randn(1, 1, 4, 4), (4, 4))),
    (F.pad, (torch.randn(1, 2, 2), (0, 0))),
    (F.normalize, (torch.randn(2, 2),)),
    (F.unfold, (torch.randn(1, 2, 2, 2), 1)),
    (F.fold, (torch.randn(1, 3, 16), 4, 1)),
    (F.lp_pool1d, (torch.randn(1, 1, 4), 1, 1)),
    (F.adaptive_avg_pool2d, (torch.randn(1, 1, 4, 4), 4)),
    (F.max_pool1d, (torch.randn(1, 1, 4), 1)),
    (F.softmax, (torch.tensor(1.0), 0)),
    (F.threshold, (torch.ones(2), 0.0, 1.0)),
    (F.local_response_norm, (torch.ones(1, 2, 2), 1)),
    (torch.block_diag, (torch.randn(2, 2),)),
    (torch.tensordot, (torch.randn(2, 2), torch.randn(2, 2), 0)),
    (torch.norm, (torch.tensor(1.0),)),
    (torch.sum, (torch.tensor(1.0),)),
    (torch.matrix_power, (torch.randn(2, 2), 1)),
    (torch.flip, (torch.randn(2, 2), [])),
    (torch.nan_to_num, (torch.arange(2),)),
    (torch.floor, (torch.arange(2),)),
]


@pytest.mark.parametrize(
    ("function", "args"), PURE_CALLS, ids=[f.__name__ for f, _ in PURE_CALLS]
)
def test_degenerate_calls_of_pure_functions_return_new_storage(
    function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    graph = fx.Graph()
    node = graph.call_function(function, (graph.placeholder("x"), *args[1:]))
    before = args[0].clone()
    result = function(*args)
    assert effect_of(node) is PURE
    assert torch.equal(args[0], before)
    assert result.untyped_storage()._cdata != args[0].untyped_storage()._cdata


class Inner(nn.Module):
    """Runs `body` without gradients, on `x`, `y` and a buffer."""

    def __init__(self, body: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("held", torch.ones(3))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x, y = x * 2, y * 2
        with torch.no_grad():
            z = self.body(x, y, self.held)
        return z + 1


def _set_third(x: torch.Tensor, y: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    held.view(-1).add_(1)
    return x + y + held


BODIES = {
    "computes": (lambda x, y, held: x.sin() * y + held, ""),
    "returns a view": (lambda x, y, held: y.view(-1), "aliases=mul_1"),
    "draws": (lambda x, y, held: torch.rand_like(x) + y * held, "random effectful"),
    "writes a view of a buffer": (_set_third, "writes=held effectful"),
}


@pytest.mark.parametrize("body", BODIES)
def test_a_graph_without_gradients_does_what_it_does_to_its_operands(body):
    function, expected = BODIES[body]
    x = torch.ones(3)
    gm = torch.export.export(Inner(function), (x, x)).module()
    target = torch.ops.higher_order.wrap_with_set_grad_enabled
    (node,) = gm.graph.find_nodes(op="call_function", target=target)
    assert summary(node, gm) == expected


def running(body: Callable[[fx.Graph, fx.Node], Any]) -> fx.GraphModule:
    """A graph that runs another one, with a buffer of its own, on `x`."""
    inner, outer = fx.Graph(), fx.Graph()
    inner.output((body(inner, inner.placeholder("x")),))
    x, graph = outer.placeholder("x"), outer.get_attr("inner")
    target = torch.ops.higher_order.wrap_with_set_grad_enabled
    outer.output(outer.call_function(target, (False, graph, x)))
    module = fx.GraphModule({"own": torch.ones(3)}, inner)
    return fx.GraphModule({"inner": module}, outer)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (lambda graph, x: graph.call_function(aten.neg.default, (x,)), ""),
        (lambda graph, x: graph.call_function(helper, (x,)), "any"),
        (
            lambda graph, x: graph.call_function(
                aten.add_.Tensor, (graph.get_attr("own"), x)
            ),
            "any",
        ),
        (lambda graph, x: graph.get_attr("own"), "any"),
        (lambda graph, x: graph.placeholder("y"), "any"),
    ],
    ids=["computes", "unknown call", "writes its own", "returns its own", "two inputs"],
)
def test_what_a_graph_holds_or_calls_counts(body: Any, expected: str) -> None:
    gm = running(body)
    node = gm.graph.output_node().args[0]
    everything = "aliases=inner,x clobbers effectful"
    assert summary(node, gm) == (everything if expected else "")


def helper(x: torch.Tensor) -> torch.Tensor:
    return x
