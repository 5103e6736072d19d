"""Random graphs with an instance of a rule: it fires, and nothing else changes.

`pytest -m long tests/verification/test_planting.py` runs the long versions.
"""

from __future__ import annotations

import builtins
import functools
from collections.abc import Callable, Iterator

import attrs
import pytest
from hypothesis import HealthCheck, given, settings

from rewrite_engine import load, loads
from rewrite_engine.ruleset import RuleSet
from rewrite_engine.testing import planted_graphs
from rewrite_engine.verification.planting import Noise, Planted, Planter

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
SHIPPED = [load(name) for name in ("qat_fuse", "bn_fold", "cross_layer", "fold_scales")]
# Modules are not planted, and torch records other strides of a BatchNorm than it gives.
LEFT_OUT = ("fold_into_batch_norm_module", "fold_into_batch_norm")
EVERY = [
    (rules, rule.name)
    for rules in (SIMPLE, *SHIPPED)
    for rule in rules
    if rule.name not in LEFT_OUT
]
PURE = Noise(pure=4, views=2)
WRITING = Noise(pure=3, views=3, writes=4, random=1)


def alone(rules: RuleSet, name: str) -> RuleSet:
    """A rule without the others, which might take its place."""
    kept = tuple(rule for rule in rules.file.rules if rule.name == name)
    return RuleSet(name, attrs.evolve(rules.file, rules=kept))


@functools.cache
def planter_of(rules: RuleSet, name: str) -> Planter:
    return Planter(alone(rules, name), name)


def planted(rules: RuleSet, name: str, noise: Noise, count: int) -> Iterator[Planted]:
    planter, seed = planter_of(rules, name), 0
    while count:
        found = planter.plant(seed, noise)
        seed += 1
        if found is not None:
            count -= 1
            yield in_full(found)


def in_full(found: Planted) -> Planted:
    """Shipped rules are held to the last digits of double precision."""
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
    assert fired(rules, name, PURE, 30, measured) >= 4


@pytest.mark.figure("R6", "R4", "R9")
@every_rule
def test_writes_and_views_are_never_crossed(
    rules: RuleSet, name: str, measured: Measured
) -> None:
    count = 40 if rules is SIMPLE else 12
    assert fired(rules, name, WRITING, count, measured) >= 1


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
