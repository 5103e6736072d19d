"""Questions about the structure of matcher graphs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import permutations
from typing import Any

from torch import fx

from rewrite_engine.lowering import markers
from rewrite_engine.lowering.operators import OperatorPattern
from rewrite_engine.lowering.patterns import below, captured_calls
from rewrite_engine.lowering.spellings import Spelling


def anchor_calls(pattern: fx.Node) -> Iterator[fx.Node]:
    """The calls one of which must be at a root of the pattern."""
    if isinstance(pattern.target, OperatorPattern):
        yield pattern
    elif pattern.target is markers.either:
        for option in pattern.args:
            yield from anchor_calls(option)
    elif pattern.target is markers.captured:
        yield from anchor_calls(pattern.args[1])
    elif pattern.target is markers.chain:
        link, _, inner, least = pattern.args
        yield from anchor_calls(link)
        if least == 0:
            yield from anchor_calls(inner)
    elif pattern.target is markers.skippable:
        call = pattern.args[0]
        yield call
        yield from anchor_calls(call.args[0])


def is_others(item: Any) -> bool:
    return isinstance(item, fx.Node) and item.meta.get("role") == "others"


def operands(pattern: fx.Node) -> dict[int | str, Any]:
    args = [arg for arg in pattern.args if arg is not ...]
    return {**dict(enumerate(args)), **pattern.kwargs}


def calls_between(value: fx.Node, hole: fx.Node | None) -> list[fx.Node]:
    """The calls of a capture: down to its hole, or the one operator it names."""
    if hole is None:
        return list(captured_calls(value))
    outside = set(below(hole))
    return [
        node
        for node in below(value)
        if node not in outside
        and isinstance(node.target, OperatorPattern)
        and "each" not in node.meta
    ]


def defaults(spelling: Spelling, mentioned: set[str]) -> Iterator[tuple[str, Any]]:
    for parameter in spelling.canonical.parameters:
        if parameter.name not in mentioned:
            yield parameter.name, parameter.default


def orders(
    operator: OperatorPattern, row: int, named: Iterable[str]
) -> Iterator[dict[str, str]]:
    """Renamings of operands: none, then every other order of those that commute."""
    yield {}
    positions = operator.rows[row].commutes
    parameters = (operator.canonical(row).parameter(p) for p in positions)
    names = [p.name for p in parameters if p is not None]
    if not set(names) & set(named):
        return
    for order in permutations(names):
        if list(order) != names:
            yield dict(zip(names, order, strict=True))


def shared_node(root: fx.Node, known: set[fx.Node]) -> tuple[fx.Node, int]:
    """The nearest matched node that is always under `root`, and how far below."""
    level, depth = [root], 0
    while not (shared := [node for node in level if node in known]):
        below = [operand for node in level for operand in _mandatory(node)]
        level, depth = list(dict.fromkeys(below)), depth + 1
        assert level, "the resolver refuses roots that share no node"
    return shared[0], depth


def _mandatory(pattern: fx.Node) -> Iterator[fx.Node]:
    if pattern.target is markers.either:
        first, *others = (dict.fromkeys(_mandatory(option)) for option in pattern.args)
        yield from (node for node in first if all(node in other for other in others))
        return
    if not isinstance(pattern.target, OperatorPattern):
        return
    for value in operands(pattern).values():
        for item in value if isinstance(value, (list, tuple)) else (value,):
            yield from _through_captures(item)


def _through_captures(item: Any) -> Iterator[fx.Node]:
    if not isinstance(item, fx.Node):
        return
    yield item
    if item.target is markers.captured:
        yield from _through_captures(item.args[1])
