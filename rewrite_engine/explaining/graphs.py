"""The graphs of a model and their nodes by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from torch import fx

from rewrite_engine.errors import GraphError


def graph_names(module: fx.GraphModule) -> dict[fx.Graph, str]:
    """The graphs of a module and of those inside it, by the module's path: `""` is the
    outermost.
    """
    named = module.named_modules()
    return {m.graph: path for path, m in named if isinstance(m, fx.GraphModule)}


def inner_graphs(module: fx.GraphModule) -> dict[fx.Graph, str]:
    """The graphs inside a module."""
    return {graph: path for graph, path in graph_names(module).items() if path}


def node_name(graphs: Mapping[fx.Graph, str], node: fx.Node) -> str:
    """A node by its name and, inside, that of its graph: `%true_graph_0.mul`."""
    path = graphs.get(node.graph, "")
    return f"%{path}.{node.name}" if path else f"%{node.name}"


def node_of(
    graphs: Mapping[fx.Graph, str], recurse: bool, node: str | fx.Node
) -> fx.Node:
    """The node of a name, in the outermost graph first, or itself.

    Raises: GraphError, if there is none, if it lies inside and `recurse` is not asked
    for, or if several have the name.
    """
    called = node_name(graphs, node) if isinstance(node, fx.Node) else node
    name = called.lstrip("%")
    everywhere = {
        f"{path}.{n.name}" if path else n.name: n
        for graph, path in graphs.items()
        for n in graph.nodes
    }
    found = [full for full in everywhere if name == full]
    found = found or [full for full in everywhere if full.endswith(f".{name}")]
    if not found:
        close = difflib.get_close_matches(name, everywhere, n=3)
        hint = f"; did you mean {_either(close)}?" if close else ""
        raise GraphError(f"the graph has no node `{name}`{hint}")
    if len(found) > 1:
        raise GraphError(f"several graphs have a node `{name}`: {_either(found)}")
    if "." in found[0] and not recurse:
        raise GraphError(f"`{found[0]}` lies in a graph inside: say `recurse`")
    return everywhere[found[0]]


def _either(names: list[str]) -> str:
    return " or ".join(f"`{name}`" for name in names)
