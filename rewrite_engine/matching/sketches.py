"""What every match of a rule looks like from its anchor: tests that rules can share.

A sketch is a conjunction of tests on what stands at positions below an anchor. A rule
has one for each way in which it can be written; wherever it matches, all tests of one
of them hold. The reverse is not claimed: what a sketch does not say, the rule's own
program decides. So leaving a test out is always right, and is what is done where there
would be too many.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

import attrs
import torch
from torch import fx

from rewrite_engine.lowering import markers
from rewrite_engine.lowering.operators import OperatorPattern
from rewrite_engine.lowering.spellings import CallKey, Spelling
from rewrite_engine.matching.structure import anchor_calls, operands, orders

DEPTH: Final = 4
"""How far below an anchor sketches look."""
WAYS: Final = 8
"""How many sketches a rule may have for one anchoring operator."""
TESTS: Final = 12
"""How many tests a sketch may have."""

Position = tuple[int, ...]
"""The way down from the anchor, as positions of positional arguments."""


@attrs.frozen(cache_hash=True)
class IsCall:
    """A call of one of these operators stands at a position."""

    position: Position
    keys: frozenset[CallKey]


@attrs.frozen
class IsLiteral:
    """A literal with this key (see `literal_key`) stands at a position."""

    position: Position
    key: Hashable


Test = IsCall | IsLiteral
Sketch = tuple[Test, ...]
NO_TESTS: Final[list[Sketch]] = [()]


UNKNOWN: Final = object()
"""The key of what may or may not equal a literal."""
NO_KEY: Final = object()
"""The key of what equals no literal that has a key."""

PLAIN: Final = frozenset({int, float, str, type(None), torch.dtype})
"""Types whose values are their own keys."""


def literal_key(value: Any) -> Hashable:
    """Equal for two literals that match each other, as `1` and `1.0` do."""
    if type(value) in PLAIN:
        key: Hashable = value
        return key
    if type(value) is bool:
        return bool, value  # `true` is not 1
    # Neither a node nor a list ever equals a literal that has a key.
    return NO_KEY if isinstance(value, (fx.Node, list, tuple)) else UNKNOWN


def sketches(root: fx.Node) -> dict[CallKey, tuple[Sketch, ...]]:
    """The sketches of a pattern, by the calls that can anchor it."""
    found: dict[CallKey, dict[Sketch, None]] = {}
    for call in anchor_calls(root):
        given = operands(call)
        for keys, indices in _readings(call.target, tuple(given)):
            ways = dict.fromkeys(map(_in_order, _below(given, indices, ())))
            for key in keys:
                found.setdefault(key, {}).update(ways)
    return {key: tuple(ways) for key, ways in found.items()}


def _in_order(sketch: Sketch) -> Sketch:
    """Operators first: they tell more rules apart, and more rules share them."""
    ordered = sorted(sketch, key=lambda test: isinstance(test, IsLiteral))
    return tuple(ordered[:TESTS])


def _ways(pattern: Any, position: Position) -> list[Sketch]:
    """One of these holds wherever a pattern matches what stands at a position."""
    if not isinstance(pattern, fx.Node):
        key = literal_key(pattern)
        has_key = key is not UNKNOWN and key is not NO_KEY
        return [(IsLiteral(position, key),)] if has_key else NO_TESTS
    calls = _calls(pattern) if len(position) <= DEPTH else None
    if calls is None:
        return NO_TESTS
    found = dict.fromkeys(way for call in calls for way in _call(call, position))
    if len(found) <= WAYS:
        return list(found)
    every = (spelling.keys for call in calls for spelling in call.target.spellings)
    return [(IsCall(position, frozenset(key for keys in every for key in keys)),)]


def _calls(pattern: fx.Node) -> list[fx.Node] | None:
    """The calls one of which a pattern must be; None if it may be anything else."""
    if isinstance(pattern.target, OperatorPattern):
        return [pattern]
    parts: tuple[fx.Node, ...] = ()
    if pattern.target is markers.captured:
        parts = (pattern.args[1],)
    elif pattern.target is markers.either:
        parts = pattern.args
    elif pattern.target is markers.skippable:
        parts = (pattern.args[0], pattern.args[0].args[0])
    elif pattern.target is markers.chain:
        link, _, inner, least = pattern.args
        parts = (link,) if least else (link, inner)
    found = [_calls(part) if isinstance(part, fx.Node) else None for part in parts]
    if not found or None in found:
        return None
    return [call for calls in found for call in calls or ()]


def _call(call: fx.Node, position: Position) -> Iterator[Sketch]:
    given = operands(call)
    for keys, indices in _readings(call.target, tuple(given)):
        for way in _below(given, indices, position):
            yield (IsCall(position, keys), *way)


def _below(
    given: Mapping[int | str, Any], indices: Indices, position: Position
) -> list[Sketch]:
    """What holds for the operands of a call, for each way in which they are written."""
    ways = NO_TESTS
    for index, operand in sorted(indices):
        below = _ways(given[operand], (*position, index))
        if len(ways) * len(below) <= WAYS:
            ways = [way + more for way in ways for more in below]
    return ways


# --- where calls hold their operands ---

Indices = tuple[tuple[int, int | str], ...]
"""Positions of arguments, each with the operand of the pattern that stands there."""

Readings = tuple[tuple[frozenset[CallKey], Indices], ...]

_REMEMBERED: Final = 4096
"""Operators, with operands that patterns name, of which is known how to read them."""


@lru_cache(maxsize=_REMEMBERED)
def _readings(operator: OperatorPattern, given: tuple[int | str, ...]) -> Readings:
    """The spellings and operand orders of calls, for a pattern that names these
    operands; those that are read alike are one.

    An operand that is given by keyword, or that a module holds, is not looked at.
    """
    alike: dict[Indices, set[CallKey]] = {}
    for spelling in operator.spellings:
        named = {spelling.canonical_name(key): key for key in given}
        for order in orders(operator, spelling.row, named):
            indices = tuple(_indices(spelling, named, order))
            alike.setdefault(indices, set()).update(spelling.keys)
    return tuple((frozenset(keys), indices) for indices, keys in alike.items())


def _indices(
    spelling: Spelling, named: Mapping[str, int | str], order: Mapping[str, str]
) -> Iterator[tuple[int, int | str]]:
    for name, operand in named.items():
        index = spelling.index(order.get(name, name))
        if index is not None:
            yield index, operand
