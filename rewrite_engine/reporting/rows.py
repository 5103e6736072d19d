"""The graph before beside the graph after, line by line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Final

import attrs
from torch import fx

from rewrite_engine.model_source import model_source


@attrs.frozen
class Line:
    """One node as text."""

    name: str
    text: str


@attrs.frozen
class Row:
    """A node before, and what stands beside it after; either may be missing.

    `rewrite` is the number of the rewrite that removed or made it, 0 for none; `group`
    and `part` are the module that it belongs to and the part of it.
    """

    before: Line | None
    after: Line | None
    rewrite: int
    group: str
    part: str
    is_input: bool = False
    """Whether it is an input, or state that is read."""

    @property
    def kept(self) -> bool:
        """Whether the node is the same, if with other operands."""
        return self.rewrite == 0

    @property
    def changed(self) -> bool:
        return self.before != self.after


@attrs.frozen(eq=False)
class Snapshot:
    """A graph at one time: its nodes, in order, with their lines."""

    lines: Mapping[fx.Node, Line]

    @staticmethod
    def of(graph: fx.Graph, text: Callable[[fx.Node], str]) -> Snapshot:
        return Snapshot({node: Line(node.name, text(node)) for node in graph.nodes})


def aligned(
    before: Snapshot, after: Snapshot, rewrites: Mapping[fx.Node, int]
) -> Iterator[Row]:
    """The rows of both graphs: nodes that stayed stand beside themselves.

    `rewrites` gives the number of the rewrite that took or made a node.
    """
    made = iter(after.lines)
    taken: list[fx.Node] = []
    for node in before.lines:
        if node not in after.lines:
            taken.append(node)
            continue
        fresh = list(_until(made, node))
        yield from _hunk(before, after, taken, fresh, rewrites)
        taken = []
        yield _row(before.lines[node], after.lines[node], node, 0)
    yield from _hunk(before, after, taken, list(made), rewrites)


def _until(nodes: Iterator[fx.Node], last: fx.Node) -> Iterator[fx.Node]:
    for node in nodes:
        if node is last:
            return
        yield node


def _hunk(
    before: Snapshot,
    after: Snapshot,
    taken: Sequence[fx.Node],
    fresh: Sequence[fx.Node],
    rewrites: Mapping[fx.Node, int],
) -> Iterator[Row]:
    for old, new in zip_longest(taken, fresh):
        node = new if old is None else old
        number = rewrites.get(node, 0) or rewrites.get(new, 0)
        yield _row(before.lines.get(old), after.lines.get(new), node, number or -1)


def _row(before: Line | None, after: Line | None, node: fx.Node, number: int) -> Row:
    group, part = _module(node)
    is_input = node.op in ("placeholder", "get_attr")
    return Row(before, after, number, group, part, is_input)


STATE: Final = "inputs and state"
"""The group of what comes before the first call."""

_UNKNOWN: Final = "?"


def grouped(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows whose module is not known stand with what follows them: a weight with the
    call that reads it.
    """
    waiting: list[Row] = []
    group, is_first = STATE, True
    for row in rows:
        if row.group == _UNKNOWN and not (is_first and row.is_input):
            waiting.append(row)
            continue
        group = STATE if row.group == _UNKNOWN else row.group
        is_first = is_first and row.group == _UNKNOWN
        yield from (attrs.evolve(each, group=group) for each in [*waiting, row])
        waiting = []
    yield from (attrs.evolve(each, group=group) for each in waiting)


def _module(node: fx.Node) -> tuple[str, str]:
    """The module that a node is grouped under, and the layer in it that it is of."""
    source = model_source(node)
    if node.op in ("placeholder", "get_attr") or not source.module_class:
        return _UNKNOWN, ""
    if not source.module_class.startswith("torch.nn.modules."):
        return source.module, ""
    parent, _, leaf = source.module.rpartition(".")
    return parent, leaf
