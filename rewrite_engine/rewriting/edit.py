"""The edits of an fx graph that a rewrite makes by the hundred, without fx's detours.

`Graph.create_node` searches its arguments for symbolic numbers to warn about and parses
the wanted name, and `node.args = ...` takes the node out of the lookup table and back:
ten times the cost of the edit itself. These leave the same graph as the public
functions, which are used with a torch whose internals are not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import torch
from torch import fx
from torch.fx import graph as fx_graph

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
    unique = _unique_name(names, name or graph._target_to_str(target))
    node = fx.Node.__new__(fx.Node)
    fx.node._NodeBase.__init__(node, graph, unique, op, target, None)
    node._update_args_kwargs(args, kwargs)
    for hook in getattr(graph.owning_module, "_create_node_hooks", None) or ():
        hook(node)
    names._obj_to_name[node] = unique
    before._prepend(node)
    _count(node)
    return node


def _unique_name(names: Any, candidate: str) -> str:
    """A name that the namespace has not given out: `add`, `add_1`, `add_2`."""
    if not _is_bare(candidate):
        unique: str = names.create_name(candidate, None)
        return unique
    used, number = names._used_names, names._base_count.get(candidate, 0)
    unique = candidate
    while unique in used:
        number += 1
        unique = f"{candidate}_{number}"
    used.add(unique)
    names._base_count[candidate] = number
    return unique


@lru_cache(maxsize=1024)
def _is_bare(candidate: str) -> bool:
    """Whether a name is legal and does not end in a number, which counts apart."""
    match = fx_graph._name_regex.match(candidate)
    return bool(match and match[2] is None and candidate not in fx_graph._illegal_names)


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
    graph = node.graph
    graph._find_nodes_lookup_table.insert(node)
    graph._len += 1
