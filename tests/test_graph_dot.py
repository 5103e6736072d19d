"""Graphviz text of graphs."""

from __future__ import annotations

import torch
from torch import fx, nn

from rewrite_engine.graph_dot import dot_text


def test_a_box_a_call_and_an_edge_a_read() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    y = graph.call_function(torch.ops.aten.add.Tensor, (x, x))
    graph.output(graph.call_method("relu", (y,)))
    text = dot_text(fx.GraphModule(nn.Module(), graph).graph, 'a "name"')
    assert text == (
        'digraph "a \\"name\\"" {\n  rankdir=TB\n'
        "  node [fontname=monospace shape=box]\n"
        '  "x" [label="x" shape=ellipse]\n'
        '  "add_tensor" [label="add_tensor\\naten.add.Tensor"]\n'
        '  "relu" [label="relu\\n.relu"]\n'
        '  "output" [label="output" shape=ellipse]\n'
        '  "x" -> "add_tensor"\n'
        '  "add_tensor" -> "relu"\n'
        '  "relu" -> "output"\n}\n'
    )
