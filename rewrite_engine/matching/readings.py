"""How a pattern's call reads the arguments of a node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter, itemgetter
from typing import Any, Final

import attrs
from torch import fx

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.lowering.literals import literals_equal
from rewrite_engine.lowering.operators import OperatorPattern
from rewrite_engine.lowering.spellings import CallKey, Spelling, look_up
from rewrite_engine.matching.generated import ARGUMENTS, KEYWORDS
from rewrite_engine.matching.structure import defaults, orders

UNBOUND: Any = object()
"""A register that no instruction of this path has written."""

_REMEMBERED: Final = 4096
"""Operators, with operands that patterns name, of which is known how to read them."""

_arguments_of = attrgetter(ARGUMENTS)
_keywords_of = attrgetter(KEYWORDS)

Operands = tuple[Spelling, Sequence[Any]]
"""The spelling of a call with its operands in order, and the pattern's operands."""


@attrs.frozen(eq=False)
class _Plan:
    """What to do with so many arguments, all given by position.

    The pattern's operands are picked from the arguments and, after them, `constants`;
    some arguments must be at a default, and of `lists` none may be a number.
    """

    pick: Callable[[tuple[Any, ...]], tuple[Any, ...]]
    constants: tuple[Any, ...]
    defaults: tuple[tuple[int, Any], ...]
    lists: tuple[int, ...]
    is_picked_only: bool = attrs.field(init=False)

    @is_picked_only.default
    def _has_nothing_else(self) -> bool:
        return not (self.constants or self.defaults or self.lists)


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
    applies: Callable[[Mapping[str, Any]], bool] | None
    _plans: dict[int, _Plan | None] = attrs.field(factory=dict, init=False, repr=False)
    """By the number of arguments; None where each call is bound by name."""

    def read(self, node: fx.Node, facts: GraphFacts) -> Operands | None:
        """None if the call is not what the pattern asks for."""
        args = _arguments_of(node)
        try:
            plan = self._plans[len(args)]
        except KeyError:
            plan = self._plans[len(args)] = self._plan(len(args))
        if plan is None or _keywords_of(node):
            return self._read_by_name(node, facts)
        if plan.is_picked_only:
            return self.found, plan.pick(args)
        for index in plan.lists:
            if type(args[index]) is int:  # one number, which stands for a list
                return self._read_by_name(node, facts)
        for index, default in plan.defaults:
            value = args[index]
            if value is not default and not literals_equal(value, default):
                return None
        return self.found, plan.pick(args + plan.constants)

    def _read_by_name(self, node: fx.Node, facts: GraphFacts) -> Operands | None:
        arguments = self.spelling.arguments(node, facts)
        if arguments is None:
            return None
        if self.applies is not None and not self.applies(arguments):
            return None
        if not all(literals_equal(arguments[name], d) for name, d in self.defaults):
            return None
        return self.found, [arguments[name] for name in self.names]

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
            _picker([place[name] for name in self.names], count + len(constants)),
            tuple(layout.defaults[name] for name in constants),
            tuple(checked),
            layout.lists,
        )


def _picker(
    places: list[int], count: int
) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    if places == list(range(count)):
        return tuple
    if len(places) > 1:
        return itemgetter(*places)
    return lambda values: tuple(values[place] for place in places)


@attrs.frozen(eq=False)
class Readings:
    """The ways in which a pattern's call may be read, by what a node calls."""

    name: str
    """What the rule calls the operator."""
    by_key: Mapping[CallKey, tuple[Reading, ...]]
    is_single: bool
    """Whether there is but one for each."""
    _functions: Mapping[int, tuple[Reading, ...]] = attrs.field(init=False, repr=False)

    @_functions.default
    def _by_function(self) -> Mapping[int, tuple[Reading, ...]]:
        """By the identity of the function, which no other object has meanwhile."""
        items = self.by_key.items()
        return {
            target: readings
            for (op, target), readings in items
            if op == "call_function" and isinstance(target, int)
        }

    def of(self, node: fx.Node, facts: GraphFacts) -> tuple[Reading, ...]:
        """The readings of what a node calls, in the order in which they are tried."""
        found = self._functions.get(id(node.target))
        return found or look_up(self.by_key, node, facts) or ()

    def only(self, node: fx.Node, facts: GraphFacts) -> Operands | None:
        """A call read in the one way in which it may be."""
        readings = self._functions.get(id(node.target)) or self.of(node, facts)
        return readings[0].read(node, facts) if readings else None


@lru_cache(maxsize=_REMEMBERED)
def readings(
    operator: OperatorPattern, operands: tuple[int | str, ...], rest: bool
) -> Readings:
    """How calls are read for a pattern that names these operands.

    Without `rest` (`..`), the others must be at their defaults.
    """
    by_spelling = {
        spelling: tuple(_readings(operator, spelling, operands, rest))
        for spelling in operator.spellings
    }
    found = {
        key: tuple(reading for s in spellings for reading in by_spelling[s])
        for key, spellings in operator.calls().items()
    }
    is_single = all(len(ways) == 1 for ways in found.values())
    return Readings(operator.name, found, is_single)


def _readings(
    operator: OperatorPattern,
    spelling: Spelling,
    operands: tuple[int | str, ...],
    rest: bool,
) -> Iterator[Reading]:
    named = [spelling.canonical_name(key) for key in operands]
    for order in orders(operator, spelling.row, named):
        read = tuple(order.get(name, name) for name in named)
        fixed = () if rest else tuple(defaults(spelling, set(read)))
        condition = operator.conditions[spelling.row] if order else None
        yield Reading(spelling, spelling.reordered(order), read, fixed, condition)
