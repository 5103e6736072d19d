"""Random graphs with an instance of a rule: it fires, and nothing else changes.

`pytest -m long tests/verification/test_planting.py` runs the long versions.
"""

from __future__ import annotations

import builtins
import copy
import random
from collections.abc import Callable, Iterator

import attrs
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import fx

from rewrite_engine import load, loads
from rewrite_engine.ruleset import RuleSet
from rewrite_engine.testing import planted_graphs
from rewrite_engine.verification.planting import Noise, Planted, Planter

aten = torch.ops.aten

SIMPLE = loads(
    """
    rule identity exact { z = neg(neg(x)) => z' = x }
    rule relu_twice exact { z = relu(relu(x)) => z' = relu(x) }
    rule merge inexact { y = neg(x) z = mul(y, $k) => z' = mul(x, -$k) }
    rule distribute inexact {
      z = add(mul(x, $a), mul(y, $a))
    => z' = mul(add(x, y), $a) }
    rule kept once exact { y = sigmoid(x) z = mul(x, y) => keep y  z' = mul(y, x) }
    rule two_roots exact { a = neg(x)  b = abs(x) => a' = neg(x)  b' = abs(neg(x)) }
    rule folded inexact {
      z = mul(x, mul(w, $k))  where w is const
    => param wk = w * $k  z' = mul(x, wk) }
    rule random once exact {
      z = dropout(x, $p, true)
    => z' = dropout(x, $p, true, ..z) }
    """
)
FUSE = load("qat_fuse")
EVERY = [(SIMPLE, rule.name) for rule in SIMPLE] + [(FUSE, rule.name) for rule in FUSE]
PURE = Noise(pure=4, views=2)
WRITING = Noise(pure=3, views=3, writes=4, random=1)


def alone(rules: RuleSet, name: str) -> RuleSet:
    """A rule without the others, which might take its place."""
    kept = tuple(rule for rule in rules.file.rules if rule.name == name)
    return RuleSet(name, attrs.evolve(rules.file, rules=kept))


def planted(rules: RuleSet, name: str, noise: Noise, count: int) -> Iterator[Planted]:
    planter = Planter(alone(rules, name), name)
    seed = 0
    while count:
        found = planter.plant(seed, noise)
        seed += 1
        if found is not None:
            count -= 1
            yield found


def fired(rules: RuleSet, name: str, noise: Noise, count: int) -> int:
    return sum(bool(each.check()) for each in planted(rules, name, noise, count))


@pytest.mark.parametrize(("rules", "name"), EVERY, ids=[name for _, name in EVERY])
def test_a_planted_rule_fires_and_is_right(rules: RuleSet, name: str) -> None:
    assert fired(rules, name, PURE, 30) >= 6


@pytest.mark.parametrize(("rules", "name"), EVERY, ids=[name for _, name in EVERY])
def test_writes_and_views_are_never_crossed(rules: RuleSet, name: str) -> None:
    assert fired(rules, name, WRITING, 40 if rules is SIMPLE else 12) >= 1


@pytest.mark.long
@pytest.mark.parametrize("noise", [PURE, WRITING], ids=["pure", "writing"])
@pytest.mark.parametrize(("rules", "name"), EVERY, ids=[name for _, name in EVERY])
def test_thousands_of_graphs(rules: RuleSet, name: str, noise: Noise) -> None:
    assert fired(rules, name, noise, 5_000) >= 200


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(planted_graphs(loads("rule r exact { z = relu(relu(x)) => z' = relu(x) }")))
def test_users_fuzz_their_own_rules(planted: Planted) -> None:
    planted.check()


def test_a_wrong_rule_does_not_survive() -> None:
    rules = loads("rule r once inexact { z = sub(x, y) => z' = sub(y, x) }")
    with pytest.raises(AssertionError, match="differ"):
        for each in planted(rules, "r", PURE, 20):
            each.check()


def test_a_missing_hypothesis_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: object) -> object:
        if name == "hypothesis":
            raise ImportError(name)
        return original(name, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"rewrite-engine\[test\]"):
        planted_graphs(SIMPLE)


def test_a_rule_that_never_fires_cannot_be_planted() -> None:
    rules = loads("rule r { z = add(x, y) where x: [2], y: [5] => z' = add(y, x) }")
    with pytest.raises(ValueError, match="'r'"):
        planted_graphs(rules)


# --- what must not matter ---


def renamed(gm: fx.GraphModule, chosen: random.Random) -> None:
    for number, node in enumerate(gm.graph.nodes):
        if node.op.startswith("call"):
            node._rename(f"renamed_{number}_{chosen.randint(0, 99)}")


def with_dead_calls(gm: fx.GraphModule, chosen: random.Random) -> None:
    for node in gm.graph.find_nodes(op="placeholder"):
        with gm.graph.inserting_before(gm.graph.output_node()):
            dead = gm.graph.call_function(aten.clone.default, (node,))
            if "val" in node.meta:
                dead.meta["val"] = node.meta["val"].clone()


def reordered(gm: fx.GraphModule, chosen: random.Random) -> None:
    """Another order that the graph's dependences allow."""
    calls = [n for n in gm.graph.nodes if n.op.startswith("call")]
    done = {n for n in gm.graph.nodes if n not in calls}
    anchor = gm.graph.output_node()
    while calls:
        ready = [n for n in calls if done.issuperset(n.all_input_nodes)]
        node = chosen.choice(ready)
        anchor.prepend(node)
        calls.remove(node)
        done.add(node)


def swapped(gm: fx.GraphModule, chosen: random.Random) -> None:
    for node in gm.graph.nodes:
        if node.target in (aten.add.Tensor, aten.mul.Tensor) and len(node.args) == 2:
            left, right = node.args
            if isinstance(left, fx.Node) and isinstance(right, fx.Node):
                node.args = (right, left)


@pytest.mark.parametrize("change", [renamed, with_dead_calls, reordered, swapped])
@pytest.mark.parametrize("name", ["merge", "distribute", "relu_twice", "folded"])
def test_rewrites_are_as_many_after_a_change_of_no_meaning(
    name: str, change: Callable[[fx.GraphModule, random.Random], None]
) -> None:
    for seed, each in enumerate(planted(SIMPLE, name, PURE, 12)):
        module = copy.deepcopy(each.module)
        change(module, random.Random(seed))
        module.graph.lint()
        module.recompile()
        other = attrs.evolve(each, module=module)
        assert other.check() == each.check()
