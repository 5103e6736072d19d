"""What is repeated for equal matches is what would be built for each of them."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

from benches import models
from rewrite_engine import engine, load, loads
from rewrite_engine.rewriting import driver, equal_matches, recipes
from rewrite_engine.rewriting.equal_matches import EqualMatches, Subject
from rewrite_engine.rewriting.outlines import Outline
from rewrite_engine.rewriting.reaches import Reach, Unrepeatable
from rewrite_engine.rewriting.values import ValueTypes
from rewrite_engine.ruleset import RuleSet
from rewrite_engine.tensor_types import type_of


@pytest.fixture
def repeated(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The matches that were repeated."""
    found: list[object] = []

    class Counting(EqualMatches):
        def repeat(self, subject: Any, before: fx.Node) -> Any:
            built = super().repeat(subject, before)
            if built is not None:
                found.append(built)
            return built

    def counted(self: driver.Driver, place: Any) -> Any:
        change = repeat(self, place)
        if change is not None:
            found.append(change)
        return change

    repeat = driver.Driver._repeat
    monkeypatch.setattr(driver, "EqualMatches", Counting)
    monkeypatch.setattr(driver.Driver, "_repeat", counted)
    return found


def described(gm: fx.GraphModule) -> list[Any]:
    return [(*_shape(node), *_metadata(node)) for node in gm.graph.nodes]


def _shape(node: fx.Node) -> tuple[Any, ...]:
    users = list(map(str, node.users))
    return node.name, node.op, node.target, str(node.args), str(node.kwargs), users


def _metadata(node: fx.Node) -> list[tuple[str, Any]]:
    return [(key, _plain(value)) for key, value in sorted(node.meta.items())]


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return type_of(value)
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return [_plain(item) for item in value]
    return re.sub(r"graph_id=\d+", "", str(value))


def built_one_by_one(gm: fx.GraphModule, rules: RuleSet) -> fx.GraphModule:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            EqualMatches, "recall", lambda self, match: Subject(match, None, None)
        )
        patch.setattr(EqualMatches, "find", lambda self, rule, anchor: None)
        engine.apply(gm, rules)
    return gm


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (lambda: models.conv_bn_pairs(6), 3),
        (lambda: models.resnet_like(14), 4),
        (lambda: models.mobilenet_like(blocks=4), 2),
    ],
    ids=["pairs", "resnet", "mobilenet"],
)
def test_equal_layers(
    build: Callable[[], models.Model], count: int, repeated: list[object]
) -> None:
    gm = models.capture(*build())
    expected = built_one_by_one(copy.deepcopy(gm), load("qat_fuse"))
    assert not repeated
    engine.apply(gm, load("qat_fuse"))
    assert len(repeated) >= count
    assert described(gm) == described(expected)
    assert gm.code == expected.code


def test_what_was_built_for_one_graph_is_repeated_on_another(
    repeated: list[object],
) -> None:
    gm = models.capture(*models.conv_bn_pairs(6))
    expected = built_one_by_one(copy.deepcopy(gm), load("qat_fuse"))
    rules = load("qat_fuse")
    matches = engine.apply(copy.deepcopy(gm), rules).report.matches
    repeated.clear()
    engine.apply(gm, rules)
    assert len(repeated) == matches
    assert described(gm) == described(expected)


@pytest.mark.parametrize(("first", "second"), [("static", "dynamic"), ("dynamic",) * 2])
def test_dynamic_sizes_are_of_one_graph(
    first: str, second: str, repeated: list[object]
) -> None:
    def exported(kind: str) -> fx.GraphModule:
        batch = {0: torch.export.Dim("batch", min=2, max=64)}
        shapes = (batch if kind == "dynamic" else {},)
        model, inputs = models.conv_bn_pairs(1)
        program = torch.export.export(model, inputs, dynamic_shapes=shapes)
        return program.module()

    rules = load("qat_fuse")
    engine.apply(exported(first), rules)
    repeated.clear()
    gm = exported(second)
    assert engine.apply(gm, rules).report.matches == 1
    assert not repeated


def test_repeated_values_are_views_of_their_own_operands() -> None:
    gm = models.capture(*models.conv_bn_pairs(6))
    engine.apply(gm, load("qat_fuse"))
    target = torch.ops.aten.reshape.default
    for node in gm.graph.find_nodes(op="call_function", target=target):
        base, value = node.args[0].meta["val"], node.meta["val"]
        assert value.untyped_storage()._cdata == base.untyped_storage()._cdata
    values = [n.meta["val"] for n in gm.graph.nodes if n.meta.get("val") is not None]
    assert len(set(map(id, values))) == len(values)


