"""The source of a run of instructions, while they are added to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs
from torch import fx

from rewrite_engine.lowering.literals import is_literal, literals_equal
from rewrite_engine.matching.generated import function_of
from rewrite_engine.matching.match import Match
from rewrite_engine.matching.readings import UNBOUND
from rewrite_engine.matching.sketches import PLAIN

_HELPERS: Final[dict[str, Any]] = {
    "Match": Match,
    "Node": fx.Node,
    "PLAIN": PLAIN,
    "UNBOUND": UNBOUND,
    "is_literal": is_literal,
    "literals_equal": literals_equal,
}


@attrs.define(eq=False)
class RunCode:
    """A function of the registers `r` and the machine.

    Registers that it has read or written are at hand in variables: register 5 is `v5`,
    or the variable that it was copied from.
    """

    is_first: bool = False
    """Whether the rule's program starts here: what is not at hand is not bound."""
    lines: list[str] = attrs.field(factory=lambda: ["def run(r, machine):"])
    constants: dict[str, Any] = attrs.field(factory=dict)
    meanings: dict[str, str] = attrs.field(factory=dict)
    """What to call each constant, for those who read the source."""
    _at_hand: dict[int, str] = attrs.field(factory=dict)
    _bound: set[int] = attrs.field(factory=set)
    """Registers at hand that hold something."""
    _unsaved: dict[int, None] = attrs.field(factory=dict)
    """Registers that are at hand only."""
    _saved: set[int] = attrs.field(factory=set)

    @property
    def text(self) -> str:
        return "\n    ".join(self.lines) + "\n"

    def function(self) -> Callable[..., Any]:
        return function_of(self.text, {**_HELPERS, **self.constants})

    def line(self, text: str) -> None:
        self.lines.append(text)

    def fail_if(self, condition: str) -> None:
        self.line(f"if {condition}:")
        self.line("    return None")

    def constant(self, value: object, meaning: str) -> str:
        """A name for a value that is no part of the text."""
        name = f"C{len(self.constants)}"
        self.constants[name] = value
        self.meanings[name] = meaning
        return name

    # --- registers ---

    def value(self, register: int) -> str:
        """What a register holds, `UNBOUND` included."""
        if register not in self._at_hand:
            self._at_hand[register] = f"v{register}"
            self.line(f"v{register} = r[{register}]")
        return self._at_hand[register]

    def is_unbound(self, register: int) -> bool:
        """Whether nothing can have been put into a register."""
        known = register in self._at_hand or register in self._saved
        return self.is_first and not known

    def is_bound(self, register: int) -> bool:
        """Whether it is certain that a register holds something."""
        return register in self._bound

    def put(self, register: int, value: str) -> None:
        """A register holds the value of a variable."""
        self._at_hand[register] = value
        self._bound.add(register)
        self._unsaved[register] = None

    def save(self) -> None:
        """Write what others read: from here on, the list of registers is complete."""
        for register in self._unsaved:
            self.line(f"r[{register}] = {self._at_hand[register]}")
        self._saved.update(self._unsaved)
        self._unsaved.clear()

    def changed(self, registers: Iterable[int]) -> None:
        """Others may have put something into these registers."""
        for register in registers:
            self._at_hand.pop(register, None)
            self._bound.discard(register)
            self._saved.add(register)


def tuple_of(parts: Iterable[str]) -> str:
    """The source of a tuple."""
    found = list(parts)
    return f"({found[0]},)" if len(found) == 1 else f"({', '.join(found)})"
