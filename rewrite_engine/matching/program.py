"""A matching program as values: what to run for which node, and where names live."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import attrs
from torch import fx

from rewrite_engine.lowering.operators import CallKey
from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.matching import instructions as code
from rewrite_engine.matching.instructions import Registers
from rewrite_engine.matching.net import Net
from rewrite_engine.matching.readings import UNBOUND
from rewrite_engine.matching.sketches import Sketch


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
    sketches: Mapping[CallKey, tuple[Sketch, ...]]
    """What it looks like where it matches, by the calls that can anchor it."""

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
    """All rules of a set, larger benefit first, and what tells them apart."""

    rules: tuple[RuleProgram, ...]
    nets: Mapping[CallKey, Net]
    """By the calls that can anchor rules."""
    depths: Mapping[Hashable, int]
    """How far above a call, as `called` names it, the anchors stand that look at it."""
    memory: dict[Any, Any] = attrs.field(factory=dict, init=False, repr=False)
    """What rewriting learned about the rules on one graph, for others like it."""

    def rules_of(self, numbers: tuple[int, ...]) -> list[RuleProgram]:
        """The rules of a node's hits, in their order."""
        return [self.rules[number] for number in sorted(set(numbers))]
