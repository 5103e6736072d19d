"""A rule from two functions does what torch's `replace_pattern` does with them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import fx
from torch.fx.subgraph_rewriter import replace_pattern

from rewrite_engine import GraphError, engine, loads


def scaled(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.relu(x + y * 2)


def clamped(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.clamp(torch.add(x, y, alpha=2), min=0)


def split_pattern(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.exp(x), torch.tanh(x)


def split_replacement(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.expm1(x) + 1, torch.sigmoid(2 * x) * 2 - 1


def methods(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(2, -1).sum(1)


def methods_replacement(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1).sum(1)


def identity_pattern(x: torch.Tensor) -> torch.Tensor:
    return torch.neg(torch.neg(x))


def identity(x: torch.Tensor) -> torch.Tensor:
    return x


PAIRS = {
    "two inputs": (scaled, clamped),
    "two results": (split_pattern, split_replacement),
    "methods": (methods, methods_replacement),
    "an input as result": (identity_pattern, identity),
}


@pytest.mark.parametrize("case", PAIRS)
def test_it_does_what_replace_pattern_does(case: str) -> None:
    pattern, replacement = PAIRS[case]
    rules = loads(engine.extract_pair(pattern, replacement))
    mine, theirs = (fx.symbolic_trace(pattern) for _ in range(2))
    assert engine.apply(mine, rules).report.matches == 1
    replace_pattern(theirs, pattern, replacement)
    inputs = [torch.randn(2, 6, dtype=torch.float64) for _ in PAIRS[case][:1]]
    inputs *= pattern.__code__.co_argcount
    for a, b in zip(flat(mine(*inputs)), flat(theirs(*inputs)), strict=True):
        torch.testing.assert_close(a, b)
    assert targets(mine) == targets(theirs)


def targets(gm: fx.GraphModule) -> list[Any]:
    return [node.target for node in gm.graph.nodes if node.op.startswith("call_")]


def flat(value: Any) -> tuple[torch.Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def test_with_inputs_the_functions_are_exported() -> None:
    inputs = (torch.randn(4), torch.randn(4))
    rules = loads(engine.extract_pair(scaled, clamped, inputs))
    gm = torch.export.export(_Model(), inputs).module()
    before = copy.deepcopy(gm)
    assert engine.apply(gm, rules).report.matches == 1
    torch.testing.assert_close(gm(*inputs), before(*inputs))


class _Model(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return scaled(x, y)


def test_the_rule_is_named_after_the_pattern() -> None:
    text = engine.extract_pair(scaled, clamped)
    assert text.startswith("## What `scaled` does, as `clamped` does it.\n")
    assert "rule scaled {" in text
    assert "mul(y, 2)" in text
    assert "torch.clamp(" in text
    assert "rule other {" in engine.extract_pair(scaled, clamped, name="other")
    assert "mul(y, $other)" in engine.extract_pair(scaled, clamped, literals="capture")


def test_functions_that_are_no_two_sides() -> None:
    with pytest.raises(GraphError, match="2 parameters, the replacement 1"):
        engine.extract_pair(scaled, identity)
    with pytest.raises(GraphError, match="1 results, the replacement 2"):
        engine.extract_pair(identity_pattern, split_pattern)
    with pytest.raises(GraphError, match="returns 'x'"):
        engine.extract_pair(identity, identity)


class Weighted(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x * self.w)


def and_a_number(x: torch.Tensor) -> tuple[torch.Tensor, float]:
    return torch.relu(x), 1.0


def infinite(x: torch.Tensor) -> torch.Tensor:
    return x * float("inf")


def test_functions_that_a_rule_cannot_say() -> None:
    for pair in ((Weighted(), identity), (identity_pattern, Weighted())):
        with pytest.raises(GraphError, match="'w' is state; make it a parameter"):
            engine.extract_pair(*pair)
    with pytest.raises(GraphError, match="is no graph value"):
        engine.extract_pair(and_a_number, and_a_number)
    with pytest.raises(GraphError, match="cannot write the literal inf"):
        engine.extract_pair(identity_pattern, infinite)
