"""Known failures of other pattern rewriters, and the right behaviour.

Where `torch.fx.subgraph_rewriter` still fails, the test says so as well, so that we
notice when it is mended.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.subgraph_rewriter import replace_pattern, replace_pattern_with_filters

from rewrite_engine import engine, loads
from rewrite_engine.errors import RuleError

aten = torch.ops.aten
F = nn.functional


def _graph(build: Callable[..., object], *names: str) -> GraphModule:
    """The graph in which `build` makes nodes of the placeholders `names`."""
    graph = Graph()
    inputs = [graph.placeholder(name) for name in names]
    graph.output(build(graph.call_function, *inputs))
    return GraphModule(nn.Module(), graph)


def _apply(gm: GraphModule, text: str):
    """The number of rewrites; `gm` is changed in place and sound afterwards."""
    result = engine.apply(gm, loads(text))
    gm.graph.lint()
    return sum(rule.matches for rule in result.report.rules)


def _calls(gm: GraphModule) -> list[Node]:
    return [node for node in gm.graph.nodes if node.op == "call_function"]


def _run(gm: GraphModule, *inputs: torch.Tensor) -> object:
    """Run on clones: some graphs write their inputs."""
    return gm(*(x.clone() for x in inputs))


X = torch.linspace(-2, 2, 5)
Y = torch.linspace(1, 3, 5)


# --- literals ---


def test_a_literal_does_not_match_a_node():
    gm = _graph(lambda call, x, y: call(aten.add.Tensor, (x, y)), "x", "y")
    peer = copy.deepcopy(gm)
    assert _apply(gm, "rule r { y = aten.add.Tensor(x, 1.0) => y' = relu(x) }") == 0
    assert _apply(gm, "rule r { y = add(x, $k) => y' = sub(x, -$k) }") == 0
    assert torch.equal(gm(X, Y), X + Y)

    matches = replace_pattern_with_filters(
        peer,
        lambda x: aten.add.Tensor(x, 1.0),
        lambda x: aten.relu.default(x),
        ignore_literals=True,
    )
    assert len(matches) == 1  # and `y` is gone
    assert not torch.equal(peer(X, Y), X + Y)


def test_a_captured_literal_is_carried_over():
    gm = _graph(lambda call, x: call(aten.add.Tensor, (x, 2.5)), "x")
    assert _apply(gm, "rule r { y = add(x, $k) => y' = sub(x, -$k) }") == 1
    torch.testing.assert_close(gm(X), X + 2.5)


@pytest.mark.parametrize(
    ("target", "args", "kwargs", "pattern"),
    [
        (torch.add, (), {"alpha": 1}, "torch.add(x, x)"),
        (F.leaky_relu, (0.01,), {}, "F.leaky_relu(x)"),
        (F.leaky_relu, (), {"negative_slope": 0.01}, "F.leaky_relu(x, 0.01)"),
        (aten.softmax.int, (0, None), {}, "aten.softmax.int(x, 0)"),
        (aten.softmax.int, (), {"dim": 0}, "aten.softmax.int(x, 0, none)"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value),
)
def test_defaults_and_keywords_may_be_spelled_differently(
    target, args, kwargs, pattern
):
    operands = 2 if target is torch.add else 1

    def build(call, x):
        return call(target, (x,) * operands + args, kwargs)

    gm = _graph(build, "x")
    assert _apply(gm, f"rule r {{ y = {pattern} => y' = relu(x) }}") == 1
    assert torch.equal(gm(X), X.relu())


def test_peer_misses_a_default_that_is_written_out():
    gm = _graph(lambda call, x: call(F.leaky_relu, (x, 0.01)), "x")
    assert replace_pattern(gm, lambda x: F.leaky_relu(x), lambda x: x + 1) == []


def test_another_value_than_the_default_does_not_match():
    gm = _graph(lambda call, x: call(F.leaky_relu, (x, 0.2)), "x")
    assert _apply(gm, "rule r { y = F.leaky_relu(x) => y' = relu(x) }") == 0


# --- mutation ---


def _read_written_read(call, x: Node) -> Node:
    y = call(aten.relu.default, (x,))
    call(aten.mul_.Tensor, (x, -2.0))
    return call(aten.neg.default, (y,))


def test_a_rewrite_does_not_cross_a_write():
    gm = _graph(_read_written_read, "x")
    peer = copy.deepcopy(gm)
    rules = loads(
        "rule r { y = relu(x) z = neg(y) => z' = aten.clamp.default(neg(x), none, 0) }"
    )
    result = engine.apply(gm, rules)
    assert not result.modified
    (refusal,) = result.report.rules[0].refusals
    assert "mul_" in refusal.reason
    assert torch.equal(_run(gm, X), -X.relu())

    matches = replace_pattern(
        peer,
        lambda x: aten.neg.default(aten.relu.default(x)),
        lambda x: aten.clamp.default(aten.neg.default(x), None, 0),
    )
    assert len(matches) == 1
    assert not torch.equal(_run(peer, X), -X.relu())


# --- matches that meet ---


def _nested_cats(call, a: Node, b: Node, c: Node) -> Node:
    inner = call(aten.neg.default, (call(aten.cat.default, ([a, b],)),))
    return call(aten.neg.default, (call(aten.cat.default, ([inner, c],)),))


def test_matches_may_follow_each_other_inside_a_list():
    gm = _graph(_nested_cats, "a", "b", "c")
    peer = copy.deepcopy(gm)
    rule = "rule r { y = neg(cat([a, b])) => y' = aten.mul.Tensor(cat([a, b]), -1) }"
    assert _apply(gm, rule) == 2
    assert torch.equal(gm(X, Y, X), torch.cat([X, Y, -X]))

    replace_pattern(
        peer,
        lambda xs: aten.neg.default(aten.cat.default(xs)),
        lambda xs: aten.mul.Tensor(aten.cat.default(xs), -1),
    )
    with pytest.raises(RuntimeError):
        peer.graph.lint()


def test_matches_may_stand_side_by_side_in_a_list():
    def build(call, a, b):
        first = call(aten.relu.default, (a,))
        second = call(aten.relu.default, (first,))
        third = call(aten.relu.default, (b,))
        return call(aten.cat.default, ([first, second, third, second],))

    gm = _graph(build, "a", "b")
    expected = gm(X, Y)
    rule = "rule r once { y = relu(x) => y' = aten.clamp.default(x, 0) }"
    assert _apply(gm, rule) == 3
    assert torch.equal(gm(X, Y), expected)
    assert not gm.graph.find_nodes(op="call_function", target=aten.relu.default)


# --- what a pattern may name ---


def test_commuted_operands_match():
    def build(call, x, y):
        return call(aten.add.Tensor, (y, call(aten.relu.default, (x,))))

    gm = _graph(build, "x", "y")
    peer = copy.deepcopy(gm)
    rule = "rule r { z = add(relu(x), y) => z' = aten.maximum.default(x + y, y) }"
    assert _apply(gm, rule) == 1
    torch.testing.assert_close(gm(X, Y), X.relu() + Y)

    matches = replace_pattern(
        peer,
        lambda x, y: aten.add.Tensor(aten.relu.default(x), y),
        lambda x, y: aten.maximum.default(aten.add.Tensor(x, y), y),
    )
    assert matches == []


def test_operands_of_a_scaled_sum_do_not_commute():
    def build(call, x, y):
        return call(aten.add.Tensor, (y, call(aten.relu.default, (x,))), {"alpha": 2})

    gm = _graph(build, "x", "y")
    rule = "rule r { z = add(relu(x), y, alpha=$a) => z' = x }"
    assert _apply(gm, rule) == 0


def test_two_names_may_bind_one_value():
    gm = _graph(lambda call, x: call(aten.add.Tensor, (x, x)), "x")
    peer = copy.deepcopy(gm)
    assert _apply(gm, "rule r { z = add(x, y) => z' = sub(x, neg(y)) }") == 1
    torch.testing.assert_close(gm(X), 2 * X)

    matches = replace_pattern(
        peer,
        lambda x, y: aten.add.Tensor(x, y),
        lambda x, y: aten.sub.Tensor(x, aten.neg.default(y)),
    )
    assert matches == []


def test_one_name_does_not_bind_two_values():
    gm = _graph(lambda call, x, y: call(aten.add.Tensor, (x, y)), "x", "y")
    assert _apply(gm, "rule r { z = add(x, x) => z' = mul(x, 2) }") == 0


@pytest.mark.parametrize("name", ["out", "self", "input", "args", "kwargs", "output"])
def test_a_value_may_have_the_name_of_a_parameter(name):
    gm = _graph(lambda call, x: call(aten.relu.default, (x,)), "x")
    rule = f"rule r {{ y = relu({name}) => y' = aten.clamp.default({name}, 0) }}"
    assert _apply(gm, rule) == 1
    assert torch.equal(gm(X), X.relu())


class Scaled(nn.Module):
    """`x` times a buffer of `length` elements."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(length))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.mul(x, self.scale)


