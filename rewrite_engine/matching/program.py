"""A matching program as values: what to run for which node."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import cached_property
from typing import Any

import attrs

from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.lowering.spellings import CallKey
from rewrite_engine.matching.compiler import RuleCompiler, RuleInstructions
from rewrite_engine.matching.net import Net
from rewrite_engine.matching.sketches import Sketch


@attrs.frozen(eq=False, slots=False)
class RuleProgram:
    """One rule: where it is looked for, and what it does there."""

    rule: CompiledRule
    sketches: Mapping[CallKey, tuple[Sketch, ...]]
    """What it looks like where it matches, by the calls that can anchor it."""

    @cached_property
    def instructions(self) -> RuleInstructions:
        """Made where the rule is first tried."""
        return RuleCompiler.compile(self.rule)


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
        if len(numbers) == 1:
            return [self.rules[numbers[0]]]
        return [self.rules[number] for number in sorted(set(numbers))]
