"""Rows of the graph before beside the graph after."""

from __future__ import annotations

from torch import fx

from rewrite_engine.reporting.rows import Line, Row, Snapshot, aligned, grouped


def nodes(count: int) -> list[fx.Node]:
    graph = fx.Graph()
    return [graph.placeholder(f"n{i}") for i in range(count)]


def snapshot(*nodes: fx.Node, suffix: str = "") -> Snapshot:
    graph = nodes[0].graph
    found = Snapshot.of(graph, lambda node: node.name + suffix)
    return Snapshot({node: found.lines[node] for node in nodes})


def shown(before: Snapshot, after: Snapshot, numbers: dict[fx.Node, int]) -> list:
    return [
        (
            row.before and row.before.name,
            row.after and row.after.name,
            row.rewrite,
        )
        for row in aligned(before, after, numbers)
    ]


def test_kept_nodes_stand_beside_themselves() -> None:
    a, b, c, d, e = nodes(5)
    rows = shown(snapshot(a, b, c), snapshot(a, d, e, c), {b: 1, d: 1, e: 1})
    assert rows == [
        ("n0", "n0", 0),
        ("n1", "n3", 1),
        (None, "n4", 1),
        ("n2", "n2", 0),
    ]


def test_what_comes_first_and_last_is_there() -> None:
    a, b, c, d = nodes(4)
    assert shown(snapshot(a, b), snapshot(c, b, d), {a: 1, c: 1}) == [
        ("n0", "n2", 1),
        ("n1", "n1", 0),
        (None, "n3", -1),
    ]


def test_a_node_with_other_operands_is_changed_and_kept() -> None:
    (a,) = nodes(1)
    (row,) = aligned(snapshot(a), snapshot(a, suffix="!"), {})
    assert row.changed
    assert row.kept


def test_state_stands_with_the_call_that_follows_it() -> None:
    def row(name: str, group: str, *, is_input: bool = False) -> Row:
        return Row(Line(name, name), Line(name, name), 0, group, "", is_input)

    rows = [
        row("x", "?", is_input=True),
        row("w", "?", is_input=True),
        row("quantized", "?"),
        row("conv", "layer1"),
        row("scale", "?", is_input=True),
        row("linear", "layer2"),
        row("output", "?"),
    ]
    assert [each.group for each in grouped(rows)] == [
        *["inputs and state"] * 2,
        *["layer1"] * 2,
        *["layer2"] * 3,
    ]
