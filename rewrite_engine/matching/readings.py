"""How a pattern's call reads the arguments of a node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from torch import fx

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.lowering.literals import literals_equal
from rewrite_engine.lowering.operators import Spelling


class _Unbound:
    def __repr__(self) -> str:
        return "UNBOUND"


UNBOUND: Any = _Unbound()
"""A register that no instruction of this path has written."""


@attrs.frozen(eq=False)
class _Plan:
    """What to do with so many arguments, all given by position.

    The pattern's operands are `picks` of the arguments and, after them, `constants`;
    some arguments must be at a default.
    """

    picks: tuple[int, ...]
    constants: tuple[Any, ...]
    defaults: tuple[tuple[int, Any], ...]
    lists: tuple[int, ...]

    def takes(self, args: tuple[Any, ...]) -> bool:
        """Whether no number stands for a list."""
        return all(type(args[i]) is not int for i in self.lists)

    def holds(self, args: tuple[Any, ...]) -> bool:
        """Whether the arguments that must be at a default are."""
        return all(literals_equal(args[i], default) for i, default in self.defaults)


@attrs.frozen(eq=False)
class Reading:
    """One spelling and one operand order of a pattern's call.

    `found` is the spelling with its operands in that order.
    `names` gives the canonical parameter of each operand of the pattern, in order;
    `defaults` the parameters that must be at their default.
    """

    spelling: Spelling
    found: Spelling
    names: tuple[str, ...]
    defaults: tuple[tuple[str, Any], ...]
    slot: int
    spelling_slot: int
    row_slot: int | None
    row_literals: tuple[tuple[int, Any], ...]
    applies: Callable[[Mapping[str, Any]], bool] | None
    _plans: dict[int, _Plan | None] = attrs.field(factory=dict, init=False, repr=False)
    """By the number of arguments; None where each call is bound by name."""

    def operands(self, node: fx.Node, facts: GraphFacts) -> Sequence[Any] | None:
        """The pattern's operands; None if the call is not what the pattern asks for."""
        args = node.args
        if not node.kwargs:
            count = len(args)
            if count not in self._plans:
                self._plans[count] = self._plan(count)
            plan = self._plans[count]
            if plan is not None and (not plan.lists or plan.takes(args)):
                if plan.defaults and not plan.holds(args):
                    return None
                values = args + plan.constants
                return [values[pick] for pick in plan.picks]
        arguments = self._arguments(node, facts)
        if arguments is None:
            return None
        return [arguments[name] for name in self.names]

    def _arguments(self, node: fx.Node, facts: GraphFacts) -> Mapping[str, Any] | None:
        arguments = self.spelling.arguments(node, facts)
        if arguments is None:
            return None
        if self.applies is not None and not self.applies(arguments):
            return None
        if not all(literals_equal(arguments[name], d) for name, d in self.defaults):
            return None
        return arguments

    def _plan(self, count: int) -> _Plan | None:
        layout = self.spelling.layout(count)
        if layout is None or self.applies is not None:
            return None
        constants = [name for name in self.names if name in layout.defaults]
        place = {**layout.places, **{n: count + i for i, n in enumerate(constants)}}
        checked = []
        for name, default in self.defaults:
            if name in layout.places:
                checked.append((layout.places[name], default))
            elif not literals_equal(layout.defaults[name], default):
                return None
        return _Plan(
            tuple(place[name] for name in self.names),
            tuple(layout.defaults[name] for name in constants),
            tuple(checked),
            layout.lists,
        )

    def row_fits(self, registers: list[Any]) -> bool:
        """Whether the family's row is this one; it is from here on, if it was none."""
        if self.row_slot is None:
            return True
        if registers[self.row_slot] is not UNBOUND:
            return bool(registers[self.row_slot] == self.spelling.row)
        registers[self.row_slot] = self.spelling.row
        for slot, value in self.row_literals:
            registers[slot] = value
        return True
