"""Places the nodes of a small graph in layers, from the inputs down.

Layers by longest path, order in a layer by the mean of neighbours, positions by least
squares with the order kept: what Sugiyama's method does, for at most 60 nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final, Literal, TypeAlias

import attrs

NodeKind: TypeAlias = Literal["input", "matched", "created", "reader"]

HEIGHT: Final = 38
_LAYER: Final = 60
"""From one layer to the next, in pixels."""
_GAP: Final = 14
_CHARACTER: Final = 7.4
_NARROWEST: Final = 96
_SWEEPS: Final = 8


@attrs.frozen
class DrawnNode:
    name: str
    label: str
    kind: NodeKind


@attrs.frozen
class Drawing:
    """A small graph; edges are pairs of positions in `nodes`, reader last."""

    nodes: tuple[DrawnNode, ...]
    edges: tuple[tuple[int, int], ...]


@attrs.frozen
class Placed:
    """A layout in pixels: the centre of each node, its width, and a path per edge."""

    width: int
    height: int
    nodes: tuple[tuple[int, int, int], ...]
    edges: tuple[tuple[int, ...], ...]
    """The points of each edge, x and y in turn."""


def place(drawing: Drawing) -> Placed:
    """A layout of a drawing; equal drawings up to names have equal layouts."""
    return _Layout(drawing).run()


@attrs.define(eq=False)
class _Layout:
    drawing: Drawing
    layer: dict[int, int] = attrs.field(factory=dict)
    """The layer of each vertex; those after the nodes are bends of long edges."""
    chains: list[tuple[int, ...]] = attrs.field(factory=list)
    """The vertices of each edge, bends included."""
    layers: list[list[int]] = attrs.field(factory=list)
    x: dict[int, float] = attrs.field(factory=dict)

    def run(self) -> Placed:
        self._assign_layers()
        self._bend_edges()
        above, below = self._neighbours(0), self._neighbours(1)
        self._order(above, below)
        self._position(above, below)
        return self._placed()

    def _assign_layers(self) -> None:
        count = len(self.drawing.nodes)
        self.layer = dict.fromkeys(range(count), 0)
        # Operands may stand after their readers in the list: repeat until settled.
        for _ in range(count):
            lower = {b: self.layer[a] + 1 for a, b in self._by_layer()}
            changed = {b: at for b, at in lower.items() if at > self.layer[b]}
            if not changed:
                break
            self.layer.update(changed)
        for node, drawn in enumerate(self.drawing.nodes):
            readers = [self.layer[b] for a, b in self.drawing.edges if a == node]
            if drawn.kind == "input" and readers:
                self.layer[node] = min(readers) - 1

    def _by_layer(self) -> list[tuple[int, int]]:
        return sorted(self.drawing.edges, key=lambda edge: self.layer[edge[0]])

    def _bend_edges(self) -> None:
        fresh = len(self.drawing.nodes)
        for a, b in self.drawing.edges:
            between = range(self.layer[a] + 1, self.layer[b])
            bends = range(fresh, fresh + len(between))
            fresh += len(between)
            self.layer.update(zip(bends, between, strict=True))
            self.chains.append((a, *bends, b))
        self.layers = [[] for _ in range(max(self.layer.values(), default=0) + 1)]
        for vertex, at in self.layer.items():
            self.layers[at].append(vertex)

    def _neighbours(self, side: int) -> dict[int, list[int]]:
        """For each vertex those above (0) or below (1) it."""
        found: dict[int, list[int]] = {vertex: [] for vertex in self.layer}
        for chain in self.chains:
            for upper, lower in pairwise(chain):
                found[(lower, upper)[side]].append((upper, lower)[side])
        return found

    def _order(self, above: _Near, below: _Near) -> None:
        for sweep in range(_SWEEPS):
            down = sweep % 2 == 0
            near = above if down else below
            for layer in self.layers if down else reversed(self.layers):
                rank = self._ranks()
                layer.sort(key=lambda v: _mean([rank[n] for n in near[v]], rank[v]))

    def _ranks(self) -> dict[int, float]:
        """Positions in the layer, from 0 to 1."""
        return {
            vertex: (i + 0.5) / len(layer)
            for layer in self.layers
            for i, vertex in enumerate(layer)
        }

    def _position(self, above: _Near, below: _Near) -> None:
        for layer in self.layers:
            self._spread(layer, lambda vertex: 0.0)
        for _ in range(_SWEEPS):
            for near in (above, below):
                for layer in self.layers if near is above else reversed(self.layers):
                    self._spread(layer, self._wish(near))
        both = {v: [*above[v], *below[v]] for v in self.layer}
        for layer in self.layers:
            self._spread(layer, self._wish(both))

    def _wish(self, near: _Near) -> Callable[[int], float]:
        return lambda v: _mean([self.x[n] for n in near[v]], self.x[v])

    def _spread(self, layer: Sequence[int], wish: Callable[[int], float]) -> None:
        """Positions nearest to the wishes that keep the order and the gaps."""
        offsets, right = [], 0.0
        for vertex in layer:
            half = self._width(vertex) / 2
            offsets.append(right + half)
            right += 2 * half + _GAP
        free = [wish(v) - offset for v, offset in zip(layer, offsets, strict=True)]
        for vertex, offset, at in zip(layer, offsets, _isotonic(free), strict=True):
            self.x[vertex] = at + offset

    def _width(self, vertex: int) -> float:
        if vertex >= len(self.drawing.nodes):
            return 4.0
        label = self.drawing.nodes[vertex].label
        return max(_NARROWEST, len(label) * _CHARACTER + 24)

    def _placed(self) -> Placed:
        lefts = [self.x[v] - self._width(v) / 2 for v in self.layer]
        rights = [self.x[v] + self._width(v) / 2 for v in self.layer]
        left, right = min(lefts, default=0.0), max(rights, default=0.0)
        points = {
            v: (round(self.x[v] - left + _GAP), self.layer[v] * _LAYER + HEIGHT)
            for v in self.layer
        }
        nodes = tuple(
            (*points[v], round(self._width(v))) for v in range(len(self.drawing.nodes))
        )
        edges = tuple(tuple(_points(chain, points)) for chain in self.chains)
        height = len(self.layers) * _LAYER + HEIGHT - (_LAYER - HEIGHT)
        return Placed(round(right - left) + 2 * _GAP, height, nodes, edges)


_Near: TypeAlias = Mapping[int, Sequence[int]]


def _points(
    chain: Sequence[int], points: Mapping[int, tuple[int, int]]
) -> Iterator[int]:
    """From the lower edge of the first node to the upper edge of the last."""
    half = HEIGHT // 2
    for i, vertex in enumerate(chain):
        x, y = points[vertex]
        yield x
        yield y + half if i == 0 else y - half if i == len(chain) - 1 else y


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _isotonic(values: Sequence[float]) -> list[float]:
    """The non-decreasing sequence nearest to the values: pool adjacent violators."""
    pools: list[tuple[float, int]] = []
    for value in values:
        total, size = value, 1
        while pools and pools[-1][0] / pools[-1][1] > total / size:
            before, count = pools.pop()
            total, size = total + before, size + count
        pools.append((total, size))
    return [total / size for total, size in pools for _ in range(size)]
