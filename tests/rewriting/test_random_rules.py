"""Random rules that change no value, on random graphs: eager results are the same.

Each right side builds the left side again, from what it binds, and negates it twice.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
import torch
from torch import fx, nn

from rewrite_engine import engine, loads
from rewrite_engine.ruleset import RuleSet

aten = torch.ops.aten

HEAD = """
op plus = aten.add.Tensor | operator.add | torch.add  commutes(0, 1) when alpha == 1
op relu = aten.relu.default | torch.relu | .relu
pattern sign(v) = relu(v) | neg(v)
family Unary(op, $q) = (aten.relu.default, 1) | (aten.neg.default, 2)
"""
GUARDS = ("uses(z) > 0", "distinct(x, y)", "$k != 3", "not x ~ neg(_)", "uses(x) < 3")


def expression(
    choose: random.Random, depth: int, numbers: Iterator[int]
) -> tuple[str, str]:
    """A left side, and a right side of the same value."""

    def operand() -> tuple[str, str]:
        if depth == 0 or choose.random() < 0.3:
            name = choose.choice("xxyw")
            return name, name
        return expression(choose, depth - 1, numbers)

    (a, built_a), (b, built_b), n = operand(), operand(), f"N{next(numbers)}"
    return choose.choice(
        [
            (f"neg({a})", f"neg({built_a})"),
            (f"relu({a})", f"aten.relu.default({built_a})"),
            (f"f({a})", f"f({built_a})"),
            (f"plus({a}, {b})", f"aten.add.Tensor({built_b}, {built_a})"),
            (f"sub({a}, {b})", f"sub({built_a}, {built_b})"),
            (f"mul({a}, $k)", f"mul({built_a}, $k)"),
            (f"mul({a}, 2.0)", f"mul({built_a}, 2.0)"),
            (
                f"aten.linear.default({a}, {b}, c?)",
                f"aten.linear.default({built_a}, {built_b}, c)",
            ),
            (f"{n}@neg^*({a})", f"{n}({built_a})"),
            (f"{n}@plus?({a}, {b})", f"{n}({built_a})"),
            (f"{n}@sign({a})", f"{n}({built_a})"),
        ]
    )


def rule(choose: random.Random, number: int) -> str:
    left, right = expression(choose, choose.randint(1, 3), count())
    family = " for (f, $_q) in Unary" if "f(" in left else ""
    left, right = f"relu({left})", f"aten.relu.default({right})"
    bound = {name for name in ("x", "y", "$k") if name in left} | {"z"}
    read = {guard: {n for n in ("x", "y", "z", "$k") if n in guard} for guard in GUARDS}
    able = [guard for guard in GUARDS if read[guard] <= bound]
    guards = ", ".join([choose.choice(able), f"uses(z) < {1000 + number}"])
    head = f"rule r{number}{family} once"
    return f"{head} {{ z = {left} where {guards} => z' = neg(neg({right})) }}"


def rules_of(seed: int) -> RuleSet:
    choose = random.Random(seed)
    return loads(HEAD + "\n".join(rule(choose, number) for number in range(8)))


def graph_of(seed: int, size: int = 40) -> fx.GraphModule:
    choose, graph = random.Random(seed), fx.Graph()
    values = [graph.placeholder(f"x{i}") for i in range(3)]
    for _ in range(size):
        a, b, c = (choose.choice(values[-5:]) for _ in range(3))
        target, args, kwargs = choose.choice(calls(choose, a, b, c))
        make = graph.call_method if isinstance(target, str) else graph.call_function
        values.append(make(target, args, kwargs))
    graph.output(tuple(values[-4:]))
    return fx.GraphModule(nn.Module(), graph)


def calls(
    choose: random.Random, a: fx.Node, b: fx.Node, c: fx.Node
) -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    return [
        (aten.relu.default, (a,), {}),
        ("relu", (b,), {}),
        (torch.relu, (c,), {}),
        (aten.neg.default, (a,), {}),
        (aten.mul.Tensor, (a, choose.choice([2.0, 0.5, 3])), {}),
        (aten.sub.Tensor, (a, b), {}),
        (aten.add.Tensor, (a, b), {}),
        (aten.add.Tensor, (a,), {"other": b, "alpha": 1}),
        (torch.add, (a, b), {"alpha": 2}),
        (aten.linear.default, choose.choice([(a, b), (a, b, None), (a, b, c)]), {}),
        # Nothing may be moved across a write of what it reads.
        (aten.relu_.default, (a,), {}),
    ]


def rewritten(seed: int) -> int:
    """How many rewrites were done, none of which changes a value."""
    gm = graph_of(seed)
    torch.manual_seed(seed)
    inputs = [torch.randn(4, 4, dtype=torch.float64) / 4 for _ in range(3)]
    expected = gm(*(each.clone() for each in inputs))
    report = engine.apply(gm, rules_of(seed)).report
    gm.graph.lint()
    for found, wanted in zip(gm(*inputs), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)
    return sum(each.matches for each in report.rules)


@pytest.mark.parametrize("seed", range(20))
def test_rules_that_change_no_value_change_none(seed: int) -> None:
    rewritten(seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20, 2000))
def test_many_rules_that_change_no_value_change_none(seed: int) -> None:
    rewritten(seed)


def test_random_rules_are_applied() -> None:
    assert sum(map(rewritten, range(4))) > 5
