"""Which register holds what a search finds for the parts of a matcher graph."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from torch import fx

from rewrite_engine.lowering import markers
from rewrite_engine.lowering.operators import OperatorPattern
from rewrite_engine.lowering.patterns import below, chains_below, is_shared
from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.matching.chains import ChainSlots
from rewrite_engine.matching.layouts import CaptureLayout, MatchLayout
from rewrite_engine.matching.structure import calls_between


@attrs.define(eq=False)
class Slots:
    """The registers of one rule, of which the first holds the anchor.

    Those of `nodes` hold what was found for a node of the matcher, those of
    `spellings` how a call of it is written in the graph, `row` the row of the family.
    """

    _matcher: fx.Graph
    nodes: dict[fx.Node, int] = attrs.field(factory=dict)
    spellings: dict[fx.Node, int] = attrs.field(factory=dict)
    chains: dict[fx.Node, ChainSlots] = attrs.field(factory=dict)
    row: int | None = None
    size: int = 1

    @staticmethod
    def of(matcher: fx.Graph) -> Slots:
        """Registers for all that a match is made of."""
        slots = Slots(matcher)
        slots._assign()
        return slots

    def new(self) -> int:
        """One more register."""
        self.size += 1
        return self.size - 1

    def _assign(self) -> None:
        for node in self._matcher.nodes:
            named = node.op == "placeholder" or "names" in node.meta
            if named or is_shared(node):
                self.nodes[node] = self.new()
            if isinstance(node.target, OperatorPattern):
                self.nodes.setdefault(node, self.size)
                self.size = max(self.size, self.nodes[node] + 1)
                self.spellings[node] = self.new()
                if node.target.is_slot and self.row is None:
                    self.row = self.new()
        for node in self._matcher.nodes:
            if node.target is markers.chain:
                self.chains[node] = self._chain(node)

    def _chain(self, chain: fx.Node) -> ChainSlots:
        link, hole, _, least = chain.args
        self.nodes[hole] = self.new()
        inside = list(below(link))
        named = [node for node in inside if node.op == "placeholder"]
        calls = [node for node in inside if node in self.spellings]
        spellings = [self.spellings[node] for node in calls]
        local = [self.nodes[node] for node in inside if node in self.nodes]
        return ChainSlots(
            self.new(),
            self.nodes[hole],
            self.new(),
            self.new(),
            tuple((self.nodes[node], self.new()) for node in named),
            tuple(zip((self.nodes[n] for n in calls), spellings, strict=True)),
            (*local, *spellings),
            least,
        )

    def names(self) -> dict[str, int]:
        """The registers of the names of the rule; those in chains stand for lists."""
        lists = dict(pair for chain in self.chains.values() for pair in chain.lists)
        return {
            name: lists.get(slot, slot)
            for node, slot in self.nodes.items()
            for name in node.meta.get("names", ())
        }

    def layout(self, rule: CompiledRule, roots: tuple[int, ...]) -> MatchLayout:
        """Where the parts of a match are, whose roots are in these registers."""
        calls = (
            (self.nodes[node], spelling)
            for node, spelling in self.spellings.items()
            if "each" not in node.meta
        )
        return MatchLayout(
            rule,
            self.names(),
            tuple(calls),
            dict(self._captures()),
            tuple(chain.calls for chain in self.chains.values()),
            self.row,
            roots,
        )

    def _captures(self) -> Iterator[tuple[str, CaptureLayout]]:
        for node in self._matcher.nodes:
            if node.target is not markers.captured:
                continue
            name, value, hole = node.args
            inside = calls_between(value, hole)
            calls = tuple(self.nodes[call] for call in inside)
            held = None if hole is None else self.nodes.get(hole)
            if value.target is markers.chain:
                held = self.chains[value].current
            chains = tuple(self.chains[chain].calls for chain in _held(value, hole))
            yield name, CaptureLayout(self.nodes[node], held, calls, chains)


def _held(value: fx.Node, hole: fx.Node | None) -> list[fx.Node]:
    """The chains of a capture: down to its hole, or the one that it names."""
    if hole is None:
        return [value] if value.target is markers.chain else []
    outside = set(below(hole))
    return [chain for chain in chains_below(value) if chain not in outside]