@pytest.mark.parametrize(("length", "matches"), [(3, 1), (5, 0)])
def test_a_constant_of_another_shape_does_not_match(length, matches):
    gm = torch.fx.symbolic_trace(Scaled(length))
    rule = "rule r { y = mul(x, w) where w is const, w: [3] => y' = relu(x) }"
    assert _apply(gm, rule) == matches


def test_peer_takes_a_constant_of_another_shape():
    gm = torch.fx.symbolic_trace(Scaled(5))
    replaced = replace_pattern(gm, Scaled(3), lambda x: torch.relu(x))
    assert len(replaced) == 1


# --- several outputs ---


def _relu_before_neg(call, x: Node) -> tuple[Node, Node]:
    first = call(aten.relu.default, (x,))
    return first, call(aten.neg.default, (call(aten.abs.default, (first,)),))


def test_outputs_without_a_common_value_are_two_rules():
    both = """
    rule r {
      y = relu(x) z = neg(w)
    =>
      y' = aten.clamp.default(x, 0) z' = aten.mul.Tensor(w, -1)
    }
    """
    with pytest.raises(RuleError, match="E503"):
        loads(both)

    gm = _graph(_relu_before_neg, "x")
    peer, expected = copy.deepcopy(gm), gm(X)
    rules = """
    rule first { y = relu(x) => y' = aten.clamp.default(x, 0) }
    rule second { y = neg(x) => y' = aten.mul.Tensor(x, -1) }
    """
    assert _apply(gm, rules) == 2
    torch.testing.assert_close(gm(X), expected)

    matches = replace_pattern(
        peer,
        lambda x, w: (aten.relu.default(x), aten.neg.default(w)),
        lambda x, w: (aten.clamp.default(x, 0), aten.mul.Tensor(w, -1)),
    )
    assert matches == []


# --- metadata ---


def _exported() -> GraphModule:
    return torch.export.export(nn.ReLU(), (X,)).module()


def test_new_nodes_have_a_val():
    gm, peer = _exported(), _exported()
    rule = "rule r { y = relu(x) => y' = aten.clamp.default(neg(neg(x)), 0) }"
    assert _apply(gm, rule) == 1
    vals = [node.meta["val"] for node in _calls(gm)]
    assert [(val.shape, val.dtype) for val in vals] == [(X.shape, X.dtype)] * 3
    assert len({id(node.meta) for node in _calls(gm)}) == 3

    replace_pattern(
        peer, lambda x: aten.relu.default(x), lambda x: aten.clamp.default(x, 0)
    )
    assert all("val" not in node.meta for node in _calls(peer))