def traced(*scales: Any, x: torch.Tensor | None = None) -> fx.GraphModule:
    """A graph that scales `x` by each number, in calls of their own."""
    graph = fx.Graph()
    value = graph.placeholder("x")
    value.meta["val"] = torch.ones(2, 3) if x is None else x
    scaled = [
        graph.call_function(torch.ops.aten.mul.Tensor, (value, scale))
        for scale in scales
    ]
    for node in scaled:
        node.meta["val"] = value.meta["val"] * 1.0
    graph.output(tuple(scaled))
    return fx.GraphModule(torch.nn.Module(), graph)


SIGN = "rule r once { y = mul(x, $k) => y' = div(x, 1 / $k) }"
READERS = "rule r once { y = mul(x, $k) => y' = add(x, $k) if uses(x) > 2 else x }"
ASKING = "rule r once { y = mul(x, $k) where uses(x) > 0 => y' = add(x, $k) }"
CONST = "rule r once { y = mul(x, $k) => y' = neg(x) if x is const else relu(x) }"


@pytest.mark.parametrize(
    ("rule", "scales", "count"),
    [
        (SIGN, (2.0, 2.0, 2, True, 4.0, 2), 2),
        ("rule r once { y = mul(x, $k) => y' = add(x, $k) }", (0.0, -0.0, 0.0), 1),
        (ASKING, (2.0, 2.0, 2, True, 0.0, -0.0, 2, 0.0), 3),
        (READERS, (3, 3, 3, 3), 0),
        (CONST, (3, 3), 0),
    ],
    ids=[
        "literals by type",
        "signed zeros",
        "a question about readers",
        "readers",
        "constants",
    ],
)
def test_only_equal_matches_are_repeated(
    rule: str, scales: tuple[Any, ...], count: int, repeated: list[object]
) -> None:
    gm, rules = traced(*scales), loads(rule)
    expected = built_one_by_one(copy.deepcopy(gm), rules)
    engine.apply(gm, rules)
    assert len(repeated) == count
    assert described(gm) == described(expected)


def test_what_no_literal_of_a_rule_can_be_is_not_repeated(
    repeated: list[object],
) -> None:
    gm = traced(1j, 1j, x=torch.ones(2, 3, dtype=torch.complex64))
    assert engine.apply(gm, loads(ASKING)).report.matches == 2
    assert not repeated


def test_arguments_without_a_name_matter(repeated: list[object]) -> None:
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    negated = [graph.call_function(torch.ops.aten.neg.default, (x,)) for _ in range(4)]
    alphas, target = (2, 3, 2, 3), torch.ops.aten.sub.Tensor
    given = [((n, y), {"alpha": a}) for n, a in zip(negated, alphas, strict=True)]
    graph.output([graph.call_function(target, *each) for each in given])
    gm = fx.GraphModule(torch.nn.Module(), graph)
    rule = "z = sub(neg(x), y, ..) where uses(x) > 0 => z' = sub(x, y, ..z)"
    engine.apply(gm, loads(f"rule r once {{ {rule} }}"))
    found = graph.find_nodes(op="call_function", target=target)
    assert [node.kwargs["alpha"] for node in found] == [*alphas]
    assert len(repeated) == 2


def test_which_of_two_ways_was_found_matters(repeated: list[object]) -> None:
    graph = fx.Graph()
    calls = []
    for i in range(4):
        pair = graph.placeholder(f"x{i}"), graph.placeholder(f"y{i}")
        graph.call_function(torch.ops.aten.neg.default, (pair[i % 2],))
        calls.append(graph.call_function(torch.ops.aten.sub.Tensor, pair))
    graph.output(calls)
    gm = fx.GraphModule(torch.nn.Module(), graph)
    rule = "z = sub(a, b) | sub(b, a) where uses(a) == 1 => z' = mul(a, neg(b))"
    engine.apply(gm, loads(f"rule r once {{ {rule} }}"))
    products = graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor)
    assert [str(node.args[0]) for node in products] == ["y0", "x1", "y2", "x3"]
    assert len(repeated) == 2


