"""The instruction that reads a call: in any spelling, operand order and family row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from torch import fx

from rewrite_engine.matching.instructions import Instruction
from rewrite_engine.matching.machine import Machine, Registers, Step
from rewrite_engine.matching.readings import UNBOUND, Operands, Reading, Readings
from rewrite_engine.matching.run_code import RunCode, tuple_of


@attrs.define(eq=False, slots=False)
class Call(Instruction):
    """A call of an operator, in any of its spellings and operand orders."""

    source: int
    operands: tuple[int, ...]
    readings: Readings
    slot: int
    spelling_slot: int
    family: FamilySlots | None

    def emit(self, code: RunCode) -> Instruction | None:
        node, spelling = code.value(self.source), f"s{self.slot}"
        if self.source != 0:
            code.fail_if(f"not isinstance({node}, Node)")
        code.line(f"machine.looked_at[{node}] = None")
        if self.readings.is_single:
            readings = code.constant(self.readings, self.readings.name)
            code.line(f"found = {readings}.only({node}, machine.facts)")
        else:
            code.save()
            call = code.constant(self, f"{self.readings.name}, in several ways")
            code.line(f"found = {call}.first({node}, r, machine)")
        code.fail_if("found is None")
        values = tuple_of(f"v{register}" for register in self.operands)
        code.line(f"{spelling}, {values} = found")
        if self.family is not None:
            code.save()
            family = code.constant(self.family, "the row of the family")
            code.fail_if(f"not {family}.fit(r, {spelling}.row)")
            code.changed(self.family.slots)
        code.put(self.slot, node)
        code.put(self.spelling_slot, spelling)
        for register in self.operands:
            code.put(register, f"v{register}")
        return self.next

    def first(
        self, node: fx.Node, registers: Registers, machine: Machine
    ) -> Operands | None:
        """The call read in the first way; the others wait."""
        readings = self.readings.of(node, machine.facts)
        for reading in readings[:0:-1]:
            machine.pending.append((Case(self, reading), registers.copy()))
        return readings[0].read(node, machine.facts) if readings else None


@attrs.frozen(eq=False)
class Case:
    """A call that is still to be read in one way, after others have failed."""

    call: Call
    reading: Reading

    def function(self, registers: Registers, machine: Machine) -> Step | None:
        call = self.call
        node = registers[call.source]
        found = self.reading.read(node, machine.facts)
        if found is None:
            return None
        spelling, operands = found
        if call.family is not None and not call.family.fit(registers, spelling.row):
            return None
        for register, operand in zip(call.operands, operands, strict=True):
            registers[register] = operand
        registers[call.slot] = node
        registers[call.spelling_slot] = spelling
        following: Step = call.next
        return following


@attrs.frozen(eq=False)
class FamilySlots:
    """The registers of a rule's family: the row, and its literals."""

    row: int
    literals: tuple[Mapping[int, Any], ...]
    """By row, the registers with what they hold there."""

    @property
    def slots(self) -> set[int]:
        return {self.row, *(slot for row in self.literals for slot in row)}

    def fit(self, registers: Registers, row: int) -> bool:
        """Whether the family's row is this one; it is from here on, if it was none."""
        if registers[self.row] is not UNBOUND:
            return bool(registers[self.row] == row)
        registers[self.row] = row
        for slot, value in self.literals[row].items():
            registers[slot] = value
        return True
