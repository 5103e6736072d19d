"""Plain rewrites leave what a closer look leaves, and refuse what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
import torch._inductor.config
from torch import fx
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from rewrite_engine import engine, loads
from rewrite_engine.rewriting import driver
from rewrite_engine.rewriting.driver import Driver
from rewrite_engine.rewriting.reaches import Reach, Unrepeatable
from rewrite_engine.ruleset import RuleSet
from tests.graphs import snapshot
from tests.matching.test_matchers import random_graph
from tests.rewriting.test_equal_matches import described

aten = torch.ops.aten


@attrs.define
class Place:
    """Where calls are added to a graph."""

    graph: fx.Graph
    x: fx.Node
    y: fx.Node

    def __call__(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = self.graph.call_function(target, args, kwargs)
        node.meta["stack_trace"] = f"line of {node}"
        return node


Build = Callable[[Place], fx.Node]


def places(*builds: Build, records: str = "fake") -> fx.GraphModule:
    graph, results = fx.Graph(), []
    for i, build in enumerate(builds):
        x, y = graph.placeholder(f"x{i}"), graph.placeholder(f"y{i}")
        results.append(build(Place(graph, x, y)))
    graph.output(tuple(results))
    gm = fx.GraphModule(torch.nn.Module(), graph)
    if records == "fake":
        FakeTensorProp(gm).propagate(*[torch.ones(4, 4)] * 2 * len(builds))
    elif records == "real":  # from which nothing is derived
        for node in graph.nodes:
            node.meta["val"] = torch.ones(4, 4)
    return gm


def usual(p: Place) -> fx.Node:
    return p(aten.add.Tensor, p(aten.relu.default, p.x), p.y)


def of_a_computed_value(p: Place) -> fx.Node:
    return p(aten.add.Tensor, p(aten.relu.default, p.x), p(aten.neg.default, p.y))


def of_an_effect(p: Place) -> fx.Node:
    noise = p(aten.bernoulli.default, p.y)
    return p(aten.add.Tensor, p(aten.relu.default, p.x), noise)


def read_outside(p: Place) -> fx.Node:
    inner = p(aten.relu.default, p.x)
    return p(aten.mul.Tensor, p(aten.add.Tensor, inner, p.y), inner)


def written_between(p: Place) -> fx.Node:
    inner = p(aten.relu.default, p.x)
    p(aten.add_.Tensor, p.x, 1)
    return p(aten.add.Tensor, inner, p.y)


def written_elsewhere(p: Place) -> fx.Node:
    p(aten.add_.Tensor, p.y, 1)
    return usual(p)


def read_by_many(p: Place) -> fx.Node:
    result = usual(p)
    return p(aten.mul.Tensor, p(aten.neg.default, result), result)


def twice(p: Place) -> fx.Node:
    return p(aten.neg.default, p(aten.neg.default, p(aten.exp.default, p.x)))


def twice_and_written(p: Place) -> fx.Node:
    value = p(aten.exp.default, p.x)
    result = p(aten.neg.default, p(aten.neg.default, value))
    p(aten.add_.Tensor, value, 1)
    return p(aten.mul.Tensor, result, p.y)


def seen_otherwise(p: Place) -> fx.Node:
    return p(aten.exp.default, p(aten.view.default, p.x, [2, 8]))


def seen_otherwise_and_written(p: Place) -> fx.Node:
    viewed = p(aten.view.default, p.x, [2, 8])
    p(aten.add_.Tensor, p.x, 1)
    return p(aten.exp.default, viewed)


def seen_at_the_end(p: Place) -> fx.Node:
    return p(aten.view.default, p(aten.exp.default, p.x), [2, 8])


def seen_at_the_end_and_written(p: Place) -> fx.Node:
    result = seen_at_the_end(p)
    p(aten.add_.Tensor, result, 1)
    return result


def without_a_relu(p: Place) -> fx.Node:
    return p(aten.add.Tensor, p.x, p.y)


def product(p: Place) -> fx.Node:
    return p(aten.mul.Tensor, p(aten.relu.default, p.x), p(aten.neg.default, p.y))


def product_the_other_way(p: Place) -> fx.Node:
    second = p(aten.neg.default, p.y)
    return p(aten.mul.Tensor, p(aten.relu.default, p.x), second)


def product_of_one(p: Place) -> fx.Node:
    return p(aten.mul.Tensor, p(aten.relu.default, p.x), p(aten.neg.default, p.x))


def with_keywords(p: Place) -> fx.Node:
    return p(aten.sub.Tensor, p(aten.relu.default, p.x), p.y, alpha=2)


SUM = "y = add(relu(a), b) => y' = sigmoid(a)"
NEGATED = "y = neg(neg(a)) => y' = a"
VIEWED = "y = exp(view(a, $s)) => v = exp(a)  y' = neg(neg(view(v, $s)))"
PRODUCT = "y = mul(relu(a), neg(b)) => y' = sub(a, b)"
CASES: dict[str, tuple[str, list[Build], int]] = {
    "calls": (SUM, [usual] * 4, 3),
    "what only they read": (SUM, [of_a_computed_value] * 3, 2),
    "an effect that only they read": (SUM, [of_an_effect] * 3, 2),
    "readers outside": (SUM, [usual, read_outside, usual], 1),
    "a write between": (SUM, [usual, written_between, usual], 1),
    "a write elsewhere": (SUM, [usual, written_elsewhere, usual], 2),
    "many readers": (SUM, [usual, read_by_many, read_by_many], 2),
    "a value in place": (NEGATED, [twice] * 3, 2),
    "a value written later": (NEGATED, [twice, twice_and_written, twice], 1),
    "views": (VIEWED, [seen_otherwise] * 3, 2),
    "a view written between": (
        VIEWED,
        [seen_otherwise, seen_otherwise_and_written, seen_otherwise],
        1,
    ),
    "a view that is replaced": (
        "y = view(exp(a), $s) => y' = exp(view(a, $s))",
        [seen_at_the_end, seen_at_the_end_and_written, seen_at_the_end],
        0,
    ),
    "a view that replaces": (
        "y = exp(view(a, $s)) => y' = view(exp(a), $s)",
        [seen_otherwise, seen_otherwise],
        0,
    ),
    "an option that is not there": (
        "y = add(relu?(a), b) => y' = sigmoid(a)",
        [without_a_relu] * 3,
        2,
    ),
    "two orders": (PRODUCT, [product, product_the_other_way] * 2, 2),
    "one operand": (PRODUCT, [product, product_of_one] * 2, 2),
    "keywords": (
        "y = sub(relu(a), b, alpha=$k) => y' = add(a, b, alpha=$k)",
        [with_keywords] * 3,
        2,
    ),
    "a keeping rule": (
        "y = neg(a)  z = relu(y) => keep y  z' = sigmoid(y)",
        [lambda p: p(aten.relu.default, p(aten.neg.default, p.x))] * 3,
        0,
    ),
    "a describing rule": (
        "y = add(relu(a), b) => y' = sigmoid(a)  meta y' <- y { stack_trace }",
        [usual] * 3,
        0,
    ),
}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The rewrites that were plain."""
    found: list[object] = []
    repeat = Driver._repeat

    def counted(self: Driver, place: Any) -> Any:
        change = repeat(self, place)
        if change is not None:
            found.append(change)
        return change

    monkeypatch.setattr(Driver, "_repeat", counted)
    return found


