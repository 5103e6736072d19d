"""The nodes that are still to be visited, in graph order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from torch import fx

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.matching.candidates import hits, hits_among
from rewrite_engine.matching.net_source import called
from rewrite_engine.matching.program import Program, RuleProgram


class Change(NamedTuple):
    """What a rewrite did to a graph.

    `moved` gives, by values that take the place of others, who reads these now.
    """

    created: Sequence[fx.Node]
    moved: Mapping[fx.Node, Sequence[fx.Node]]


class Worklist:
    """Where rules may match, while the graph changes.

    Iterating gives each node with its rules, the first in graph order that waits.
    """

    def __init__(self, program: Program, facts: GraphFacts) -> None:
        self._program = program
        self._facts = facts
        self._rules = hits(program.nets, facts)
        """What each waiting node waits for."""
        self._first = sorted(self._rules, reverse=True)
        self._added: list[fx.Node] = []

    def __iter__(self) -> Iterator[tuple[fx.Node, list[RuleProgram]]]:
        while self._rules:
            node = self._next()
            yield node, self._program.rules_of(self._rules.pop(node))

    def _next(self) -> fx.Node:
        if not self._added or (self._first and self._first[-1] < self._added[0]):
            return self._first.pop()
        return heappop(self._added)

    def add(self, change: Change) -> None:
        """Look again at new nodes, and at what reads a value in the place of another.

        What reads these readers matters only as far up as some rule looks for such a
        value.
        """
        near = [*change.created]
        for value, readers in change.moved.items():
            near += readers
            depth = self._program.depths.get(called(value), 0)
            if depth > 1:
                near += _above(readers, depth - 1)
        for node, numbers in hits_among(near, self._program.nets, self._facts).items():
            if node not in self._rules:
                heappush(self._added, node)
            self._rules[node] = numbers


def _above(nodes: Iterable[fx.Node], levels: int) -> dict[fx.Node, None]:
    """The users of nodes, so many calls up, and all on the way."""
    found: dict[fx.Node, None] = {}
    for _ in range(levels):
        nodes = dict.fromkeys(user for node in nodes for user in node.users)
        found.update(nodes)
    return found