def test_lists_of_values_are_repeated(repeated: list[object]) -> None:
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    given = [x, y], [x, y], [x, y, y]
    target = torch.ops.aten.cat.default
    graph.output([graph.call_function(target, (values,)) for values in given])
    gm = fx.GraphModule(torch.nn.Module(), graph)
    rule = "z = aten.cat.default([a, *rest]) where uses(a) > 0"
    rule += " => z' = aten.cat.default([neg(a), *rest])"
    engine.apply(gm, loads(f"rule r once {{ {rule} }}"))
    found = graph.find_nodes(op="call_function", target=target)
    assert [len(node.args[0]) for node in found] == [2, 2, 3]
    assert len(repeated) == 1


def test_of_reaches_and_matches_the_latest_are_known() -> None:
    (rule,) = loads(SIGN)
    memory, reaches = equal_matches._Memory(), [Reach((), (), (i,)) for i in range(40)]
    for reach in reaches:
        memory.table(rule, reach)
    kept = reaches[-equal_matches._MOST_REACHES :]
    assert [*memory.tables_of(rule)] == kept
    known = equal_matches.Known(None, None, None)  # type: ignore[arg-type]
    for i in range(equal_matches._MOST_KNOWN + 1):
        assert [*memory.tables_of(rule)] == kept
        memory.add(rule, Outline((i,), [], reaches[-1]), known)
    assert [*memory.tables_of(rule)] == reaches[-1:]


def test_what_names_other_nodes_than_the_match_is_not_repeated() -> None:
    graph = fx.Graph()
    stranger = graph.placeholder("x")
    recorder = recipes._Recorder({}, {}, None)  # type: ignore[arg-type]
    with pytest.raises(Unrepeatable):
        recorder._template(stranger)


def scaled(*dtypes: torch.dtype, value: float = 2.0) -> fx.GraphModule:
    """A graph that multiplies `x` by a constant of each dtype."""
    root, graph = torch.nn.Module(), fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.ones(2, 3)
    calls = []
    for index, dtype in enumerate(dtypes):
        root.register_buffer(f"c{index}", torch.full((3,), value + index, dtype=dtype))
        read = graph.get_attr(f"c{index}")
        calls.append(graph.call_function(torch.ops.aten.mul.Tensor, (x, read)))
        calls[-1].meta["val"] = torch.ones(2, 3)
    graph.output(tuple(calls))
    return fx.GraphModule(root, graph)


def outputs(gm: fx.GraphModule) -> list[Any]:
    return [each.tolist() for each in gm(torch.ones(2, 3))]


STACK = """rule r once {
  y = mul(x, c)
  where c is const
=>
  buffer d = sum(aten.stack.default([c * 2, c]), [0])
  y' = mul(x, d)
}"""


def test_constants_are_computed_from_those_of_their_own_match(
    repeated: list[object],
) -> None:
    gm = scaled(*[torch.float32] * 3)
    engine.apply(gm, loads(STACK))
    assert len(repeated) == 2
    assert [each[0][0] for each in outputs(gm)] == [6.0, 9.0, 12.0]
    assert list(dict(gm.named_buffers())) == ["c0_d", "c1_d", "c2_d"]


def test_constants_of_another_kind_are_not_computed_alike(
    repeated: list[object],
) -> None:
    gm = scaled(torch.float32, torch.float64, torch.float64)
    engine.apply(gm, loads(STACK))
    assert len(repeated) == 1
    found = [each.dtype for each in gm.buffers()]
    assert found == [torch.float32, torch.float64, torch.float64]


def test_a_constant_without_a_type_is_no_input(repeated: list[object]) -> None:
    root, graph = torch.nn.Module(), fx.Graph()
    root.register_buffer("c", torch.nested.nested_tensor([torch.ones(2)]))
    operands = graph.get_attr("c"), graph.placeholder("x")
    graph.output(
        [graph.call_function(torch.ops.aten.neg.default, (n,)) for n in operands]
    )
    gm = fx.GraphModule(root, graph)
    rules = loads("rule r once { y = neg(c) where c is const => y' = relu(c) }")
    assert engine.apply(gm, rules).report.matches == 1
    assert not repeated