def looked_at_closely(gm: fx.GraphModule, rules: RuleSet) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Driver, "_repeat", lambda self, place: None)
        return engine.apply(gm, rules).report


@pytest.mark.parametrize("records", ["fake", "real", "none"])
@pytest.mark.parametrize("name", CASES)
def test_plain_rewrites(name: str, records: str, plain: list[object]) -> None:
    rule, builds, count = CASES[name]
    rules = loads(f"rule r once {{ {rule} }}")
    gm = places(*builds, records=records)
    closely, plainly = copy.deepcopy(gm), copy.deepcopy(gm)
    expected = looked_at_closely(closely, rules)
    assert not plain
    rules = loads(f"rule r once {{ {rule} }}")
    report = engine.apply(plainly, rules).report
    assert len(plain) == count
    assert report.matches == expected.matches
    assert report.refusals == expected.refusals
    assert described(plainly) == described(closely)
    plainly.graph.lint()


@pytest.mark.parametrize("is_program", [True, False])
def test_values_in_place_of_calls_of_modules(
    is_program: bool, plain: list[object]
) -> None:
    model = torch.nn.Sequential(*[torch.nn.ReLU() for _ in range(6)])
    program = torch.export.export(model, (torch.ones(2),))
    gm = program if is_program else program.module()
    rules = loads("rule r once { y = relu(relu(a)) => y' = a }")
    assert engine.apply(gm, rules).report.matches == 3
    assert len(plain) == 2


class Scaled(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x) + y


