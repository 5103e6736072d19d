"""The instruction set of the matching program.

An instruction reads and writes registers and leads to the next one, or fails. Those
that most rules need add their source to that of the run which they are in; where the
others stand, a run ends and a `step` is made.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

import attrs
from torch import fx

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.lowering.guards import Condition
from rewrite_engine.lowering.literals import literals_equal
from rewrite_engine.matching.layouts import MatchLayout
from rewrite_engine.matching.machine import ACCEPTED, Machine, Registers, Step
from rewrite_engine.matching.readings import UNBOUND
from rewrite_engine.matching.run_code import RunCode


@attrs.define(eq=False, slots=False)
class Instruction(ABC):
    """Has one successor, set when its block is linked."""

    next: Any = attrs.field(default=None, init=False, repr=False)

    @abstractmethod
    def emit(self, code: RunCode) -> Instruction | None:
        """Add the source; the instruction that follows in this run, if one does."""

    @property
    def code(self) -> RunCode:
        """The source of the run that starts here."""
        code = RunCode()
        instruction: Instruction | None = self
        while instruction is not None:
            instruction = instruction.emit(code)
        return code

    @cached_property
    def function(self) -> Callable[[Registers, Machine], Step | None]:
        """What does the run that starts here, made when it is first needed."""
        return self.code.function()


@attrs.define(eq=False, slots=False)
class Stepped(Instruction):
    """One that is rare, or whose successor is found out by running it."""

    @abstractmethod
    def step(self, registers: Registers, machine: Machine) -> Step | None:
        """Do the work; the next step, or None if this path fails."""

    @cached_property
    def function(self) -> Callable[[Registers, Machine], Step | None]:
        return self.step

    def emit(self, code: RunCode) -> Instruction | None:
        code.save()
        code.line(f"return {code.constant(self.step, type(self).__name__)}(r, machine)")
        return None


# --- start and end ---


@attrs.define(eq=False, slots=False)
class Start(Instruction):
    """The beginning of a rule's program: nothing but the anchor is known."""

    def emit(self, code: RunCode) -> Instruction | None:
        code.value(0)
        code.is_first = True
        return self.next


@attrs.define(eq=False, slots=False)
class Accept(Instruction):
    """The pattern is complete: ask whether the match is wanted."""

    layout: MatchLayout

    def emit(self, code: RunCode) -> Instruction | None:
        match = self.layout.source(code)
        code.line(f"return machine.accept({match})")
        return None


@attrs.define(eq=False, slots=False)
class Found(Stepped):
    """The pattern of a guard is complete."""

    def step(self, registers: Registers, machine: Machine) -> Step | None:
        return ACCEPTED


# --- names and literals ---


@attrs.define(eq=False, slots=False)
class _Bind(Instruction):
    """A name: the first value seen, and the same one from then on."""

    source: int
    slot: int

    def emit(self, code: RunCode) -> Instruction | None:
        value = code.value(self.source)
        if code.is_unbound(self.slot):
            code.fail_if(f"not ({self.fits(value)})")
            code.put(self.slot, value)
        elif code.is_bound(self.slot):
            code.fail_if(self.differs(code.value(self.slot), value))
        else:
            bound = code.value(self.slot)
            code.line(f"if {bound} is UNBOUND and ({self.fits(value)}):")
            code.line(f"    {bound} = {value}")
            code.line(f"elif {self.differs(bound, value)}:")
            code.line("    return None")
            code.put(self.slot, bound)
        return self.next

    @abstractmethod
    def fits(self, value: str) -> str:
        """Whether a value may be bound, as source."""

    @abstractmethod
    def differs(self, bound: str, value: str) -> str:
        """Whether a value is not the one that is bound, as source."""


@attrs.define(eq=False, slots=False)
class BindValue(_Bind):
    """A graph value."""

    def fits(self, value: str) -> str:
        return f"isinstance({value}, Node)"

    def differs(self, bound: str, value: str) -> str:
        return f"{bound} is not {value} or {value} is None"


@attrs.define(eq=False, slots=False)
class BindOptional(_Bind):
    """A graph value or `None`, which means that it is absent in the whole match."""

    def fits(self, value: str) -> str:
        return f"{value} is None or isinstance({value}, Node)"

    def differs(self, bound: str, value: str) -> str:
        return f"{bound} is not {value}"


@attrs.define(eq=False, slots=False)
class BindLiteral(_Bind):
    """A literal; the others are equal to the first."""

    def fits(self, value: str) -> str:
        return f"{value}.__class__ in PLAIN or is_literal({value})"

    def differs(self, bound: str, value: str) -> str:
        return f"not literals_equal({bound}, {value})"


@attrs.define(eq=False, slots=False)
class BindList(Stepped):
    """`*xs`: a list of graph values."""

    source: int
    slot: int

    def step(self, registers: Registers, machine: Machine) -> Step | None:
        values = registers[self.source]
        bound = registers[self.slot]
        if not all(isinstance(value, fx.Node) for value in values):
            return None
        if bound is UNBOUND:
            registers[self.slot] = list(values)
            return self.next
        return self.next if list(values) == bound else None


