"""Random rules of every form that a left side has: both matchers find the same."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
import torch
from torch import fx, nn

from rewrite_engine import loads
from rewrite_engine.ruleset import RuleSet
from tests.matching.test_matchers import fast, slow

aten = torch.ops.aten

HEAD = """
op act = aten.relu.default | aten.sigmoid.default | torch.relu
family Unary(op, $q) = (aten.relu.default, 1) | (aten.neg.default, 2) | (torch.relu, 3)
pattern scaled(v) = mul(v, $s) | mul(v, 2.0) | v
pattern twice(v) = add(v, v) | mul(v, 2)
"""
GUARDS = (
    "uses(z) > 0",
    "uses(x) == 1",
    "distinct(x, y)",
    "x ~ act(_)",
    "not x ~ neg(y)",
    "x ~ act(y) or uses(y) == 1",
    "b or uses(x) < 3",
    "$k == 2",
)


def pattern(choose: random.Random, depth: int, *, of_family: bool) -> str:
    def operand() -> str:
        if depth == 0 or choose.random() < 0.3:
            return choose.choice("xxyw_")
        return pattern(choose, depth - 1, of_family=of_family)

    forms = [
        "neg({0})",
        "act({0})",
        "torch.relu({0})",
        "add({0}, {1})",
        "mul({0}, $k)",
        "sub({0}, 2.0)",
        "aten.mean.dim({0}, 1)",
        "aten.add.Tensor({0}, {1}, ..)",
        "aten.linear.default({0}, {1}, b?)",
        "aten.linear.default({0}, {1}, {2}?)",
        "cat([{0}, *others, {1}], ..)",
        "cat([{0}, {1}], $d)",
        "add?({0}, {1})",
        "({0} | neg({1}))",
        "act^*({0})",
        "neg^+({0})",
        "scaled({0})",
        "twice({0})",
        *(["f({0})"] * 4 if of_family else []),
    ]
    return choose.choice(forms).format(operand(), operand(), operand())


def rule(choose: random.Random, number: int) -> str:
    of_family = choose.random() < 0.3
    left = f"z = neg(C@act({pattern(choose, 2, of_family=of_family)}))"
    if choose.random() < 0.7:
        inner = pattern(choose, 3, of_family=of_family)
        left = f"z = {choose.choice(['neg', 'act', 'add(x, y) | neg'])}({inner})"
    bound = set(re.findall(r"\$?\w+", left))
    able = [g for g in GUARDS if set(re.findall(r"\$\w|\b[bxyz]\b", g)) <= bound]
    guard = f"where {choose.choice(able)}" if choose.random() < 0.6 else ""
    used = of_family and "f(" in left
    family = " for (f, $_q) in Unary" if used else ""
    # The last guard always holds; without it, equal patterns would be refused.
    only = f'where uses(z) < {1000 + number} else "many"'
    head = f"rule r{number}{family}"
    return f"{head} {{ {left} {guard} {only} => z' = torch.full([], 1.0) }}"


def rules_of(seed: int) -> RuleSet:
    choose = random.Random(seed)
    return loads(HEAD + "\n".join(rule(choose, number) for number in range(12)))


def graph_of(seed: int, size: int = 30) -> fx.GraphModule:
    choose, graph = random.Random(seed), fx.Graph()
    values = [graph.placeholder(f"x{i}") for i in range(3)]
    for _ in range(size):
        a, b, c = (choose.choice(values[-6:]) for _ in range(3))
        target, args, kwargs = choose.choice(calls(choose, a, b, c))
        if isinstance(target, str):
            values.append(graph.call_method(target, args, kwargs))
        else:
            values.append(graph.call_function(target, args, kwargs))
    graph.output(tuple(values[-4:]))
    return fx.GraphModule(nn.Module(), graph)


def calls(
    choose: random.Random, a: fx.Node, b: fx.Node, c: fx.Node
) -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    unary = choose.choice([aten.relu.default, aten.sigmoid.default, torch.relu])
    biased = choose.choice([(a, b), (a, b, None), (a, b, c)])
    joined = choose.choice([([a, b], 0), ([a, b, c],), ([b, a],)])
    return [
        (unary, (a,), {}),
        ("relu", (a,), {}),
        (aten.neg.default, (a,), {}),
        (aten.neg.default, (b,), {}),
        (aten.mul.Tensor, (a, choose.choice([a, 2, 2.0, 3])), {}),
        (aten.sub.Tensor, (a, choose.choice([2.0, True, 1])), {}),
        (aten.add.Tensor, (a, b), {}),
        (aten.add.Tensor, (a,), {"other": b, "alpha": 1}),
        (torch.add, (a, b), {"alpha": 2}),
        (aten.linear.default, biased, {}),
        (aten.mean.dim, (a, choose.choice([1, [1], [1, 1], []])), {}),
        (aten.cat.default, joined, {}),
    ]


@pytest.mark.parametrize("seed", range(25))
def test_both_matchers_agree_on_random_rules(seed: int) -> None:
    rules = rules_of(seed)
    for number in range(3):
        gm = graph_of(1000 * seed + number)
        assert fast(rules, gm) == slow(rules, gm)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(25, 1500))
def test_both_matchers_agree_on_many_random_rules(seed: int) -> None:
    test_both_matchers_agree_on_random_rules(seed)


def test_random_rules_match_random_graphs() -> None:
    found = [
        fast(rules_of(seed), graph_of(1000 * seed + number))
        for seed in range(8)
        for number in range(3)
    ]
    assert sum(map(len, found)) > 100
