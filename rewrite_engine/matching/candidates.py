"""Where in a graph rules may match, found from the rarest of their operators.

Nothing here looks at all nodes of a graph: fx keeps an index of them by operator.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from operator import itemgetter
from typing import Final

import attrs
from torch import fx

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.lowering.spellings import CallKey, look_up
from rewrite_engine.matching.net import Net
from rewrite_engine.matching.net_source import Hits
from rewrite_engine.matching.sketches import IsCall, Sketch

_NONE: Final[Mapping[fx.Node, None]] = {}
_COST: Final = 16
"""Anchors that are tested in the time in which a sketch's rarest operator is found."""


@attrs.frozen(eq=False, slots=False)
class OperatorIndex:
    """The calls of a graph by what they call."""

    graph: fx.Graph
    functions: Mapping[int, Mapping[fx.Node, None]]
    """By the identity of the function: hashing an OpOverload runs Python code."""

    @classmethod
    def of(cls, graph: fx.Graph) -> OperatorIndex:
        known = getattr(graph, "_find_nodes_lookup_table", None)
        table = _by_walking(graph) if known is None else known.table
        functions = {
            id(target): nodes
            for (op, target), nodes in table.items()
            if op == "call_function"
        }
        return cls(graph, functions)

    @cached_property
    def methods(self) -> Mapping[object, Mapping[fx.Node, None]]:
        found: dict[object, dict[fx.Node, None]] = {}
        for node in self.graph.find_nodes(op="call_method", sort=False):
            found.setdefault(node.target, {})[node] = None
        return found

    @cached_property
    def modules(self) -> Mapping[fx.Node, None]:
        return dict.fromkeys(self.graph.find_nodes(op="call_module", sort=False))

    def count(self, keys: Iterable[CallKey]) -> int:
        """How many nodes `calls` gives, or more."""
        return sum(len(self._calls(key)) for key in keys)

    def calls(self, keys: Iterable[CallKey]) -> list[fx.Node]:
        """The nodes that may be such calls: of modules, all that there are."""
        return [node for key in keys for node in self._calls(key)]

    def _calls(self, key: CallKey) -> Mapping[fx.Node, None]:
        op, target = key
        if op == "call_function":
            return self.functions.get(target, _NONE)  # type: ignore[call-overload]
        return self.methods.get(target, _NONE) if op == "call_method" else self.modules


def _by_walking(graph: fx.Graph) -> dict[tuple[str, object], dict[fx.Node, None]]:
    """What fx's index holds, with a version of fx that has none known here."""
    table: dict[tuple[str, object], dict[fx.Node, None]] = {}
    for node in graph.nodes:
        table.setdefault((node.op, node.target), {})[node] = None
    return table


def hits(nets: Mapping[CallKey, Net], facts: GraphFacts) -> Hits:
    """The nodes of a graph where rules may match, with the numbers of these rules."""
    index, found = OperatorIndex.of(facts.module.graph), Hits()
    for net, anchors in _anchors(nets, index, facts):
        net.select(_worth_a_look(net, anchors, index), found)
    return found


def hits_among(
    nodes: Iterable[fx.Node], nets: Mapping[CallKey, Net], facts: GraphFacts
) -> Hits:
    """Those of some nodes where rules may match."""
    found = Hits()
    for node in nodes:
        net = look_up(nets, node, facts)
        if net is not None:
            net.select((node,), found)
    return found


def _anchors(
    nets: Mapping[CallKey, Net], index: OperatorIndex, facts: GraphFacts
) -> Iterator[tuple[Net, Mapping[fx.Node, None]]]:
    """Every net for which the graph has calls, with these calls."""
    # One look-up for each operator of the graph, however many the rules name.
    for target, nodes in index.functions.items():
        net = nets.get(("call_function", target))
        if net is not None:
            yield net, nodes
    for name, nodes in index.methods.items():
        net = nets.get(("call_method", name))
        if net is not None:
            yield net, nodes
    by_net: dict[int, tuple[Net, dict[fx.Node, None]]] = {}
    for node in index.modules:
        net = look_up(nets, node, facts)
        if net is not None:
            by_net.setdefault(id(net), (net, {}))[1][node] = None
    yield from by_net.values()


# --- the rarest operator ---


def _worth_a_look(
    net: Net, anchors: Mapping[fx.Node, None], index: OperatorIndex
) -> Iterable[fx.Node]:
    """The anchors that stand above the rarest operator of some sketch.

    All of them, where to look for the others costs more than it saves.
    """
    if len(net.sketches) * _COST > len(anchors):
        return anchors
    starts = _starts(net.sketches, index, len(anchors) // 2)
    found: dict[fx.Node, None] = {}
    for test, nodes in starts or ():
        above = _above(nodes, len(test.position), len(anchors) // 2)
        if above is None:
            return anchors
        found.update(above)
    return anchors if starts is None else [node for node in found if node in anchors]


def _starts(
    sketches: Iterable[Sketch], index: OperatorIndex, most: int
) -> list[tuple[IsCall, list[fx.Node]]] | None:
    """For each sketch the test that the fewest nodes pass, and these nodes.

    None if they are more than `most`, or if a sketch has no such test.
    """
    rarest: dict[IsCall, int] = {}
    for sketch in sketches:
        counts = [(index.count(t.keys), t) for t in sketch if isinstance(t, IsCall)]
        count, test = min(counts, key=itemgetter(0), default=(most + 1, None))
        if test is not None:
            rarest[test] = count
        if test is None or sum(rarest.values()) > most:
            return None
    return [(test, index.calls(test.keys)) for test in rarest]


def _above(
    nodes: Iterable[fx.Node], depth: int, most: int
) -> Mapping[fx.Node, None] | None:
    """The users of nodes, so many calls up; None if they are more than `most`."""
    level = dict.fromkeys(nodes)
    for _ in range(depth):
        level = dict.fromkeys(user for node in level for user in node.users)
        if len(level) > most:
            return None
    return level