class Layer(torch.nn.Module):
    """The matched calls of two modules, and a call of a third one between them."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.between = torch.nn.ReLU(), torch.nn.Hardswish()
        self.scaled = Scaled()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.relu(x)
        return self.scaled(inner, self.between(x))


def test_new_nodes_of_programs_stand_where_their_module_runs(
    plain: list[object],
) -> None:
    model = torch.nn.Sequential(*[Layer() for _ in range(3)])
    rule = """rule r once {
      y = add(sigmoid(relu(a)), b)
    =>
      t = neg(a)
      y' = sub(t, b)
    }"""
    closely, plainly = (torch.export.export(model, (torch.ones(2),)) for _ in "ab")
    modules = closely.module(), plainly.module()
    looked_at_closely(closely, loads(rule))
    engine.apply(plainly, loads(rule))
    assert len(plain) == 2
    assert described(plainly.graph_module) == described(closely.graph_module)
    stacks = [node.meta.get("nn_module_stack", {}) for node in plainly.graph.nodes]
    paths = [path for path, _ in [[*stack.values()][-1] for stack in stacks if stack]]
    parts = ("relu", "between", "scaled")
    assert paths == [f"{layer}.{part}" for layer in range(3) for part in parts]
    looked_at_closely(modules[0], loads(rule))
    engine.apply(modules[1], loads(rule))
    assert len(plain) == 4
    assert described(modules[1]) == described(modules[0])


RULES = """
rule option { z = mul(relu?(x), sub(y, _) | y) => z' = sub(x, y) }
rule shared { z = add(A@(relu(x) | neg(x)), mul?(x, y)) => z' = A(x) }
rule chain { z = neg(relu^*(x)) => z' = sigmoid(x) }
rule twice { z = sigmoid(sigmoid(x)) => z' = x }
"""


@pytest.mark.parametrize("seed", range(20))
def test_random_graphs(seed: int, plain: list[object]) -> None:
    gm, rules = random_graph(seed, size=120), loads(RULES)
    closely, plainly = copy.deepcopy(gm), copy.deepcopy(gm)
    expected = looked_at_closely(closely, rules)
    report = engine.apply(plainly, rules).report
    assert len(plain) > 5
    assert report.matches == expected.matches
    assert report.refusals == expected.refusals
    assert described(plainly) == described(closely)


def test_a_run_that_fails_takes_them_back(
    monkeypatch: pytest.MonkeyPatch, plain: list[object]
) -> None:
    gm, rules = places(*[of_a_computed_value, twice] * 3), loads(f"rule r {{ {SUM} }}")

    def fails(self: Driver) -> None:
        raise KeyboardInterrupt

    before = snapshot(gm)
    monkeypatch.setattr(driver.Driver, "commit", fails)
    with pytest.raises(KeyboardInterrupt):
        engine.apply(gm, rules)
    assert len(plain) == 2
    assert snapshot(gm) == before


@pytest.mark.parametrize("looks", ["guard", "annotations"])
def test_whoever_must_be_told_is_told(looks: str, plain: list[object]) -> None:
    gm, rules = places(*[usual] * 3), loads(f"rule r {{ {SUM} }}")
    if looks == "guard":
        report = engine.apply(gm, rules, guard=lambda match: None).report
    else:
        next(iter(gm.graph.nodes)).meta["quantization_annotation"] = object()
        report = engine.apply(gm, rules).report
    assert (report.matches, plain) == (3, [])


class Gates(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(4):
            x = torch.relu(x) + 1
        return x


def test_decomposed_programs(plain: list[object]) -> None:
    program = torch.export.export(Gates(), (torch.randn(2, 3),)).run_decompositions()
    assert any("seq_nr" in node.meta for node in program.graph.nodes)
    rules = loads("rule r once { y = add(relu(x), $k) => y' = sub(relu(x), -$k) }")
    assert engine.apply(program, rules).report.matches == 4
    assert len(plain) == 3
    program.validate()


def test_compiled_graphs(plain: list[object]) -> None:
    rules = loads("rule r once { y = add(relu(x), $k) => y' = sub(relu(x), -$k) }")
    x = torch.randn(2, 3, requires_grad=True)
    # Code that an earlier run compiled would be taken without a look at the graph.
    fresh = torch._inductor.config.patch(force_disable_caches=True)
    with fresh, rules.inductor_pass():
        found = torch.compile(Gates(), backend="inductor")(x)
    assert len(plain) == 3
    torch.testing.assert_close(found, Gates()(x))


def test_reaches_are_bounded() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    call = graph.call_function(aten.cat.default, ([x] * 201,))
    with pytest.raises(Unrepeatable):
        Reach.of(call, {call}, lambda node: True)
