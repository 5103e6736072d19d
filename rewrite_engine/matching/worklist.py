"""The nodes that are still to be visited, in graph order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from heapq import heappop, heappush

from torch import fx

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.matching.candidates import hits, hits_among
from rewrite_engine.matching.net_source import called
from rewrite_engine.matching.program import Program, RuleProgram


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

    def changed(
        self,
        created: Iterable[fx.Node],
        moved: Mapping[fx.Node, Iterable[fx.Node]],
    ) -> None:
        """Look again at new nodes, and at what reads a value in the place of another.

        `moved` gives these readers by the value. What reads them matters only as far
        up as some rule looks for such a value.
        """
        near = dict.fromkeys(created)
        for value, readers in moved.items():
            level = dict.fromkeys(readers)
            near.update(level)
            for _ in range(1, self._program.depths.get(called(value), 0)):
                level = dict.fromkeys(user for node in level for user in node.users)
                near.update(level)
        for node, numbers in hits_among(near, self._program.nets, self._facts).items():
            if node not in self._rules:
                heappush(self._added, node)
            self._rules[node] = numbers
