"""What the engine is given and cannot work on: right, or refused with a reason."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrize

from rewrite_engine import engine, load, loads
from tests.graphs import chain, graph_of

aten = torch.ops.aten

TWICE = loads("rule twice exact { z = relu(relu(x)) => z' = relu(x) }")
FOLD = loads(
    """
    rule fold inexact {
      z = mul(x, mul(w, $k))  where w is const
    => param folded = w * $k  z' = mul(x, folded) }
    """
)
LINEAR = loads(
    """
    rule double inexact {
      y = linear(x, w, b?)  where w is const
    => param w2 = w * 2.0  y' = linear(x, w2, b) }
    """
)


def relu_twice() -> fx.GraphModule:
    return chain(aten.relu.default, aten.relu.default)


def scaled(weight: torch.Tensor) -> fx.GraphModule:
    return graph_of(
        lambda f, x, w: f(aten.mul.Tensor, (x, f(aten.mul.Tensor, (w, 2.0)))), w=weight
    )


@pytest.mark.parametrize(
    "model",
    [
        *(None, 1, "model", b"model", [], nn.Linear(1, 1), fx.Graph()),
        *(lambda x: x, torch.compile(relu_twice()), torch.jit.script(nn.ReLU())),
    ],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.parametrize("use", [engine.apply, engine.find, engine.explain])
def test_what_is_no_graph_is_refused(use: Callable[..., Any], model: Any) -> None:
    with pytest.raises(TypeError, match=type(model).__name__):
        use(model, TWICE)


@pytest.mark.parametrize("rules", [None, "qat_fuse", [TWICE], TWICE.rules[0]], ids=type)
def test_what_is_no_rule_set_is_refused(rules: Any) -> None:
    for use in (engine.apply, engine.find, engine.explain):
        with pytest.raises(TypeError, match="expected a RuleSet"):
            use(relu_twice(), rules)
    with pytest.raises(TypeError, match="expected a RuleSet"):
        engine.verify(rules)


@pytest.mark.parametrize("text", [None, 1, b"rule r {}", ["rule"]], ids=type)
def test_what_is_no_text_is_refused(text: Any) -> None:
    with pytest.raises(TypeError):
        loads(text)
    with pytest.raises((TypeError, FileNotFoundError)):
        load(text)


with FakeTensorMode():
    FAKE = torch.empty(3)

UNREADABLE = {
    "meta": torch.empty(3, device="meta"),
    "fake": FAKE,
    "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "sparse": torch.eye(3).to_sparse(),
    "compressed": torch.eye(3).to_sparse_csr(),
    "nested": torch.nested.nested_tensor([torch.ones(3), torch.ones(2)]),
    "jagged": torch.nested.nested_tensor(
        [torch.ones(3), torch.ones(2)], layout=torch.jagged
    ),
}


@pytest.mark.parametrize("weight", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_constant_without_readable_data_is_not_folded(weight: torch.Tensor) -> None:
    gm = scaled(weight)
    result = engine.apply(gm, FOLD)
    (refusal,) = result.report.refusals
    assert "the values of 'w' are not available" in refusal.reason
    assert gm.w is weight and not result.modified


READABLE = {
    "bf16": torch.ones(3, dtype=torch.bfloat16),
    "complex": torch.ones(3, dtype=torch.complex64),
    "integer": torch.ones(3, dtype=torch.int8),
    "not contiguous": torch.ones(3, 6).T[:3],
    "expanded": torch.ones(1).expand(3),
    "without elements": torch.ones(0),
    "of no dimension": torch.tensor(2.0),
    "NaN": torch.tensor([float("nan"), 1.0, 2.0]),
    "one of a graph": torch.ones(3, requires_grad=True) * 2,
}


@pytest.mark.parametrize("weight", READABLE.values(), ids=READABLE.keys())
def test_a_constant_of_any_other_kind_is_folded(weight: torch.Tensor) -> None:
    gm, x = scaled(weight), torch.ones(3)[: weight.numel()]
    expected, version = gm(x), weight._version
    assert engine.apply(gm, FOLD).report.matches == 1
    torch.testing.assert_close(gm(x), expected, equal_nan=True)
    assert weight._version == version


def test_a_graph_whose_order_is_wrong_is_not_made_worse() -> None:
    gm = relu_twice()
    first, second = gm.graph.find_nodes(op="call_function", target=aten.relu.default)
    second.append(first)
    with pytest.raises(RuntimeError):
        gm.graph.lint()
    engine.apply(gm, TWICE)
    gm.graph.lint()
    x = torch.randn(3)
    assert torch.equal(gm(x), x.relu())


def test_a_node_of_another_graph_is_no_match() -> None:
    gm, other = relu_twice(), relu_twice()
    *_, second, _ = gm.graph.nodes
    second.args = (list(other.graph.nodes)[1],)
    assert not engine.apply(gm, TWICE).modified


def test_an_attribute_that_is_not_there_is_no_constant() -> None:
    gm = scaled(torch.ones(3))
    del gm.w
    assert not engine.apply(gm, FOLD).modified


def test_a_graph_of_two_modules_is_rewritten_for_both() -> None:
    gm = relu_twice()
    other = fx.GraphModule(nn.Module(), gm.graph)
    assert engine.apply(gm, TWICE).modified
    other.recompile()
    x = torch.randn(3)
    assert torch.equal(other(x), gm(x))


def test_nodes_without_metadata_are_rewritten() -> None:
    gm = relu_twice()
    assert all("val" not in node.meta for node in gm.graph.nodes)
    assert engine.apply(gm, TWICE).report.matches == 1


# --- modules that run more than their class ---


class Symmetric(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.triu() + x.triu(1).T


def parametrized() -> nn.Module:
    layer = nn.Linear(3, 3)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


def hooked() -> nn.Module:
    layer = nn.Linear(3, 3)
    layer.register_forward_hook(lambda module, inputs, output: output + 1)
    return layer


def overridden() -> nn.Module:
    layer = nn.Linear(3, 3)
    layer.forward = lambda x: x  # type: ignore[method-assign]
    return layer


@pytest.mark.parametrize("make", [parametrized, hooked, overridden])
def test_a_module_that_runs_other_code_is_left_alone(
    make: Callable[[], nn.Module],
) -> None:
    class Leaves(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
            return m is not model

    model = nn.Sequential(make())
    gm = fx.GraphModule(model, Leaves().trace(model))
    x = torch.randn(2, 3)
    expected = gm(x)
    assert not engine.apply(gm, LINEAR).modified
    assert torch.equal(gm(x), expected)


# --- nested graphs ---


class Cond(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def positive(x: torch.Tensor) -> torch.Tensor:
            return torch.relu(torch.relu(x))

        return torch.cond(x.sum() > 0, positive, torch.neg, (x,))


class Scan(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        def step(carry: torch.Tensor, y: torch.Tensor) -> tuple[Any, Any]:
            return torch.relu(torch.relu(carry + y)), carry * 1.0

        return scan(step, x[0] * 1.0, x, dim=0)


class WhileLoop(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return while_loop(
            lambda i, x: i < 3,
            lambda i, x: (i + 1, torch.relu(torch.relu(x)) * 2.0),
            (torch.tensor(0), x),
        )


@pytest.mark.parametrize("kind", [Cond, Scan, WhileLoop])
@pytest.mark.parametrize("exported", [True, False], ids=["program", "module"])
def test_nested_graphs_are_rewritten_on_request(kind: type, exported: bool) -> None:
    program = torch.export.export(kind(), (torch.randn(4, 3),))
    for recurse in (False, True):
        model = copy.deepcopy(program) if exported else program.module()
        assert engine.apply(model, TWICE, recurse=recurse).modified is recurse
        called = model.module() if exported else model
        for x in (torch.ones(4, 3), -torch.ones(4, 3)):
            found, expected = called(x), kind()(x)
            torch.testing.assert_close(found, expected)
