"""Watches a run: the graph before and after, and each rewrite with what is around it.

Everything is kept as text, for the nodes themselves change and go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs
from torch import fx, nn

from rewrite_engine.explaining.dialects import call_text
from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.graph_text import Model, line_writer
from rewrite_engine.matching.match import Match
from rewrite_engine.reporting.layout import Drawing, DrawnNode, NodeKind
from rewrite_engine.reporting.rows import Row, Snapshot, aligned, grouped
from rewrite_engine.rewriting.build import Built
from rewrite_engine.rewriting.state import State
from rewrite_engine.tensor_types import attribute

MOST_DRAWN = 60
"""Nodes of one drawing."""

_READERS = 3


@attrs.frozen
class Rewrite:
    """One rewrite of a run; `number` counts from 1."""

    number: int
    rule: str
    place: str
    """Where the rule stands."""
    anchor: str
    removed: tuple[str, ...]
    """The matched nodes."""
    created: tuple[str, ...]
    before: Drawing
    after: Drawing


@attrs.frozen
class GraphRecord:
    """What a run did to one graph."""

    rows: tuple[Row, ...]
    rewrites: tuple[Rewrite, ...]


@attrs.define(eq=False)
class Recorder:
    """Records the run on one graph."""

    model: Model
    facts: GraphFacts
    before: Snapshot
    run: list[Rewrite]
    """The rewrites on all graphs so far."""
    rewrites: list[Rewrite] = attrs.field(factory=list)
    numbers: dict[fx.Node, int] = attrs.field(factory=dict)
    _pending: Rewrite | None = None
    _nodes: tuple[fx.Node, ...] = ()

    def replacing(self, match: Match, built: Built) -> None:
        """Take down what is about to be replaced, and by what."""
        number = 1 + len(self.run)
        rule = match.rule
        calls, created = tuple(match.calls), built.created
        readers = _readers(match)
        self._pending = Rewrite(
            number,
            rule.name,
            rule.place,
            match.anchor.name,
            tuple(call.name for call in calls),
            tuple(node.name for node in created),
            self._drawing(calls, readers, "matched", {}),
            self._drawing(created, readers, "created", built.replaced),
        )
        self._nodes = (*calls, *created)

    def rewritten(self, match: Match) -> None:
        """Keep the last one."""
        assert self._pending is not None
        self.rewrites.append(self._pending)
        self.run.append(self._pending)
        for node in self._nodes:
            self.numbers.setdefault(node, self._pending.number)

    def _drawing(
        self,
        inside: Iterable[fx.Node],
        readers: Iterable[fx.Node],
        kind: NodeKind,
        replaced: Mapping[fx.Node, fx.Node],
    ) -> Drawing:
        """Some nodes with what they read and the readers of their results.

        `replaced` are old results: their readers are drawn as reading the new ones.
        """
        inner = list(inside)[:MOST_DRAWN]
        outer = [node for node in dict.fromkeys(readers) if node not in inner]
        reads = [operand for node in inner for operand in node.all_input_nodes]
        near = dict.fromkeys([*reads, *replaced.values()])
        inputs = [node for node in near if node not in inner]
        inputs = inputs[: max(0, MOST_DRAWN - len(inner) - len(outer))]
        kinds: dict[fx.Node, NodeKind] = dict.fromkeys(inputs, "input")
        kinds |= dict.fromkeys(inner, kind)
        kinds |= dict.fromkeys(outer, "reader")
        drawn = (DrawnNode(n.name, _label(n, self.facts), k) for n, k in kinds.items())
        return Drawing(tuple(drawn), _edges(kinds, replaced))

    def close(self) -> GraphRecord:
        """The record, once the run has ended."""
        after = Snapshot.of(self.facts.module.graph, line_writer(self.model))
        rows = tuple(grouped(aligned(self.before, after, self.numbers)))
        return GraphRecord(rows, tuple(self.rewrites))


@attrs.define(eq=False)
class Recording:
    """Records the runs on all graphs of a model."""

    model: Model
    recorders: list[Recorder] = attrs.field(factory=list)
    run: list[Rewrite] = attrs.field(factory=list)

    def watch(self, state: State) -> Recorder:
        """A recorder for one graph, before it is changed."""
        module = state.facts.module
        outermost = getattr(self.model, "graph_module", self.model)
        model = self.model if module is outermost else module
        before = Snapshot.of(module.graph, line_writer(model))
        recorder = Recorder(model, state.facts, before, self.run)
        self.recorders.append(recorder)
        return recorder

    def close(self) -> tuple[GraphRecord, ...]:
        return tuple(recorder.close() for recorder in self.recorders)


def _readers(match: Match) -> list[fx.Node]:
    users = (user for root in match.roots for user in root.users)
    return [user for user in dict.fromkeys(users) if user not in match.calls][:_READERS]


def _edges(
    kinds: Mapping[fx.Node, NodeKind], replaced: Mapping[fx.Node, fx.Node]
) -> tuple[tuple[int, int], ...]:
    """Reads among the nodes of a drawing; those of its inputs are left out."""
    position = {node: i for i, node in enumerate(kinds)}
    edges = (
        (position[operand], position[node])
        for node in kinds
        if kinds[node] != "input"
        for operand in (replaced.get(o, o) for o in node.all_input_nodes)
        if kinds.get(operand, "reader") != "reader"
    )
    return tuple(dict.fromkeys(edges))


def _label(node: fx.Node, facts: GraphFacts) -> str:
    """What a node is, in a word: `conv2d`, `input`, `parameter`."""
    if node.op == "placeholder" and node.name not in facts.lifted:
        return "input"
    if node.op in ("placeholder", "get_attr"):
        found = facts.lifted.get(node.name)
        value = attribute(facts.module, str(node.target)) if found is None else found
        return "parameter" if isinstance(value, nn.Parameter) else "state"
    if node.op == "output":
        return "output"
    parts = call_text(node).partition(" ")[0].lstrip(".").split(".")
    has_overload = len(parts) == 3
    return parts[1] if has_overload else parts[-1]
