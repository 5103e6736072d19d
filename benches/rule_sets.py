"""Many rules that share operators, on one chain: which of them apply is planned.

The chain is built of ten sequences of calls, in random order. The first ten rules of a
set match these sequences; whatever comes after shares their operators and matches
nowhere, so a set of any size has as many matches as ten rules have.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Any

import torch
from torch import fx, nn
from torch._inductor import pattern_matcher as inductor

aten = torch.ops.aten

OPERATORS = re.findall(
    r"\w+",
    "abs ceil cos erf exp expm1 floor log log1p neg reciprocal relu round sigmoid sign"
    " sin sqrt square tanh trunc",
)
ABSENT = re.findall(r"\w+", "acos acosh asin asinh atan atanh cosh erfc erfinv frac")
LENGTH = 4
PLANTED = 10

Names = tuple[str, ...]
"""Operators, in the order in which a value goes through them."""


def sequences(count: int, operators: Sequence[str] = OPERATORS) -> list[Names]:
    """Different sequences, the same in every run; more only adds to the end."""
    choose, found = random.Random(0), dict[Names, None]()
    while len(found) < count:
        found[tuple(choose.choices(operators, k=LENGTH))] = None
    return list(found)


def chain(nodes: int) -> fx.GraphModule:
    """A graph of at least so many calls in a row."""
    choose, graph = random.Random(1), fx.Graph()
    value = graph.placeholder("x")
    while len(graph.nodes) < nodes:
        for name in choose.choice(sequences(PLANTED)):
            value = graph.call_function(overload(name), (value,))
    graph.output(value)
    return fx.GraphModule(nn.Module(), graph)


def occurring(gm: fx.GraphModule) -> set[Names]:
    """The sequences that a chain holds, planted or not."""
    names = [n.target._opname for n in gm.graph.nodes if n.op == "call_function"]
    return {tuple(names[i : i + LENGTH]) for i in range(len(names))}


def rule_set(count: int, gm: fx.GraphModule) -> list[Names]:
    """So many rules' sequences, of which only planted ones are in the chain."""
    planted, present = sequences(PLANTED)[:count], occurring(gm)
    others = (s for s in sequences(PLANTED + count * 4)[PLANTED:] if s not in present)
    return [*planted, *islice(others, count - len(planted))]


def missing(count: int, gm: fx.GraphModule) -> list[Names]:
    """Sequences of operators of the chain that are nowhere in it."""
    present = occurring(gm)
    return [s for s in sequences(count * 4) if s not in present][:count]


def absent(count: int) -> list[Names]:
    """Sequences that end with an operator of which no chain has any."""
    ends = zip(sequences(count * 4), cycle(ABSENT), strict=False)
    return list(islice(dict.fromkeys((*s[:-1], end) for s, end in ends), count))


def overload(name: str) -> Any:
    return getattr(aten, name).default


# --- one sequence, as each engine states it ---


def rule_text(sequence: Names, number: int) -> str:
    """A rule for our engine."""
    left = "x"
    for name in sequence:
        left = f"aten.{name}.default({left})"
    return f"rule r{number} once {{ z = {left} => z' = aten.hardtanh.default(x) }}"


def function(sequence: Names) -> Callable[[Any], Any]:
    """A function that torch.fx traces."""

    def pattern(x: Any) -> Any:
        for name in sequence:
            x = overload(name)(x)
        return x

    return pattern


def inductor_pattern(sequence: Names) -> Any:
    """A pattern of inductor."""
    pattern: Any = inductor.KeywordArg("x")
    for name in sequence:
        pattern = inductor.CallFunction(overload(name), pattern)
    return pattern
