"""The graphs that a higher-order operator runs on operands of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs
from torch import fx
from torch._ops import HigherOrderOperator, OpOverload

from rewrite_engine.tensor_types import attribute

# Each runs every one of its graphs at most once, on the operands that follow them.
_RUNS_ONCE: Final = frozenset(
    {"cond", "wrap_with_set_grad_enabled", "wrap_with_autocast"}
)


@attrs.frozen
class Subgraph:
    """A graph, and the operand of its caller that each of its placeholders is."""

    nodes: tuple[fx.Node, ...]
    operands: Mapping[fx.Node, fx.Node]


def runs_subgraphs(target: object) -> bool:
    """Whether a callable is an operator whose graphs `subgraphs_of` can give."""
    return isinstance(target, HigherOrderOperator) and target.name() in _RUNS_ONCE


def subgraphs_of(call: fx.Node) -> list[Subgraph] | None:
    """The graphs that `call` runs; None if it is not known what they do it with."""
    graphs = [_graph(argument) for argument in call.args]
    places = [i for i, graph in enumerate(graphs) if graph is not None]
    if not places or call.kwargs:
        return None
    operands: list[fx.Node] = []
    fx.map_arg(call.args[places[-1] + 1 :], operands.append)
    found = [_subgraph(graph, operands) for graph in graphs if graph is not None]
    known = [subgraph for subgraph in found if subgraph is not None]
    return known if len(known) == len(found) else None


def _graph(argument: Any) -> fx.Graph | None:
    if not isinstance(argument, fx.Node) or argument.op != "get_attr":
        return None
    module = argument.graph.owning_module
    called = None if module is None else attribute(module, str(argument.target))
    return called.graph if isinstance(called, fx.GraphModule) else None


def _subgraph(graph: fx.Graph, operands: list[fx.Node]) -> Subgraph | None:
    inputs = graph.find_nodes(op="placeholder")
    calls = [node.target for node in graph.nodes if node.op == "call_function"]
    if len(inputs) != len(operands) or not all(map(_is_plain, calls)):
        return None
    mapped = dict(zip(inputs, operands, strict=True))
    return Subgraph(tuple(graph.nodes), mapped)


def _is_plain(target: object) -> bool:
    """Whether a result can only hold what the call's own operands hold."""
    is_operator = isinstance(target, OpOverload | HigherOrderOperator)
    return is_operator or getattr(target, "__name__", "") == "getitem"
