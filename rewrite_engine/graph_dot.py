"""Graphs as Graphviz text, for whatever draws it."""

from __future__ import annotations

import json

from torch import fx

from rewrite_engine.value_text import target_text

_SHAPES = {"placeholder": "ellipse", "get_attr": "ellipse", "output": "ellipse"}


def dot_text(graph: fx.Graph, name: str) -> str:
    """A graph in the DOT language: a box for each call, an edge for each read."""
    lines = [f"digraph {json.dumps(name)} {{", "  rankdir=TB"]
    lines.append("  node [fontname=monospace shape=box]")
    for node in graph.nodes:
        shape = _SHAPES.get(node.op)
        extra = f" shape={shape}" if shape else ""
        label = json.dumps(_label(node), ensure_ascii=False)
        lines.append(f"  {json.dumps(node.name)} [label={label}{extra}]")
    for node in graph.nodes:
        for operand in node.all_input_nodes:
            lines.append(f"  {json.dumps(operand.name)} -> {json.dumps(node.name)}")
    return "\n".join([*lines, "}"]) + "\n"


def _label(node: fx.Node) -> str:
    if node.op in ("placeholder", "output"):
        return node.name
    called = f".{node.target}" if node.op == "call_method" else str(node.target)
    if node.op == "call_function":
        called = target_text(node.target)
    return f"{node.name}\n{called}"
