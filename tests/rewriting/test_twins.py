"""What is found without a search is what a search finds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

from benches import models
from rewrite_engine import engine, load, loads
from rewrite_engine.graph_text import graph_text
from rewrite_engine.matching import matcher
from rewrite_engine.rewriting.equal_matches import EqualMatches
from rewrite_engine.ruleset import RuleSet
from tests.matching.test_matchers import random_graph

aten = torch.ops.aten
Calls = Callable[[fx.Graph, fx.Node, fx.Node], fx.Node]


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The anchors of all searches."""
    found: list[object] = []

    class Counting(matcher.Machine):
        def run(self, entry: Any, registers: Any) -> bool:
            found.append(registers[0])
            return super().run(entry, registers)

    monkeypatch.setattr(matcher, "Machine", Counting)
    return found


def sites(*calls: Calls) -> fx.GraphModule:
    """A graph with a site of each kind, on values of its own."""
    graph, root = fx.Graph(), torch.nn.Module()
    root.register_buffer("c", torch.ones(2, 3))
    results = []
    for index, build in enumerate(calls):
        x, y = graph.placeholder(f"x{index}"), graph.placeholder(f"y{index}")
        x.meta["val"], y.meta["val"] = torch.ones(2, 3), torch.ones(2, 3)
        results.append(build(graph, x, y))
    graph.output(tuple(results))
    return fx.GraphModule(root, graph)


def searched(gm: fx.GraphModule, rules: RuleSet) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EqualMatches, "find", lambda self, rule, anchor: None)
        return engine.apply(gm, rules)


def call(target: Any, dtype: torch.dtype | None = None) -> Callable[..., Calls]:
    """A call on the values of other calls, which get graph, x and y."""

    def of(*args: Any, **kwargs: Any) -> Calls:
        def build(graph: fx.Graph, x: fx.Node, y: fx.Node) -> fx.Node:
            def operand(arg: Any) -> Any:
                return arg(graph, x, y) if callable(arg) else arg

            named = {name: operand(arg) for name, arg in kwargs.items()}
            node = graph.call_function(target, tuple(map(operand, args)), named)
            node.meta["val"] = torch.ones(2, 3, dtype=dtype)
            return node

        return build

    return of


def X(graph: fx.Graph, x: fx.Node, y: fx.Node) -> fx.Node:  # noqa: N802 - a value
    return x


def Y(graph: fx.Graph, x: fx.Node, y: fx.Node) -> fx.Node:  # noqa: N802 - a value
    return y


def half(graph: fx.Graph, x: fx.Node, y: fx.Node) -> fx.Node:
    other = graph.placeholder(f"{x.name}_half")
    other.meta["val"] = torch.ones(2, 3, dtype=torch.float16)
    return other


def constant(graph: fx.Graph, x: fx.Node, y: fx.Node) -> fx.Node:
    return graph.get_attr("c")


def read_twice(graph: fx.Graph, x: fx.Node, y: fx.Node) -> fx.Node:
    inner = relu(X)(graph, x, y)
    neg(lambda *_: inner)(graph, x, y)
    return add(lambda *_: inner, Y)(graph, x, y)


def read_elsewhere(graph: fx.Graph, x: fx.Node, y: fx.Node) -> fx.Node:
    neg(Y)(graph, x, y)
    return add(relu(X), Y)(graph, x, y)


relu, neg = call(aten.relu.default), call(aten.neg.default)
add, mul = call(aten.add.Tensor), call(aten.mul.Tensor)
view = call(aten.view.default)
clamp, relu16 = call(aten.clamp.default), call(aten.relu.default, torch.float16)


def cat(*parts: Calls) -> Calls:
    return lambda *values: call(aten.cat.default)([part(*values) for part in parts])(
        *values
    )


