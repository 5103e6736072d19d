"""Where the parts of a rule's match are in the registers of an accepted path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from torch import fx

from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.lowering.spellings import Spelling
from rewrite_engine.matching.machine import Registers
from rewrite_engine.matching.match import CapturedCalls, Match, View
from rewrite_engine.matching.readings import UNBOUND
from rewrite_engine.matching.run_code import RunCode, tuple_of


@attrs.frozen
class CaptureLayout:
    """Registers of a capture: its root, its hole, and the calls in between, of which
    those of chains are lists.
    """

    root: int
    hole: int | None
    calls: tuple[int, ...]
    chains: tuple[int, ...] = ()

    def read(self, registers: Registers) -> CapturedCalls | None:
        root = _bound(registers[self.root])
        if root is None:
            return None
        inside = [_bound(registers[slot]) for slot in self.calls]
        for slot in self.chains:
            inside += [call for call, _ in _bound(registers[slot]) or ()]
        calls = tuple(sorted({call for call in inside if call is not None}))
        hole = None if self.hole is None else _bound(registers[self.hole])
        return CapturedCalls(root, hole, calls)


@attrs.frozen(eq=False)
class MatchLayout:
    """The registers of what a match of a rule holds."""

    rule: CompiledRule
    names: Mapping[str, int]
    calls: tuple[tuple[int, int], ...]
    """Of every call of the pattern: its node, and the spelling found."""
    captures: Mapping[str, CaptureLayout]
    chains: tuple[int, ...]
    """Of the calls of each chain."""
    row: int | None
    roots: tuple[int, ...]

    def read(self, registers: Registers, view: View | None) -> Match:
        """The match that the registers describe."""
        bindings: dict[str, Any]
        bindings = {name: _named(registers[slot]) for name, slot in self.names.items()}
        for name, capture in self.captures.items():
            bindings[name] = capture.read(registers)
        row = 0 if self.row is None else (_bound(registers[self.row]) or 0)
        roots = tuple(registers[slot] for slot in self.roots)
        calls = dict(sorted(self._calls(registers).items()))
        return Match(self.rule, bindings, calls, roots, row, view)

    def _calls(self, registers: Registers) -> dict[fx.Node, Spelling]:
        found: dict[fx.Node, Spelling] = {
            registers[node]: registers[spelling]
            for node, spelling in self.calls
            if registers[spelling] is not UNBOUND
        }
        for slot in self.chains:
            found.update(_bound(registers[slot]) or ())
        return found

    def source(self, code: RunCode) -> str:
        """An expression that makes the match where a run of instructions ends."""
        if not code.is_first or self.captures or self.chains or self.row is not None:
            code.save()
            read = code.constant(self.read, "reads the match")
            return f"{read}(r, machine.view())"
        names = [code.constant(name, repr(name)) for name in self.names]
        values = [_source(code, slot) for slot in self.names.values()]
        calls = [
            f"{code.value(node)}: {code.value(spelling)}"
            for node, spelling in self.calls
            if not code.is_unbound(spelling)
        ]
        roots = tuple_of(map(code.value, self.roots))
        bindings = ", ".join(map("{}: {}".format, names, values))
        found = f"{{{', '.join(calls)}}}"
        if len(calls) > 1:
            found = f"dict(sorted({found}.items()))"
        rule = code.constant(self.rule, f"rule {self.rule.name}")
        return f"Match({rule}, {{{bindings}}}, {found}, {roots}, 0, machine.view())"


def _source(code: RunCode, slot: int) -> str:
    if code.is_unbound(slot):
        return "None"
    value = code.value(slot)
    return (
        value if code.is_bound(slot) else f"(None if {value} is UNBOUND else {value})"
    )


def _bound(value: Any) -> Any:
    return None if value is UNBOUND else value


def _named(value: Any) -> Any:
    """What a name stands for; the names of a chain stand for lists."""
    return list(value) if type(value) is tuple else _bound(value)
