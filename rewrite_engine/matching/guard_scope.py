"""The names of a rule while it is being matched, for its guards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import attrs
from torch import fx

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.matching.machine import Machine, Registers, Step
from rewrite_engine.matching.readings import UNBOUND


@attrs.frozen(eq=False)
class GuardPattern:
    """The program of a guard's pattern; it shares the registers of its rule."""

    entry: Step
    register: int
    size: int

    def matches(self, node: fx.Node, registers: Registers, facts: GraphFacts) -> bool:
        extra = [UNBOUND] * (self.size - len(registers))
        copy = registers + extra
        copy[self.register] = node
        return Machine(facts, lambda match: None).run(self.entry, copy)


@attrs.define(eq=False)
class _RegisterScope:
    """The names of a rule while it is being matched."""

    facts: GraphFacts
    registers: Registers
    slots: Mapping[str, int]
    patterns: Callable[[fx.Node], GuardPattern]

    def value(self, name: str) -> Any:
        value = self.registers[self.slots[name]]
        return None if value is UNBOUND else value

    def bind(self, name: str, value: Any) -> None:
        self.registers[self.slots[name]] = value

    def matches(self, node: fx.Node, pattern: Any) -> bool:
        return self.patterns(pattern).matches(node, self.registers, self.facts)


def scope_factory(
    slots: Mapping[str, int], compile_pattern: Callable[[fx.Node], GuardPattern]
) -> Callable[[Registers, GraphFacts], _RegisterScope]:
    """Scopes for a guard; its patterns are compiled when they are first asked for."""
    patterns = cache(compile_pattern)
    return lambda registers, facts: _RegisterScope(facts, registers, slots, patterns)
