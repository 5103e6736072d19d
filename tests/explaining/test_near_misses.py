"""An explanation names first what was broken."""

from __future__ import annotations

import pytest

from rewrite_engine import engine
from rewrite_engine.explaining.explanation import NearMiss
from tests.explaining.near_misses import TEMPLATES, Expected, intact, near_miss

SEEDS = range(240)


def names(miss: NearMiss, expected: Expected) -> bool:
    first = miss.first
    named = any(
        node in first.nodes or f"%{node.name}" in first.message
        for node in expected.nodes
    )
    return first.kind in expected.kinds and (named or first.kind == "guard")


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_templates_match_when_nothing_is_broken(template: str) -> None:
    for seed in range(5):
        rules, gm = intact(template, seed)
        assert engine.apply(gm, rules).report.matches == 1


def test_the_broken_thing_is_named_first() -> None:
    wrong, kinds = [], set()
    for seed in SEEDS:
        what, rules, gm, expected = near_miss(seed)
        explanation = engine.explain(gm, rules)
        assert not explanation.rules[0].matches, f"{seed}: {what} still matches"
        kinds.add(what)
        found = explanation.near_misses
        if not found or not names(found[0], expected):
            first = found[0].first if found else None
            wrong.append(f"{seed} {what}: {first}")
    assert len(kinds) >= 45, "every kind of break is among the seeds"
    assert len(wrong) <= len(SEEDS) * 5 // 100, "\n".join(wrong)
