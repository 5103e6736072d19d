"""The rewritten graphs of inductor's pattern matcher, where it is right: on functional
graphs, with patterns whose matches do not overlap.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch._inductor.pattern_matcher import (
    PatternMatcherPass,
    fwd_only,
    register_replacement,
)
from torch.fx.experimental.proxy_tensor import make_fx

from rewrite_engine import engine, loads

aten = torch.ops.aten
Tensors = tuple[torch.Tensor, ...]
Body = Callable[..., torch.Tensor]


def shared(x: torch.Tensor) -> torch.Tensor:
    y = aten.relu(x)
    return aten.mul(y, aten.neg(y))


PAIRS: dict[str, tuple[Body, Body, str]] = {
    "unary": (
        lambda x: aten.relu(aten.neg(x)),
        lambda x: aten.sin(x),
        "z = relu(neg(x)) => z' = sin(x)",
    ),
    "shared": (
        shared,
        lambda x: aten.neg(aten.relu(x)),
        "y = relu(x)  z = mul(y, neg(y)) => z' = neg(relu(x))",
    ),
    "literal": (
        lambda x, y: aten.sub(aten.mul(x, 2.0), y),
        lambda x, y: aten.add(x, y),
        "z = sub(mul(x, 2.0), y) => z' = add(x, y)",
    ),
    "product": (
        lambda x, y: aten.relu(aten.mm(x, y)),
        lambda x, y: aten.neg(aten.mm(y, x)),
        "z = relu(mm(x, y)) => z' = neg(mm(y, x))",
    ),
}


def random_body(seed: int, size: int = 300) -> Body:
    def body(*inputs: torch.Tensor) -> Any:
        choose, values = random.Random(seed), list(inputs)
        for _ in range(size):
            a, b = (choose.choice(values[-4:]) for _ in range(2))
            made = choose.choice(
                [
                    lambda a, b: aten.relu(a),
                    lambda a, b: aten.neg(a),
                    lambda a, b: aten.mul(a, aten.neg(a)),
                    lambda a, b: aten.sub(aten.mul(a, choose.choice([2.0, 3.0])), b),
                    lambda a, b: aten.mm(a, b),
                ]
            )
            values.append(made(a, b))
        return tuple(values[-3:])

    return body


def by_inductor(gm: fx.GraphModule, search: Body, replace: Body) -> None:
    inputs = [torch.ones(3, 3) for _ in range(search.__code__.co_argcount)]
    patterns = PatternMatcherPass()
    register_replacement(search, replace, inputs, fwd_only, patterns)
    patterns.apply(gm.graph)
    gm.graph.eliminate_dead_code()


def calls(gm: fx.GraphModule) -> list[tuple[Any, ...]]:
    """Every call with its operands, and the outputs; nodes go by the order in which the
    outputs reach them.
    """
    numbers: dict[fx.Node, int] = {}
    found: list[tuple[Any, ...]] = []

    def visit(node: fx.Node) -> str:
        if node not in numbers:
            operands = repr(fx.map_arg(node.args, visit))
            numbers[node] = len(numbers)
            found.append((node.op, str(node.target), operands, dict(node.kwargs)))
        return f"v{numbers[node]}"

    visit(gm.graph.output_node())
    return found


@pytest.mark.parametrize("name", PAIRS)
def test_both_rewrite_to_the_same_graph(name: str) -> None:
    search, replace, rule = PAIRS[name]
    rules, total = loads(f"rule r {{ {rule} }}"), 0
    for seed in range(3):
        inputs = tuple(torch.ones(3, 3) for _ in range(3))
        ours = make_fx(random_body(seed), tracing_mode="fake")(*inputs)
        ours.graph.eliminate_dead_code()
        theirs = copy.deepcopy(ours)
        by_inductor(theirs, search, replace)
        total += sum(r.matches for r in engine.apply(ours, rules).report.rules)
        assert calls(ours) == calls(theirs)
    assert total > 3