SITES = {
    "equal": ("y = add(relu(a), b)", add(relu(X), Y), add(relu(X), Y)),
    "other": ("y = add(relu(a), b)", add(relu(X), Y), add(neg(X), Y)),
    "order": ("y = add(relu(a), b)", add(relu(X), Y), add(Y, relu(X))),
    "shared": ("y = add(relu(a), a)", add(relu(X), X), add(relu(X), Y)),
    "unshared": ("y = add(relu(a), b)", add(relu(X), Y), add(relu(X), X)),
    "literal": ("y = add(relu(a), 1)", add(relu(X), 1), add(relu(X), 2)),
    "kind": ("y = add(relu(a), $k)", add(relu(X), 1), add(relu(X), 1.0)),
    "keyword": ("y = add(a, b)", add(X, Y), add(X, Y, alpha=2)),
    "name of a keyword": (
        "y = aten.clamp.default(relu(a), min=$m)",
        clamp(relu(X), min=0.5),
        clamp(relu(X), max=0.5),
    ),
    "empty list": (
        "y = aten.view.default(relu(a), $s)",
        view(relu(X), []),
        view(relu(X), [6]),
    ),
    "option": ("y = add(relu?(a), b)", add(X, Y), add(relu(X), Y)),
    "no option": ("y = add(relu?(a), b)", add(relu(X), Y), add(X, Y)),
    "below": ("y = relu(relu(neg(a)) | a)", relu(relu(X)), relu(relu(neg(X)))),
    "constant": (
        "y = add(relu(a), b)\n where b is const",
        add(relu(X), constant),
        add(relu(X), Y),
    ),
    "computed": (
        "y = add(relu(a), b)\n where b is const",
        add(relu(X), constant),
        add(relu(X), neg(Y)),
    ),
    "dtype": ("y = add(a, b)\n where b: f32", add(X, Y), add(X, half)),
    "failed guard": (
        "y = neg(relu(t)) | neg(t)\n where t: f16",
        neg(relu(X)),
        neg(relu(half)),
    ),
    "failed guard, and another way": (
        "y = neg(relu(t)) | neg(t)\n where t: f16",
        neg(relu16(X)),
        neg(relu16(half)),
    ),
    "outside reader": ("y = add(relu(a), b)", add(relu(X), Y), read_twice),
    "readers": (
        "y = add(relu(a), b)\n where uses(b) == 1",
        add(relu(X), Y),
        read_elsewhere,
    ),
    "deeper": (
        "y = neg(relu^*(a))",
        neg(relu(X)),
        neg(mul(X, X)),
        neg(relu(relu(X))),
    ),
    "capture": (
        "y = mul(N@(relu(a) | neg(a)), b)",
        mul(relu(X), Y),
        mul(neg(X), Y),
        mul(relu(Y), relu(X)),
    ),
    "capture, with a question about readers": (
        "y = mul(N@(relu(a) | neg(a)), b)\n where uses(b) == 1",
        mul(relu(X), Y),
        mul(relu(X), Y),
        mul(neg(X), X),
    ),
    "list": (
        "y = aten.cat.default([relu(a), *others])",
        cat(relu(X), Y),
        cat(relu(X), Y, X),
        cat(relu(Y)),
    ),
    "chain": (
        "y = relu^+(a)\n where rank(a) == 2",
        relu(relu(X)),
        relu(relu(relu(X))),
    ),
}


@pytest.mark.parametrize("name", SITES)
@pytest.mark.parametrize("turned", [False, True])
def test_a_second_place(name: str, turned: bool) -> None:
    left, *calls = SITES[name]
    free = "a" if "a)" in left or "a," in left else "t"
    rules = loads(f"rule r once {{ {left}\n => y' = sigmoid({free}) }}")
    gm = sites(*(calls[::-1] if turned else calls), *calls)
    expected = copy.deepcopy(gm)
    refusals = searched(expected, rules).report.refusals
    # Some of the places have been seen, then all; then each match is looked at.
    for guard in (None, None, lambda match: None):
        found = copy.deepcopy(gm)
        assert engine.apply(found, rules, guard=guard).report.refusals == refusals
        assert graph_text(found) == graph_text(expected)


RANDOM = """
rule chain once { z = neg(relu^*(x)) => z' = sigmoid(x) }
rule option once { z = mul(relu?(x), sub(y, _) | y) => z' = sub(x, y) }
rule shared once { z = add(A@(relu(x) | neg(x)), mul?(x, y)) => z' = A(x) }
rule literal once { z = sub(sigmoid(x) | x, $k) => z' = add(x, $k * 2) }
"""


