"""Instructions for chains: one link after the other, then what they stand on."""

from __future__ import annotations

from typing import Any

import attrs

from rewrite_engine.matching.instructions import Stepped
from rewrite_engine.matching.machine import Machine, Registers, Step
from rewrite_engine.matching.readings import UNBOUND


@attrs.frozen
class ChainSlots:
    """The registers of a chain. Lists are tuples: paths share them."""

    current: int
    """What is to be matched next; at the end, what the chain stands on."""
    hole: int
    count: int
    calls: int
    """Every call of every link, each with the spelling found."""
    lists: tuple[tuple[int, int], ...]
    """For each name inside a link: its register there, and the one of the list."""
    link_calls: tuple[tuple[int, int], ...]
    local: tuple[int, ...]
    """The registers that each link uses anew."""
    least: int


@attrs.define(eq=False, slots=False)
class Enter(Stepped):
    """Start of a chain: no link yet."""

    source: int
    chain: ChainSlots

    def step(self, registers: Registers, machine: Machine) -> Step | None:
        chain = self.chain
        registers[chain.current] = registers[self.source]
        registers[chain.calls] = ()
        registers[chain.count] = 0
        for _, gathered in chain.lists:
            registers[gathered] = ()
        return self.next


@attrs.define(eq=False, slots=False)
class Repeat(Stepped):
    """One more link, or what the chain stands on: the longest chain comes first."""

    chain: ChainSlots
    link: Any = None
    done: Any = None

    def step(self, registers: Registers, machine: Machine) -> Step | None:
        if registers[self.chain.count] >= self.chain.least:
            machine.pending.append((self.done, registers.copy()))
        for slot in self.chain.local:
            registers[slot] = UNBOUND
        first: Step = self.link
        return first


@attrs.define(eq=False, slots=False)
class Advance(Stepped):
    """End of a link: keep what it bound, go on where its hole is."""

    chain: ChainSlots

    def step(self, registers: Registers, machine: Machine) -> Step | None:
        chain = self.chain
        for slot, gathered in chain.lists:
            value = registers[slot]
            registers[gathered] += (None if value is UNBOUND else value,)
        registers[chain.calls] += tuple(
            (registers[node], registers[spelling])
            for node, spelling in chain.link_calls
            if registers[spelling] is not UNBOUND
        )
        registers[chain.current] = registers[chain.hole]
        registers[chain.count] += 1
        return self.next
