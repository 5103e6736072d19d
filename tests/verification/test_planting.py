"""Random graphs with an instance of a rule: it fires, and nothing else changes.

`pytest -m long tests/verification/test_planting.py` runs the long versions.
"""

from __future__ import annotations

import builtins
import copy
import functools
import itertools
from collections.abc import Callable, Iterator

import attrs
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import fx

from rewrite_engine import load, loads
from rewrite_engine.equivalence import assert_equivalent
from rewrite_engine.ruleset import RuleSet
from rewrite_engine.testing import planted_graphs
from rewrite_engine.verification.noise import Noise
from rewrite_engine.verification.planted import Planted
from rewrite_engine.verification.planting import Planter

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
LIBRARIES = (
    *("qat_fuse", "qat_fold", "bn_fold", "cross_layer", "fold_scales"),
    *("equalize", "smoothquant", "cleanup"),
)


def own_rules(library: str) -> Iterator[tuple[RuleSet, str]]:
    """The rules of a library, without those that it uses."""
    rules = load(library)
    for rule in rules.file.rules:
        if f"{library}.rules" in rule.source.name:
            yield rules, rule.name


EVERY = [(SIMPLE, rule.name) for rule in SIMPLE]
EVERY += [each for library in LIBRARIES for each in own_rules(library)]
PURE = Noise(pure=4, views=2)
WRITING = Noise(pure=3, views=3, writes=4, random=1)


def alone(rules: RuleSet, name: str) -> RuleSet:
    """A rule without the others, which might take its place, and without phases; with
    all tests, since some give it inputs that expect other rules, too.
    """
    kept = tuple(rule for rule in rules.file.rules if rule.name == name)
    return RuleSet(name, attrs.evolve(rules.file, rules=kept, phases=()))


@functools.cache
def planter_of(rules: RuleSet, name: str) -> Planter:
    return Planter(alone(rules, name), name)


def planted(rules: RuleSet, name: str, noise: Noise, count: int) -> Iterator[Planted]:
    planter = planter_of(rules, name)
    assert planter.fires
    grown = (planter.plant(seed, noise) for seed in range(20 * count))
    found = list(itertools.islice(filter(None, grown), count))
    assert len(found) == count
    return map(in_full, found)


def in_full(found: Planted) -> Planted:
    """Shipped rules are held to the last digits of double precision."""
    if found.tolerance is None:
        return found
    return attrs.evolve(found, tolerance=min(found.tolerance, 1e-10))


Measured = Callable[..., None]
every_rule = pytest.mark.parametrize(
    ("rules", "name"), EVERY, ids=[name for _, name in EVERY]
)


def fired(
    rules: RuleSet, name: str, noise: Noise, count: int, measured: Measured
) -> int:
    """In how many graphs a rule fired, all of them checked."""
    found = sum(bool(each.check()) for each in planted(rules, name, noise, count))
    figure = "R6" if noise.writes else "R1"
    measured(figure, graphs=count, rules=1, rewritten=found, fewest_rewritten=found)
    measured("R9", graphs=count)
    if not rules[name].once:
        measured("R4", graphs=count)
    return found


@pytest.mark.figure("R1", "R4", "R9")
@every_rule
def test_a_planted_rule_fires_and_is_right(
    rules: RuleSet, name: str, measured: Measured
) -> None:
    count = 30 if rules is SIMPLE else 12
    assert fired(rules, name, PURE, count, measured) >= 4


@pytest.mark.figure("R6", "R4", "R9")
@every_rule
def test_writes_and_views_are_never_crossed(
    rules: RuleSet, name: str, measured: Measured
) -> None:
    assert fired(rules, name, WRITING, 65, measured) >= 5


@pytest.mark.long
@pytest.mark.figure("R1", "R4", "R9")
@every_rule
def test_thousands_of_graphs(rules: RuleSet, name: str, measured: Measured) -> None:
    assert fired(rules, name, PURE, 6_000, measured) >= 200


@pytest.mark.long
@pytest.mark.figure("R6", "R4", "R9")
@every_rule
def test_thousands_of_writing_graphs(
    rules: RuleSet, name: str, measured: Measured
) -> None:
    assert fired(rules, name, WRITING, 6_000, measured) >= 200


def in_eval(before: fx.GraphModule, after: fx.GraphModule) -> None:
    """BatchNorms train where they still do afterwards."""
    for old, new in zip(norms(before), norms(after), strict=True):
        old.args = (*old.args[:5], new.args[5], *old.args[6:])


def norms(module: fx.GraphModule) -> list[fx.Node]:
    target = torch.ops.aten.batch_norm.default
    return module.graph.find_nodes(op="call_function", target=target)


def without_count(before: fx.GraphModule, after: fx.GraphModule) -> None:
    target = torch.ops.aten.add_.Tensor
    for node in before.graph.find_nodes(op="call_function", target=target):
        if node.args[0].op == "get_attr":
            node.replace_all_uses_with(node.args[0])
            before.graph.erase_node(node)


MEANT = {"stop_training": in_eval, "drop_counter": without_count}


@pytest.mark.parametrize("name", MEANT)
def test_rules_that_claim_nothing_do_what_they_mean(name: str) -> None:
    rules = alone(load("qat_fold"), name)
    matches = 0
    for each in planted(load("qat_fold"), name, WRITING, 12):
        before, after = copy.deepcopy(each.module), copy.deepcopy(each.module)
        matches += rules.apply(after).report.matches
        MEANT[name](before, after)
        before.recompile()
        assert_equivalent(before, after, each.inputs)
    assert matches > 4


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(planted_graphs(loads("rule r exact { z = relu(relu(x)) => z' = relu(x) }")))
def test_users_fuzz_their_own_rules(planted: Planted) -> None:
    planted.check()


WRONG = {
    "operands": "inexact { z = sub(x, y) => z' = sub(y, x) }",
    "a module": "inexact { y = nn.Linear(x, w) => w <- w * 1.001  keep y }",
    "more than a step": """inexact {
      q = quantize_per_tensor(x, $s, $z, ..)
      y = dequantize_per_tensor(q, $s, $z, ..)
    => y' = mul(x, 1.2) }
    """,
}


@pytest.mark.parametrize("rule", WRONG.values(), ids=WRONG)
def test_a_wrong_rule_does_not_survive(rule: str) -> None:
    rules = loads(f"rule r once {rule}")
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


CLAIMS = {
    "single": "inexact { z = mul(x, sigmoid(x)) where x: f32 => z' = silu(x) }",
    "by so much": "inexact 0.3 { z = mul(x, 1.0) where x: f64 => z' = mul(x, 1.2) }",
    "of nothing": "once inexact when $k == 0 { z = mul(x, $k) => z' = neg(x) }",
}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_a_rule_is_held_to_what_it_claims(claim: str) -> None:
    rules = loads(f"rule r {claim}")
    assert sum(each.check() for each in unchanged(rules, 10)) > 0


def unchanged(rules: RuleSet, count: int) -> Iterator[Planted]:
    found = (Planter(rules, "r").plant(seed, PURE) for seed in range(count))
    return (each for each in found if each is not None)
