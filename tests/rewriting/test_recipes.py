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
from rewrite_engine.rewriting import driver, recipes
from rewrite_engine.rewriting.recipes import Recipes
from rewrite_engine.ruleset import RuleSet
from rewrite_engine.tensor_types import type_of


@pytest.fixture
def repeated(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The matches that were repeated."""
    found: list[object] = []

    class Counting(Recipes):
        def repeat(self, outline: Any, before: fx.Node) -> Any:
            built = super().repeat(outline, before)
            if built is not None:
                found.append(built)
            return built

    monkeypatch.setattr(driver, "Recipes", Counting)
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
        patch.setattr(Recipes, "outline", lambda self, match: None)
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
CONST = "rule r once { y = mul(x, $k) => y' = neg(x) if x is const else relu(x) }"


@pytest.mark.parametrize(
    ("rule", "scales", "count"),
    [
        (SIGN, (2.0, 2.0, 2, True, 4.0, 2), 2),
        ("rule r once { y = mul(x, $k) => y' = add(x, $k) }", (0.0, -0.0, 0.0), 1),
        (READERS, (3, 3, 3, 3), 0),
        (CONST, (3, 3), 0),
    ],
    ids=["literals by type", "signed zeros", "readers", "constants"],
)
def test_only_equal_matches_are_repeated(
    rule: str, scales: tuple[Any, ...], count: int, repeated: list[object]
) -> None:
    gm, rules = traced(*scales), loads(rule)
    expected = built_one_by_one(copy.deepcopy(gm), rules)
    engine.apply(gm, rules)
    assert len(repeated) == count
    assert described(gm) == described(expected)


def test_what_names_other_nodes_than_the_match_is_not_repeated() -> None:
    graph = fx.Graph()
    stranger = graph.placeholder("x")
    recorder = recipes._Recorder({}, None)  # type: ignore[arg-type]
    with pytest.raises(recipes._NoRecipe):
        recorder._template(stranger)
