"""A matching program as values: what to run for which node, and where names live."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from torch import fx

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.lowering.operators import CallKey, look_up
from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.matching import instructions as code
from rewrite_engine.matching.instructions import UNBOUND, Registers


@attrs.frozen(eq=False)
class RuleProgram:
    """The instructions of one rule and where its names live."""

    rule: CompiledRule
    entry: code.Instruction
    size: int
    names: Mapping[str, int]
    calls: tuple[tuple[int, int], ...]
    """Registers of every call of the pattern: its node, and the spelling found."""
    captures: Mapping[str, CaptureLayout]
    chains: tuple[int, ...]
    """Registers of the calls of each chain."""
    row: int | None
    roots: tuple[int, ...]
    refusals: tuple[code.Check, ...]
    """Guards with a reason: a match that fails one is refused."""
    needs: tuple[Mapping[CallKey, object], ...] = ()
    """Calls one of which an anchor must read, for each operand that is a call."""

    def may_match(self, anchor: fx.Node, facts: GraphFacts) -> bool:
        """Whether the anchor reads such calls as the pattern asks for."""
        inputs = anchor.all_input_nodes if self.needs else ()
        return all(any(look_up(n, i, facts) for i in inputs) for n in self.needs)

    def registers(self, anchor: fx.Node) -> Registers:
        registers: Registers = [UNBOUND] * self.size
        registers[0] = anchor
        return registers


@attrs.frozen
class CaptureLayout:
    """Registers of a capture: its root, its hole, and the calls in between, of which
    those of chains are lists.
    """

    root: int
    hole: int | None
    calls: tuple[int, ...]
    chains: tuple[int, ...] = ()


@attrs.frozen(eq=False)
class Program:
    """All rules of a set, by the calls that can anchor them."""

    rules: tuple[RuleProgram, ...]
    anchors: Mapping[CallKey, tuple[RuleProgram, ...]]
    targets: tuple[tuple[str, Any], ...]
    """Every anchoring (op, target), for fx's node index."""
    memory: dict[Any, Any] = attrs.field(factory=dict, init=False, repr=False)
    """What rewriting learned about the rules on one graph, for others like it."""
