"""Layouts of drawings: layers, no overlaps, edges that go down."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from rewrite_engine.reporting.layout import HEIGHT, Drawing, DrawnNode, place


def random_drawing(seed: int) -> Drawing:
    rng = random.Random(seed)
    count = rng.randrange(1, 60)
    nodes = [
        DrawnNode(f"n{i}", "x" * rng.randrange(1, 20), "matched") for i in range(count)
    ]
    edges = {
        (rng.randrange(b), b) for b in range(1, count) for _ in range(rng.randrange(3))
    }
    return Drawing(tuple(nodes), tuple(sorted(edges)))


@pytest.mark.parametrize("seed", range(30))
def test_nodes_do_not_overlap_and_edges_go_down(seed: int) -> None:
    drawing = random_drawing(seed)
    placed = place(drawing)
    assert len(placed.nodes) == len(drawing.nodes)
    for a, (x0, y0, w0) in enumerate(placed.nodes):
        assert w0 / 2 <= x0 <= placed.width - w0 / 2
        assert HEIGHT / 2 <= y0 <= placed.height - HEIGHT / 2
        for x1, y1, w1 in placed.nodes[a + 1 :]:
            assert y0 != y1 or abs(x0 - x1) >= (w0 + w1) / 2
    for points, (a, b) in zip(placed.edges, drawing.edges, strict=True):
        ys = points[1::2]
        assert all(upper < lower for upper, lower in pairwise(ys))
        assert points[0] == placed.nodes[a][0]
        assert points[-2] == placed.nodes[b][0]


def test_an_operand_listed_after_its_reader_is_above_it() -> None:
    nodes = tuple(DrawnNode(name, name, "created") for name in "abc")
    placed = place(Drawing(nodes, ((2, 0), (1, 2))))
    a, b, c = (y for _, y, _ in placed.nodes)
    assert b < c < a


def test_nothing_is_placed_as_nothing() -> None:
    assert place(Drawing((), ())).nodes == ()