@pytest.mark.parametrize(
    "condition", ['state_name(c) == "c0"', 'sibling_uses(c, "c0") == 1']
)
def test_what_depends_on_names_is_built_for_each_match(
    condition: str, repeated: list[object]
) -> None:
    gm = scaled(*[torch.float32] * 2)
    rule = f"rule r once {{ y = mul(x, c) => y' = add(x, c) if {condition} else c }}"
    expected = built_one_by_one(copy.deepcopy(gm), loads(rule))
    engine.apply(gm, loads(rule))
    assert not repeated
    assert described(gm) == described(expected)


def test_what_is_not_finite_is_refused_in_repeated_matches(
    repeated: list[object],
) -> None:
    gm = scaled(*[torch.float32] * 3, value=-1.0)
    rules = loads("""rule r once {
      y = mul(x, c)
      where c is const
    =>
      buffer d = 1 / c
      y' = mul(x, d)
    }""")
    report = engine.apply(gm, rules).report
    assert (report.matches, len(repeated)) == (2, 1)
    assert "not finite" in str(report)
    assert [each[0][0] for each in outputs(gm)] == [-1.0, 0.0, 1.0]
    assert list(dict(gm.named_buffers())) == ["c1", "c0_d", "c2_d"]


def test_what_literals_give_is_finite_or_refused() -> None:
    gm = traced(2.0)
    rule = """rule r once {
      y = mul(x, $k)
    =>
      buffer d = aten.full.default([3], $k) / 0
      y' = mul(x, d)
    }"""
    report = engine.apply(gm, loads(rule)).report
    assert report.matches == 0 and "not finite" in str(report)


def test_constants_made_of_literals_are_computed_again(repeated: list[object]) -> None:
    gm = traced(2.0, 2.0, 2.0)
    rule = "rule r once { y = mul(x, $k) => buffer d = full([3], $k) y' = mul(x, d) }"
    assert engine.apply(gm, loads(f"op full = aten.full.default\n{rule}")).modified
    assert len(repeated) == 2
    assert [each[0][0] for each in outputs(gm)] == [2.0] * 3


def test_an_exported_program_repeats_nothing_that_it_may_not_call() -> None:
    rules = loads("rule r { y = sigmoid(x) => y' = F.silu(x) }")
    program = torch.export.export(torch.nn.Sigmoid(), (torch.ones(2),))
    assert engine.apply(program.module(), rules).modified
    (refusal,) = engine.apply(program, rules).report.refusals
    assert "calls operators by their overloads" in refusal.reason


@pytest.mark.parametrize("groups", [1, 3])
def test_equal_layers_are_folded_alike(groups: int, repeated: list[object]) -> None:
    def convolution() -> torch.nn.Module:
        return torch.nn.ConvTranspose2d(6, 6, 3, groups=groups)

    layers = [m for _ in range(4) for m in (convolution(), torch.nn.BatchNorm2d(6))]
    fused = models.capture(torch.nn.Sequential(*layers), (torch.randn(2, 6, 8, 8),))
    engine.apply(fused, load("qat_fuse"))
    with torch.no_grad():
        for buffer in fused.buffers():
            buffer.add_(torch.rand(buffer.shape).to(buffer.dtype))
    repeated.clear()
    expected = built_one_by_one(copy.deepcopy(fused), load("qat_fold"))
    assert not repeated
    folded = copy.deepcopy(fused)  # names count on from the nodes that are there
    engine.apply(folded, load("qat_fold"))
    assert len(repeated) >= 3
    assert described(folded) == described(expected)
    state, wanted = (gm.state_dict(keep_vars=True) for gm in (folded, expected))
    assert list(state) == list(wanted)
    for name, tensor in state.items():
        assert torch.equal(tensor, wanted[name])
        assert type(tensor) is type(wanted[name])
        assert tensor.requires_grad == wanted[name].requires_grad


