"""What an output reads after many exchanges is what fx gives it one by one."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import fx

from rewrite_engine.rewriting.transaction import Transaction


def wide_graph() -> fx.Graph:
    """Six values, of which the output returns the first four, one of them twice."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    values = [graph.call_function(torch.add, (x, number)) for number in range(6)]
    graph.output((*values[:4], {"again": values[0]}))
    return graph


def reads(graph: fx.Graph) -> list[Any]:
    users = [list(map(str, node.users)) for node in graph.nodes]
    return [str(graph.output_node().args), *users]


def sums(graph: fx.Graph) -> list[fx.Node]:
    return graph.find_nodes(op="call_function", target=torch.add)


@pytest.mark.parametrize(
    "pairs",
    [[(0, 1), (2, 0)], [(0, 1), (1, 0)], [(0, 4), (4, 5), (5, 0)]],
    ids=["one that was left", "there and back", "in a circle"],
)
def test_a_value_may_come_back(pairs: list[tuple[int, int]]) -> None:
    _check(pairs)


@pytest.mark.parametrize("seed", range(20))
def test_random_exchanges(seed: int) -> None:
    draw = random.Random(seed)
    _check([(old, new) for old, new in (draw.sample(range(6), 2) for _ in range(8))])


def _check(pairs: list[tuple[int, int]]) -> None:
    expected, graph = wide_graph(), wide_graph()
    before = reads(graph)
    transaction = Transaction(graph)
    half = None
    for step, (old, new) in enumerate(pairs):
        if step == len(pairs) // 2:
            half = transaction.mark(), reads(expected)[0]
        sums(expected)[old].replace_all_uses_with(sums(expected)[new])
        transaction.replace_uses(sums(graph)[old], sums(graph)[new])
        for ours, theirs in zip(sums(graph), sums(expected), strict=True):
            assert set(map(str, ours.users)) == set(map(str, theirs.users))
    transaction.settle_output()
    assert reads(graph)[0] == reads(expected)[0]
    graph.lint()
    assert half is not None
    transaction.rollback(half[0])
    transaction.settle_output()
    assert reads(graph)[0] == half[1]
    transaction.rollback()
    assert reads(graph) == before
