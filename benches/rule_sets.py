"""Many rules that share operators, on one chain: which of them apply is planned.

The chain is built of ten sequences of calls, in random order. Ten rules of a set match
these sequences; the others, before and after them, share their operators and match
nowhere, so a set of any size has as many matches as ten rules have.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from typing import Any

import torch
from torch import fx
from torch._inductor import pattern_matcher as inductor

from benches.workloads import Rewrite, Workload, replaced, without_code
from rewrite_engine import edit

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
            value = edit.append_call(graph, overload(name), (value,))
    graph.output(value)
    return without_code(graph)


def occurring(gm: fx.GraphModule) -> set[Names]:
    """The sequences that a chain holds, planted or not."""
    return set(_windows(gm.graph))


def _windows(graph: fx.Graph) -> Iterator[Names]:
    names = [n.target._opname for n in graph.nodes if n.op == "call_function"]
    return (tuple(names[i : i + LENGTH]) for i in range(len(names)))


def rule_set(count: int, gm: fx.GraphModule) -> list[Names]:
    """So many rules' sequences, in random order; only planted ones are in the chain."""
    planted, present = sequences(PLANTED)[:count], occurring(gm)
    others = (s for s in sequences(PLANTED + count * 4)[PLANTED:] if s not in present)
    found = [*planted, *islice(others, count - len(planted))]
    random.Random(2).shuffle(found)
    return found


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


def workloads(nodes: int, counts: Sequence[int]) -> Iterator[Workload]:
    """Sets of so many rules for a chain, and as many rules as the most that match
    nowhere in it, with its operators and with others.
    """
    yield from planted(nodes, counts)
    gm, most = chain(nodes), max(counts)
    yield _workload("no match", missing(most, gm))
    yield _workload("absent", absent(most))


def planted(nodes: int, counts: Sequence[int]) -> Iterator[Workload]:
    """Sets of so many rules, of which ten match in a chain of so many nodes."""
    gm = chain(nodes)
    return (_workload("rule set", rule_set(count, gm)) for count in counts)


def _workload(name: str, found: Sequence[Names]) -> Workload:
    def matches(graph: fx.Graph) -> int:
        wanted = set(found)
        return sum(window in wanted for window in _windows(graph))

    rewrites = [rewrite(sequence, i) for i, sequence in enumerate(found)]
    return Workload(name, chain, rewrites, matches, has_one_type=True)


def rewrite(sequence: Names, number: int) -> Rewrite:
    """A sequence becomes one call, `hardtanh`."""
    return Rewrite(
        rule_text(sequence, number),
        function(sequence),
        _hardtanh,
        lambda: inductor_pattern(sequence),
        _inductor_hardtanh,
    )


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


def _hardtanh(x: Any) -> Any:
    return aten.hardtanh.default(x)


def _inductor_hardtanh(match: inductor.Match, x: Any) -> None:
    replaced(match, aten.hardtanh.default, (x,))