@pytest.mark.parametrize("seed", range(10))
def test_random_graphs(seed: int) -> None:
    gm, rules = random_graph(seed, size=80), loads(RANDOM)
    expected = copy.deepcopy(gm)
    report = searched(expected, rules).report
    assert report.matches > 5
    for _ in range(2):
        found = copy.deepcopy(gm)
        assert engine.apply(found, rules).report.refusals == report.refusals
        assert graph_text(found) == graph_text(expected)


@pytest.mark.parametrize("library", ["qat_fuse", "bn_fold"])
def test_equal_layers_need_no_search(library: str, searches: list[object]) -> None:
    gm, rules = models.capture(*models.conv_bn_pairs(6)), load(library)
    expected = copy.deepcopy(gm)
    searched(expected, load(library))
    matches = engine.apply(copy.deepcopy(gm), rules).report.matches
    searches.clear()
    report = engine.apply(gm, rules).report
    assert report.matches == matches
    assert len(searches) == report.rules[0].candidates - matches
    assert graph_text(gm) == graph_text(expected)


def test_a_dynamic_size_is_another_one_elsewhere(searches: list[object]) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return x.sin().relu(), x.cos().relu(), x.sin().relu()

    batch = ({0: torch.export.Dim("batch", min=2, max=9)},)
    x = torch.ones(4, 3)
    program = torch.export.export(Model(), (x,), dynamic_shapes=batch)
    rules = loads("rule r once { y = relu(sin(x)) where x: [$N, _] => y' = neg(x) }")
    assert engine.apply(program, rules).report.matches == 2
    assert len(searches) == 2
    found = program.module()(torch.ones(5, 3))
    assert [value[0, 0].sign() for value in found] == [-1, 1, -1]


def test_a_second_place_in_a_graph_of_dynamic_sizes(searches: list[object]) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return x.sin().relu(), x.sin().relu()

    batch = ({0: torch.export.Dim("batch", min=2, max=9)},)
    program = torch.export.export(Model(), (torch.ones(4, 3),), dynamic_shapes=batch)
    rules = loads("rule r once { y = relu(sin(x)) where rank(x) == 2 => y' = neg(x) }")
    assert engine.apply(program, rules).report.matches == 2
    assert len(searches) == 1


def of_modules(*calls: tuple[str, torch.nn.Module | None]) -> fx.GraphModule:
    """Negates what modules give; None stands for a method of that name."""
    graph, root = fx.Graph(), torch.nn.Module()
    results = []
    for name, module in calls:
        args = (graph.placeholder(f"x{len(results)}"),)
        if module is None:
            called = graph.call_method(name, args)
        else:
            root.add_module(name, module)
            called = graph.call_module(name, args)
        results.append(graph.call_function(aten.neg.default, (called,)))
    graph.output(tuple(results))
    return fx.GraphModule(root, graph)


def test_what_modules_do_is_not_known_by_their_names() -> None:
    relu, sigmoid = torch.nn.ReLU(), torch.nn.Sigmoid()
    rules = loads("rule r once { y = neg(relu(a)) => y' = sigmoid(a) }")
    assert engine.apply(of_modules(("act", relu)), rules).report.matches == 1
    assert engine.apply(of_modules(("act", sigmoid)), rules).report.matches == 0
    gm = of_modules(("relu", None), ("relu", sigmoid), ("relu", None))
    assert engine.apply(gm, rules).report.matches == 2
    again = "z = neg(N@relu(a)) where uses(a) > 0 => z' = N(sigmoid(a))"
    gm = of_modules(("one", relu), ("other", relu))
    assert engine.apply(gm, loads(f"rule r once {{ {again} }}")).report.matches == 2
    called = gm.graph.find_nodes(op="call_module")
    assert [node.target for node in called] == ["one", "other"]


def test_a_guard_of_the_caller_is_asked_once_for_each_match() -> None:
    rules = loads("rule r once { y = add(relu(a), b) => y' = sigmoid(a) }")
    gm = sites(*[add(relu(X), Y)] * 4)
    asked: list[str] = []

    def guard(match: Any) -> str | None:
        asked.append(match.anchor.name)
        return "odd" if len(asked) % 2 else None

    report = engine.apply(gm, rules, guard=guard).report
    assert asked == [f"add_tensor{each}" for each in ("", "_1", "_2", "_3")]
    assert [refusal.reason for refusal in report.refusals] == ["odd", "odd"]
    assert report.matches == 2
