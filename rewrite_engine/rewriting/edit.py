"""The edits of an fx graph that a rewrite makes by the hundred, without fx's detours.

`Graph.create_node` searches its arguments for symbolic numbers to warn about and
`node.args = ...` takes the node out of the lookup table and back: ten times the cost of
the edit itself. These leave the same graph as the public functions, which are used
with a torch whose internals are not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import fx

_INTERNALS_KNOWN: Final = torch.__version__.startswith("2.13.")


def create(
    before: fx.Node,
    op: str,
    target: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    name: str | None = None,
) -> fx.Node:
    """A new node in front of another; `name` is made unique."""
    graph = before.graph
    if not _INTERNALS_KNOWN:
        with graph.inserting_before(before):
            return graph.create_node(op, target, args, dict(kwargs), name)
    names = graph._graph_namespace
    unique = names.create_name(name or graph._target_to_str(target), None)
    node = fx.Node(graph, unique, op, target, args, dict(kwargs))
    for hook in getattr(graph.owning_module, "_create_node_hooks", None) or ():
        hook(node)
    names.associate_name_with_obj(unique, node)
    before.prepend(node)
    _count(node)
    return node


def set_arguments(
    node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Make a node read other operands; the operands' users are kept up to date."""
    if _INTERNALS_KNOWN:
        node._update_args_kwargs(args, dict(kwargs))
    else:
        node.args, node.kwargs = args, dict(kwargs)


def insert_again(node: fx.Node, following: fx.Node) -> None:
    """Put an erased node back in front of `following`; its operands are not."""
    node._erased = False
    following.prepend(node)
    _count(node)


def _count(node: fx.Node) -> None:
    node.graph._find_nodes_lookup_table.insert(node)
    node.graph._len += 1