@attrs.define(eq=False, slots=False)
class Equal(Instruction):
    """A literal that the pattern spells out."""

    source: int
    literal: Any

    def emit(self, code: RunCode) -> Instruction | None:
        value = code.value(self.source)
        literal = code.constant(self.literal, repr(self.literal))  # no rule says NaN
        different = f"{value} is not {literal} and not literals_equal"
        code.fail_if(f"{different}({literal}, {value})")
        return self.next


@attrs.define(eq=False, slots=False)
class Same(Instruction):
    """A pattern node that this path has matched before."""

    source: int
    slot: int

    def emit(self, code: RunCode) -> Instruction | None:
        value, bound = code.value(self.source), code.value(self.slot)
        code.fail_if(f"{value} is not {bound} and not literals_equal({bound}, {value})")
        return self.next


@attrs.define(eq=False, slots=False)
class Record(Instruction):
    """Remember what a named alternative or a capture stands for."""

    source: int
    slot: int

    def emit(self, code: RunCode) -> Instruction | None:
        code.put(self.slot, code.value(self.source))
        return self.next


@attrs.define(eq=False, slots=False)
class Unpack(Instruction):
    """A list operand: `head` items, at most one run of others, `tail` items."""

    source: int
    head: tuple[int, ...]
    others: int | None
    tail: tuple[int, ...]

    def emit(self, code: RunCode) -> Instruction | None:
        items, least = code.value(self.source), len(self.head) + len(self.tail)
        sign = "!=" if self.others is None else "<"
        code.fail_if(f"not isinstance({items}, (list, tuple))")
        code.fail_if(f"len({items}) {sign} {least}")
        registers = (
            *self.head,
            *(() if self.others is None else (self.others,)),
            *self.tail,
        )
        names = [f"*v{r}" if r == self.others else f"v{r}" for r in registers]
        if names:
            code.line(f"[{', '.join(names)}] = {items}")
        for register in registers:
            code.put(register, f"v{register}")
        return self.next


# --- alternatives ---


@attrs.define(eq=False, slots=False)
class Once(Stepped):
    """A pattern node that some paths have matched before, and others have not."""

    source: int
    slot: int
    first: Any = attrs.field(default=None, init=False, repr=False)

    def step(self, registers: Registers, machine: Machine) -> Step | None:
        bound = registers[self.slot]
        if bound is UNBOUND:
            first: Step = self.first
            return first
        value = registers[self.source]
        is_same = bound is value or literals_equal(bound, value)
        return self.next if is_same else None


@attrs.define(eq=False, slots=False)
class Fork(Instruction):
    """Alternatives: the first is tried now, the others when it fails."""

    branches: list[Any] = attrs.field(factory=list)

    def emit(self, code: RunCode) -> Instruction | None:
        code.save()
        first, *others = self.branches
        for branch in reversed(others):
            way = code.constant(branch, "another way")
            code.line(f"machine.pending.append(({way}, r.copy()))")
        return first


@attrs.define(eq=False, slots=False)
class IfAbsent(Stepped):
    """An optional operand: not given (or `None`) takes the first way."""

    source: int
    absent: Any = None
    present: Any = None

    def step(self, registers: Registers, machine: Machine) -> Step | None:
        missing = registers[self.source] is None
        way: Step = self.absent if missing else self.present
        return way


@attrs.define(eq=False, slots=False)
class Forget(Stepped):
    """Optional names of a part that is skipped: absent in the whole match."""

    slots: tuple[int, ...]

    def step(self, registers: Registers, machine: Machine) -> Step | None:
        for slot in self.slots:
            if registers[slot] is not UNBOUND and registers[slot] is not None:
                return None
            registers[slot] = None
        return self.next


# --- guards and further roots ---


@attrs.define(eq=False, slots=False)
class Check(Instruction):
    """A guard: it filters as soon as its names are bound, or it refuses the match."""

    condition: Condition
    scope: Callable[[Registers, GraphFacts], Any]
    binds: tuple[int, ...]

    def emit(self, code: RunCode) -> Instruction | None:
        code.save()
        condition = code.constant(self.condition, self.condition.text)
        scope = code.constant(self.scope, "the names in it")
        code.line(f"if not {condition}.holds({scope}(r, machine.facts)):")
        code.line(f"    return machine.refute({condition})")
        code.changed(self.binds)
        return self.next


@attrs.define(eq=False, slots=False)
class Climb(Stepped):
    """Candidates for a further root: the users, `depth` calls up, of a bound node."""

    slot: int
    depth: int
    target: int

    def step(self, registers: Registers, machine: Machine) -> Step | None:
        nodes = [registers[self.slot]]
        for _ in range(self.depth):
            nodes = list(dict.fromkeys(user for node in nodes for user in node.users))
        for node in reversed(nodes):
            copy = registers.copy()
            copy[self.target] = node
            machine.pending.append((self.next, copy))
        return None
