"""The instruction set of the matching program.

A program is a graph of instructions over a list of registers. An instruction reads
and writes registers and returns the next one, or None when this path fails. Paths that
are still to be tried wait in `Machine.pending`, each with its own registers, so
alternatives backtrack fully and nothing recurses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs
from torch import fx

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.lowering.guards import Condition
from rewrite_engine.lowering.literals import is_literal, literals_equal
from rewrite_engine.lowering.operators import CallKey, look_up
from rewrite_engine.matching.readings import UNBOUND, Reading

STEPS = 10_000
"""Instructions that the search at one candidate may take."""

Registers = list[Any]


class Instruction(Protocol):
    def step(self, registers: Registers, machine: Machine) -> Instruction | None:
        """Do the work; the next instruction, or None if this path fails."""


class SearchLimitError(Exception):
    """A candidate took more steps than its budget allows."""


@attrs.define(eq=False)
class Machine:
    """One search: the facts it may ask about, what ends it, and its waiting paths."""

    facts: GraphFacts
    accept: Callable[[Registers], bool]
    budget: int
    pending: list[tuple[Instruction, Registers]] = attrs.field(factory=list)
    looked_at: dict[fx.Node, None] = attrs.field(factory=dict)
    """The nodes that were looked at as calls, on all paths."""
    refuted: bool = False
    """Whether a guard has ended a path."""

    def run(self, entry: Instruction, registers: Registers) -> bool:
        """Whether some path from `entry` reaches an `Accept` that is accepted."""
        pending = self.pending
        bottom = len(pending)
        instruction: Instruction | None = entry
        while True:
            while instruction is not None:
                self.budget -= 1
                if self.budget < 0:
                    raise SearchLimitError
                if instruction is ACCEPTED:
                    del pending[bottom:]
                    return True
                instruction = instruction.step(registers, self)
            if len(pending) == bottom:
                return False
            instruction, registers = pending.pop()


class _Accepted:
    def step(self, registers: Registers, machine: Machine) -> Instruction | None:
        raise AssertionError("the machine stops here")


ACCEPTED: Instruction = _Accepted()


@attrs.define(eq=False)
class Linked:
    """An instruction with one successor, set when its block is linked."""

    next: Any = attrs.field(default=None, init=False, repr=False)


@attrs.define(eq=False)
class Accept(Linked):
    """The pattern is complete: ask whether the match is wanted."""

    def step(self, registers: Registers, machine: Machine) -> Instruction | None:
        return ACCEPTED if machine.accept(registers) else None


@attrs.define(eq=False)
class BindValue(Linked):
    """A graph value: the first one seen, and the same node from then on."""

    source: int
    slot: int

    def step(self, registers: Registers, machine: Machine) -> Instruction | None:
        value = registers[self.source]
        bound = registers[self.slot]
        if bound is value:
            return None if value is None else self.next
        if bound is not UNBOUND or not isinstance(value, fx.Node):
            return None
        registers[self.slot] = value
        return self.next


@attrs.define(eq=False)
class BindLiteral(Linked):
    """A literal: the first one seen, and an equal one from then on."""

    source: int
    slot: int

    def step(self, registers: Registers, machine: Machine) -> Instruction | None:
        value = registers[self.source]
        if not is_literal(value):
            return None
        bound = registers[self.slot]
        if bound is UNBOUND:
            registers[self.slot] = value
            return self.next
        return self.next if literals_equal(bound, value) else None


@attrs.define(eq=False)
class BindList(Linked):
    """`*xs`: a list of graph values."""

    source: int
    slot: int

    def step(self, registers: Registers, machine: Machine) -> Instruction | None:
        values = registers[self.source]
        bound = registers[self.slot]
        if not all(isinstance(value, fx.Node) for value in values):
            return None
        if bound is UNBOUND:
            registers[self.slot] = list(values)
            return self.next
        return self.next if list(values) == bound else None


@attrs.define(eq=False)
class Equal(Linked):
    """A literal that the pattern spells out."""

    source: int
    literal: Any

    def step(self, registers: Registers, machine: Machine) -> Instruction | None:
        same = literals_equal(self.literal, registers[self.source])
        return self.next if same else None


@attrs.define(eq=False)
class Same(Linked):
    """A pattern node that this path has matched before."""

    source: int
    slot: int

    def step(self, registers: Registers, machine: Machine) -> Instruction | None:
        return self.next if registers[self.source] is registers[self.slot] else None


@attrs.define(eq=False)
class Record(Linked):
    """Remember what a named alternative or a capture stands for."""

    source: int
    slot: int

    def step(self, registers: Registers, machine: Machine) -> Instruction | None:
        registers[self.slot] = registers[self.source]
        return self.next


@attrs.define(eq=False)
class Once(Linked):
    """A pattern node that some paths have matched before, and others have not."""

    source: int
    slot: int
    first: Any = attrs.field(default=None, init=False, repr=False)

    def step(self, registers: Registers, machine: Machine) -> Instruction | None:
        bound = registers[self.slot]
        if bound is UNBOUND:
            return self.first
        return self.next if bound is registers[self.source] else None


@attrs.define(eq=False)
class Unpack(Linked):
    """A list operand: `head` items, at most one run of others, `tail` items."""

    source: int
    head: tuple[int, ...]
    others: int | None
    tail: tuple[int, ...]

    def step(self, registers: Registers, machine: Machine) -> Instruction | None:
        items = registers[self.source]
        if not isinstance(items, (list, tuple)):
            return None
        extra = len(items) - len(self.head) - len(self.tail)
        if extra < 0 or (extra > 0 and self.others is None):
            return None
        for register, item in zip(self.head, items, strict=False):
            registers[register] = item
        for register, item in zip(
            self.tail, items[len(items) - len(self.tail) :], strict=True
        ):
            registers[register] = item
        if self.others is not None:
            registers[self.others] = items[len(self.head) : len(self.head) + extra]
        return self.next


@attrs.define(eq=False)
class Fork:
    """Alternatives: the first is tried now, the others when it fails."""

    branches: list[Any] = attrs.field(factory=list)

    def step(self, registers: Registers, machine: Machine) -> Instruction | None:
        for branch in reversed(self.branches[1:]):
            machine.pending.append((branch, registers.copy()))
        return self.branches[0]


@attrs.define(eq=False)
class IfAbsent:
    """An optional operand: not given (or `None`) takes the first way."""

    source: int
    absent: Any = None
    present: Any = None

    def step(self, registers: Registers, machine: Machine) -> Instruction | None:
        missing = registers[self.source] is None
        return self.absent if missing else self.present


@attrs.define(eq=False)
class Forget(Linked):
    """Optional names of a part that is skipped: absent in the whole match."""

    slots: tuple[int, ...]

    def step(self, registers: Registers, machine: Machine) -> Instruction | None:
        for slot in self.slots:
            if registers[slot] is not UNBOUND and registers[slot] is not None:
                return None
            registers[slot] = None
        return self.next


@attrs.define(eq=False)
class Check(Linked):
    """A guard without a reason: it filters as soon as its names are bound."""

    condition: Condition
    scope: Callable[[Registers, GraphFacts], Any]

    def step(self, registers: Registers, machine: Machine) -> Instruction | None:
        if self.condition.holds(self.scope(registers, machine.facts)):
            following: Instruction = self.next
            return following
        machine.refuted = True
        return None


@attrs.define(eq=False)
class Climb(Linked):
    """Candidates for a further root: the users, `depth` calls up, of a bound node."""

    slot: int
    depth: int
    target: int

    def step(self, registers: Registers, machine: Machine) -> Instruction | None:
        nodes = [registers[self.slot]]
        for _ in range(self.depth):
            nodes = list(dict.fromkeys(user for node in nodes for user in node.users))
        for node in reversed(nodes):
            copy = registers.copy()
            copy[self.target] = node
            machine.pending.append((self.next, copy))
        return None


@attrs.define(eq=False)
class Call(Linked):
    """A call of an operator, in any of its spellings and operand orders."""

    source: int
    first: int
    """The register of its first operand; the others follow."""
    readings: Mapping[CallKey, tuple[Reading, ...]]

    def step(self, registers: Registers, machine: Machine) -> Instruction | None:
        node = registers[self.source]
        if not isinstance(node, fx.Node):
            return None
        machine.looked_at[node] = None
        readings = look_up(self.readings, node, machine.facts)
        if readings is None:
            return None
        for reading in readings[:0:-1]:
            machine.pending.append((Case(self, reading), registers.copy()))
        return self.read(readings[0], registers, machine)

    def read(
        self, reading: Reading, registers: Registers, machine: Machine
    ) -> Instruction | None:
        """Read the call in one way."""
        node = registers[self.source]
        operands = reading.operands(node, machine.facts)
        if operands is None or not reading.row_fits(registers):
            return None
        registers[self.first : self.first + len(operands)] = operands
        registers[reading.slot] = node
        registers[reading.spelling_slot] = reading.found
        following: Instruction = self.next
        return following


@attrs.frozen(eq=False)
class Case:
    """A call that is still to be read in one way, after others have failed."""

    call: Call
    reading: Reading

    def step(self, registers: Registers, machine: Machine) -> Instruction | None:
        return self.call.read(self.reading, registers, machine)
