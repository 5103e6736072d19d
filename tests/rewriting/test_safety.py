"""What a rewrite must not do, and the reason it gives for not doing it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch.ao.quantization import MinMaxObserver

from rewrite_engine import engine, loads
from tests.graphs import graph_of

aten = torch.ops.aten
Body = Callable[..., Any]

MERGE = """
rule merge {
  y = relu(x)
  z = mul(y, $k)
=>
  z' = leaky_relu(mul(x, $k), 0.0)
}
"""


def reasons(rules: str, body: Body) -> list[str]:
    result = engine.apply(graph_of(body), loads(rules))
    result.graph_module.graph.lint()
    return [refusal.reason for refusal in result.report.refusals]


def test_nothing_in_the_way_is_rewritten() -> None:
    assert (
        reasons(
            MERGE,
            lambda f, x, w: f(aten.mul.Tensor, (f(aten.relu.default, (x,)), 2.0)),
        )
        == []
    )


def outside_reader(f: Any, x: Any, w: Any) -> Any:
    y = f(aten.relu.default, (x,))
    return f(aten.mul.Tensor, (y, 2.0)), f(aten.neg.default, (y,))


def write_between(f: Any, x: Any, w: Any) -> Any:
    y = f(aten.relu.default, (x,))
    f(aten.add_.Tensor, (x, 1.0))
    return f(aten.mul.Tensor, (y, 2.0))


def write_through_a_view(f: Any, x: Any, w: Any) -> Any:
    view = f(aten.view.default, (x, [-1]))
    y = f(aten.relu.default, (x,))
    f(aten.add_.Tensor, (view, 1.0))
    return f(aten.mul.Tensor, (y, 2.0))


def write_to_the_inner_value(f: Any, x: Any, w: Any) -> Any:
    y = f(aten.relu.default, (x,))
    f(aten.add_.Tensor, (y, 1.0))
    return f(aten.mul.Tensor, (y, 2.0))


def unknown_call_between(f: Any, x: Any, w: Any) -> Any:
    y = f(aten.relu.default, (x,))
    f(print, (w,))
    return f(aten.mul.Tensor, (y, 2.0))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (outside_reader, "is also read by 'neg_default'"),
        (write_between, "'add__tensor' may write"),
        (write_through_a_view, "'add__tensor' may write"),
        (write_to_the_inner_value, "is also read by 'add__tensor'"),
        (unknown_call_between, "'print_1' may write"),
    ],
)
def test_a_match_is_refused_with_its_cause(body: Body, reason: str) -> None:
    (given,) = reasons(MERGE, body)
    assert reason in given


def test_a_write_elsewhere_is_no_obstacle() -> None:
    def body(f: Any, x: Any, w: Any) -> Any:
        y = f(aten.relu.default, (x,))
        f(aten.add_.Tensor, (w, 1.0))
        return f(aten.mul.Tensor, (y, 2.0))

    # Graph inputs are different tensors.
    assert reasons(MERGE, body) == []


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("y = relu(x)  z = neg(y) => y' = sin(x)  keep z", ["x", "w", "sin", "neg"]),
        (
            "y = relu(x)  z = mul(x, w) => y' = sin(x)  z' = add(x, w)",
            ["x", "w", "neg", "sin", "add"],
        ),
    ],
    ids=["in front of a root that stays", "in front of the last root"],
)
def test_where_new_nodes_go(rule: str, expected: list[str]) -> None:
    def body(f: Any, x: Any, w: Any) -> Any:
        y = f(aten.relu.default, (x,))
        if "mul" not in rule:
            return f(aten.neg.default, (y,))
        other = f(aten.neg.default, (x,))
        return y, f(aten.mul.Tensor, (x, w)), other

    gm = graph_of(body)
    assert engine.apply(gm, loads(f"rule r once {{ {rule} }}")).modified
    names = [node.name.partition("_")[0] for node in gm.graph.nodes]
    assert names == [*expected, "output"]


def test_keep_allows_other_readers() -> None:
    rules = MERGE.replace("=>", "=>\n  keep y")
    gm = graph_of(outside_reader)
    assert engine.apply(gm, loads(rules)).report.matches == 1
    gm.graph.lint()
    x = torch.randn(4)
    product, negative = gm(x, x)
    assert torch.equal(product, x.relu() * 2) and torch.equal(negative, -x.relu())


DROPOUT = """
rule halve { z = add(dropout(x, $p, true), dropout(x, $p, true)) => z' = mul(x, 2.0) }
"""


def test_random_calls_are_not_dropped() -> None:
    def body(f: Any, x: Any, w: Any) -> Any:
        drops = [f(aten.dropout.default, (x, 0.5, True)) for _ in range(2)]
        return f(aten.add.Tensor, tuple(drops))

    (given,) = reasons(DROPOUT, body)
    assert "would be lost or repeated" in given


def test_erase_says_that_an_effect_may_go() -> None:
    rules = """
    rule drop { z = dropout(x, $p, true) => z' = clone(x)  erase z }
    """

    def body(f: Any, x: Any, w: Any) -> Any:
        return f(aten.dropout.default, (x, 0.5, True))

    gm = graph_of(body)
    assert engine.apply(gm, loads(rules)).report.matches == 1
    assert [n.target for n in gm.graph.nodes if n.op == "call_function"] == [
        aten.clone.default
    ]


def test_what_is_read_is_not_erased() -> None:
    """It would stay, be found again in every sweep, and counted as rewritten."""
    rules = "rule drop { z = dropout(x, $p, true) => erase z }"

    def body(f: Any, x: Any, w: Any) -> Any:
        f(aten.dropout.default, (w, 0.5, True))
        return f(aten.dropout.default, (x, 0.5, True))

    gm = graph_of(body)
    report = engine.apply(gm, loads(rules)).report
    assert report.matches == 1
    (given,) = report.refusals
    assert given.reason == "'dropout_default_1' is read by 'output', and stays"
    (left,) = gm.graph.find_nodes(op="call_function", target=aten.dropout.default)
    assert left.args[0].name == "x"


@pytest.mark.parametrize(
    "left", ["z = relu(n) | relu(x)\n n = neg(x)", "z = relu(n@neg?(x))"]
)
@pytest.mark.parametrize("is_there", [True, False])
def test_what_may_be_absent_or_is_captured_is_erased(left: str, is_there: bool) -> None:
    def body(f: Any, x: Any, w: Any) -> Any:
        return f(aten.relu.default, (f(aten.neg.default, (x,)) if is_there else x,))

    gm = graph_of(body)
    rules = f"rule r {{ {left} => z' = tanh(x)  erase n }}"
    assert engine.apply(gm, loads(rules)).report.matches == 1
    (call,) = gm.graph.find_nodes(op="call_function", target=aten.tanh.default)
    assert call.args[0].name == "x"
    assert not gm.graph.find_nodes(op="call_function", target=aten.neg.default)


def test_what_takes_the_place_of_another_value_is_not_erased() -> None:
    def body(f: Any, x: Any, w: Any) -> Any:
        f(aten.relu.default, (f(aten.neg.default, (x,)),))  # which nobody reads
        return x

    given = reasons("rule r { n = neg(x) z = relu(n) => z' = n  erase n }", body)
    assert given == ["'neg_default' takes another's place, and stays"]


def test_a_writing_call_does_not_move_past_a_reader() -> None:
    rules = """
    rule r {
      y = aten.relu_.default(x)
      z = add(y, $k)
    =>
      y' = aten.relu_.default(x, ..y)
      z' = add(y', $k)
    }
    """

    def body(f: Any, x: Any, w: Any) -> Any:
        y = f(aten.relu_.default, (x,))
        total = f(aten.sum.default, (x,))
        return f(aten.add.Tensor, (y, 2.0)), total

    (given,) = reasons(rules, body)
    assert "would move past 'sum_default'" in given


OBSERVE_LATER = """
op observer = ao.MinMaxObserver
rule r once { y = N@observer(x, ..)  z = relu(y) => z' = neg(N(x)) }
"""


def observed(between: Callable[[fx.Graph, fx.Node, fx.Node], fx.Node]) -> list[str]:
    """Why an observer does not move past what stands between it and the relu."""
    root = torch.nn.Module()
    root.seen, root.other = MinMaxObserver(), MinMaxObserver()
    graph = fx.Graph()
    x = graph.placeholder("x")
    y = graph.call_module("seen", (x,))
    read = between(graph, x, y)
    graph.output((graph.call_function(aten.relu.default, (y,)), read))
    gm = fx.GraphModule(root, graph)
    return [
        each.reason for each in engine.apply(gm, loads(OBSERVE_LATER)).report.refusals
    ]


def test_observers_move_past_one_another() -> None:
    assert observed(lambda graph, x, y: graph.call_module("other", (x,))) == []


def test_an_observer_does_not_move_past_a_second_call_of_it() -> None:
    (given,) = observed(lambda graph, x, y: graph.call_module("seen", (x,)))
    assert given == "'seen_1' may write what 'seen' reads, in between"


def test_an_observer_does_not_move_past_what_reads_its_state() -> None:
    (given,) = observed(lambda graph, x, y: graph.get_attr("seen.max_val"))
    assert given == "the effect of 'seen' would move past 'seen_max_val'"


def test_an_identity_is_not_exposed_to_later_writes() -> None:
    rules = "rule identity { z = add(x, 0) => z' = x }"

    def written_later(f: Any, x: Any, w: Any) -> Any:
        z = f(aten.add.Tensor, (x, 0))
        return f(aten.add_.Tensor, (z, 1.0))

    (given,) = reasons(rules, written_later)
    assert "may write the storage of" in given
    assert reasons(rules, lambda f, x, w: f(aten.add.Tensor, (x, 0))) == []


def test_writes_follow_a_replaced_value() -> None:
    """A later match must see who writes the node that an earlier one put there."""
    rules = """
    rule negate once { y = neg(x) => y' = mul(x, -1.0) }
    rule late once { t = exp(sigmoid(v)) => t' = exp(sigmoid(v)) }
    """

    def body(f: Any, x: Any, w: Any) -> Any:
        y = f(aten.neg.default, (x,))
        s = f(aten.sigmoid.default, (y,))
        f(aten.add_.Tensor, (y, 1.0))
        return f(aten.exp.default, (s,))

    gm = graph_of(body)
    x = torch.randn(5)
    expected = gm(x, x)
    result = engine.apply(gm, loads(rules))
    (refusal,) = result.report.refusals
    assert "'add__tensor' may write" in refusal.reason
    assert torch.equal(gm(x, x), expected)


def test_another_result_type_is_refused() -> None:
    rules = "rule flat { z = relu(x) => z' = reshape(x, [-1]) }"

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x)

    program = torch.export.export(Model(), (torch.randn(2, 3),))
    gm = program.module()
    before = str(gm.graph)
    result = engine.apply(gm, loads(rules))
    (refusal,) = result.report.refusals
    assert "does not fit" in refusal.reason
    assert str(gm.graph) == before and not result.modified


def random_calls(f: Any, x: Any, w: Any) -> Any:
    y = f(aten.bernoulli.default, (x,))
    z = f(aten.bernoulli.default, (w,))
    return f(aten.mul.Tensor, (y, 1.0)), z


@pytest.mark.parametrize(
    ("right", "expected"),
    [
        ("m' = y keep y", []),
        (
            "m' = neg(aten.bernoulli.default(x))",
            ["the effect of 'bernoulli_default' would move past 'bernoulli_default_1'"],
        ),
    ],
)
def test_an_effect_moves_only_if_something_is_built(
    right: str, expected: list[str]
) -> None:
    left = "y = aten.bernoulli.default(x) m = mul(y, 1.0)"
    assert reasons(f"rule r {{ {left} => {right} }}", random_calls) == expected


def test_two_roots_are_two_nodes() -> None:
    twice = "rule r once { a = neg(x)  b = neg(x) => a' = abs(x)  b' = tanh(x) }"
    found = reasons(twice, lambda f, x, w: f(aten.neg.default, (x,)))
    assert found == ["two roots of the pattern are one node"]


def test_a_root_is_no_inner_node_of_another() -> None:
    text = "rule r once { a = relu(x)  b = relu(relu(x)) => a' = abs(x)  b' = tanh(x) }"
    (found,) = reasons(
        text, lambda f, x, w: f(aten.relu.default, (f(aten.relu.default, (x,)),))
    )
    assert "is also an inner node of the match" in found