class Scaled(torch.nn.Module):
    """Scales each column by parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.ParameterList([torch.ones(3) for _ in range(2)])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(x * w for w in self.w)


UNREPEATABLE = {
    "a constant that is stored and read again": (
        "y = mul(x, c) where c is const => buffer d = c * 2  t = mul(x, d)"
        "  buffer e = d + 1  y' = add(t, e)",
        [[2.0 * c + (2 * c + 1) for c in (2.0, 3.0)]],
    ),
    "a hook": (
        "y = mul(x, c) where c is const => buffer d = square(c)  y' = mul(x, d)",
        [[4.0, 9.0]],
    ),
}


def square(value: torch.Tensor) -> torch.Tensor:
    return value * value


@pytest.mark.parametrize("name", UNREPEATABLE)
def test_what_is_built_for_each_match(name: str, repeated: list[object]) -> None:
    rule, (expected,) = UNREPEATABLE[name]
    hooks = {"test.hooks": {"square": square}}
    text = f"use test.hooks (square) rule r once {{ {rule} }}"
    gm = scaled(torch.float32, torch.float32)
    assert engine.apply(gm, loads(text, hooks=hooks)).report.matches == 2
    assert not repeated
    assert [each[0][0] for each in outputs(gm)] == expected


def calling(*arguments: tuple[Any, ...], target: Any) -> fx.GraphModule:
    """A graph of calls, each of which is negated; `...` stands for the input."""
    graph = fx.Graph()
    x = graph.placeholder("x")

    def given(argument: Any) -> Any:
        if type(argument) in (list, tuple):
            return type(argument)(map(given, argument))
        return x if argument is ... else argument

    results = []
    for each in arguments:
        call = graph.call_function(target, tuple(map(given, each)))
        results.append(graph.call_function(torch.ops.aten.neg.default, (call,)))
    graph.output(tuple(results))
    return fx.GraphModule(torch.nn.Module(), graph)


@pytest.mark.parametrize(
    ("rule", "target", "given", "count"),
    [
        ("N@mul(x, _)", torch.ops.aten.mul.Tensor, [(..., 2.0)] * 2, 1),
        ("N@mul(x, _)", torch.ops.aten.mul.Tensor, [(..., 2.0), (..., 2j)] * 2, 1),
        ("N@all(x)", torch.ops.aten.cat.default, [([..., ...],)] * 2, 1),
        ("N@all(x)", torch.ops.aten.cat.default, [((..., ...),)] * 2, 0),
    ],
    ids=["numbers", "complex numbers", "lists of values", "tuples of values"],
)
def test_arguments_that_no_recipe_holds(
    rule: str, target: Any, given: list[Any], count: int, repeated: list[object]
) -> None:
    text = f"rule r once {{ y = neg({rule}) => y' = N(relu(x)) }}"
    gm = calling(*given, target=target)
    rules = loads(f"pattern all(v) = cat([v, v]) {text}")
    expected = built_one_by_one(copy.deepcopy(gm), rules)
    assert engine.apply(gm, rules).report.matches == len(given)
    assert len(repeated) == count
    assert described(gm) == described(expected)


def test_keywords_are_repeated(repeated: list[object]) -> None:
    rule = "rule r once { y = mul(x, $k) => y' = sub(x, x, alpha=$k) }"
    gm = traced(2.0, 2.0)
    assert engine.apply(gm, loads(rule)).report.matches == 2
    assert len(repeated) == 1
    assert [each[0][0] for each in outputs(gm)] == [-1.0] * 2


def test_little_is_remembered(
    monkeypatch: pytest.MonkeyPatch, repeated: list[object]
) -> None:
    rules = loads("rule r once { y = mul(x, $k) => y' = div(x, 1 / $k) }")
    monkeypatch.setattr(equal_matches, "_MOST_KNOWN", 2)
    engine.apply(traced(2.0, 4.0, 8.0), rules)  # the last takes the place of two
    for scale, count in [(8.0, 1), (2.0, 0)]:
        repeated.clear()
        gm = traced(scale)
        engine.apply(gm, rules)
        assert len(repeated) == count
        assert [each[0][0] for each in outputs(gm)] == [scale]


def test_what_is_repeated_is_not_derived_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rules = load("qat_fuse")
    engine.apply(models.capture(*models.conv_bn_pairs(2)), rules)
    derived: list[fx.Node] = []
    monkeypatch.setattr(
        ValueTypes, "infer", lambda self, node, *, like=None: derived.append(node)
    )
    gm = models.capture(*models.conv_bn_pairs(2))
    assert engine.apply(gm, rules).report.matches == 2
    assert not derived


def test_what_was_frozen_since_its_export_needs_no_gradient() -> None:
    gm = models.capture(Scaled(), (torch.ones(2, 3),))
    gm.get_parameter("w.1").requires_grad_(False)
    rules = """rule r once {
      y = mul(x, c)
      where c is const
    =>
      param d = c * 2
      y' = div(x, d)
    }"""
    expected = built_one_by_one(copy.deepcopy(gm), loads(rules))
    engine.apply(gm, loads(rules))
    assert described(gm) == described(expected)
