"""Small graphs, written out call by call."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn


def graph_of(body: Callable[..., Any], **state: torch.Tensor) -> fx.GraphModule:
    """A graph whose calls are those that `body` makes through its first argument.

    Its other parameters are the inputs, by their names, and last the `state`.
    """
    graph, module = fx.Graph(), nn.Module()
    _, *names = inspect.signature(body).parameters
    values = [graph.placeholder(name) for name in names[: len(names) - len(state)]]
    for name, tensor in state.items():
        if isinstance(tensor, nn.Parameter):
            module.register_parameter(name, tensor)
        else:
            module.register_buffer(name, tensor)
        values.append(graph.create_node("get_attr", name))
    graph.output(body(graph.call_function, *values))
    return fx.GraphModule(module, graph)


def chain(*targets: Any) -> fx.GraphModule:
    """Calls of one another, the first on the input `x`."""
    graph = fx.Graph()
    value = graph.placeholder("x")
    for target in targets:
        value = graph.call_function(target, (value,))
    graph.output(value)
    return fx.GraphModule(nn.Module(), graph)
