"""Small graphs, written out call by call, and all that there is to see of a graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from rewrite_engine.graph_text import Model, graph_text


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


def snapshot(model: Model) -> dict[str, Any]:
    """Everything that a failed run must leave alone."""
    gm = model if isinstance(model, fx.GraphModule) else model.graph_module
    graph = gm.graph
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    found = {
        "text": graph_text(model),
        "code": gm.code,
        "forward": type(gm).forward,
        "nodes": [id(node) for node in graph.nodes],
        "length": len(graph.nodes),
        "args": [(str(n.args), str(n.kwargs)) for n in graph.nodes],
        "users": [[user.name for user in node.users] for node in graph.nodes],
        "meta": [{k: id(v) for k, v in node.meta.items()} for node in graph.nodes],
        "index": [
            len(graph.find_nodes(op=n.op, target=n.target))
            for n in graph.nodes
            if n.op == "call_function"
        ],
        "state": {n: (id(t), t.data_ptr(), t._version) for n, t in state.items()},
        "values": [t.tolist() for t in state.values()],
        "names": sorted(graph._graph_namespace._used_names),
    }
    if isinstance(model, ExportedProgram):
        tables = model.state_dict, model.constants
        found["signature"] = str(model.graph_signature)
        found["held"] = [{n: id(v) for n, v in table.items()} for table in tables]
    return found
