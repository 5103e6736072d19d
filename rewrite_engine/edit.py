"""The edits of fx graphs that are made by the hundred, without fx's detours.

`Graph.create_node` searches its arguments for symbolic numbers to warn about and parses
the wanted name, and `node.args = ...` takes the node out of the lookup table and back:
ten times the cost of the edit itself. These leave the same graph as the public
functions, which are used with a torch whose internals are not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import fx
from torch.fx import graph as fx_graph

_INTERNALS_KNOWN: Final = torch.__version__.startswith("2.13.")
_NAMING: Final = fx.Graph()
if _INTERNALS_KNOWN:
    # Without what `fx.Node` adds to them.
    _NEW: Final = fx.Node.__new__
    _INITIALIZE: Final = fx.node._NodeBase.__init__
    _SET: Final = fx.node._NodeBase.__setattr__

operands_of: Final[Callable[[fx.Node], Collection[fx.Node]]] = attrgetter(
    "_input_nodes" if _INTERNALS_KNOWN else "all_input_nodes"
)
"""What a node reads, each node once: a view that changes with the node."""
arguments_of: Final[Callable[[fx.Node], tuple[Any, Any]]] = attrgetter(
    *(("_args", "_kwargs") if _INTERNALS_KNOWN else ("args", "kwargs"))
)
"""The positional arguments of a node, and those by keyword."""


def new_node(graph: fx.Graph, op: str, target: Any, name: str | None = None) -> fx.Node:
    """A node that is not in its graph yet; `name` is made unique."""
    if not _INTERNALS_KNOWN:
        with graph.inserting_before():
            return graph.create_node(op, target, (), {}, name)
    names = graph._graph_namespace
    unique = unique_name(names, name or _name_of(target))
    node = _NEW(fx.Node)
    _INITIALIZE(node, graph, unique, op, target, None)
    names._obj_to_name[node] = unique
    return node


@lru_cache(maxsize=4096)
def _name_of(target: Any) -> str:
    """What fx calls the result of a call."""
    name: str = _NAMING._target_to_str(target)
    return name


def append(
    graph: fx.Graph,
    op: str,
    target: Any,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] = MappingProxyType({}),
    name: str | None = None,
) -> fx.Node:
    """A new node at the end of its graph."""
    node = new_node(graph, op, target, name)
    insert(node, graph._root, args, dict(kwargs))
    return node


def append_call(
    graph: fx.Graph,
    target: Any,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] = MappingProxyType({}),
    name: str | None = None,
) -> fx.Node:
    """A new call of a function at the end of its graph."""
    return append(graph, "call_function", target, args, kwargs, name)


def insert(
    node: fx.Node, before: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Put a node in front of another, with its operands."""
    if not _INTERNALS_KNOWN:
        set_arguments(node, args, kwargs)
        before.prepend(node)
        return
    node._update_args_kwargs(args, kwargs)
    for hook in getattr(node.graph.owning_module, "_create_node_hooks", None) or ():
        hook(node)
    before._prepend(node)
    _count(node)


def uninsert(node: fx.Node) -> None:
    """Take a node out of its graph again, however far `insert` has come."""
    disconnect(node)
    if _is_counted(node):
        erase(node)
    elif not node._erased:
        node._remove_from_list()


def unique_name(names: Any, candidate: str) -> str:
    """A name that a namespace of fx has not given out: `add`, `add_1`, `add_2`."""
    base, number = _parts(candidate) if _INTERNALS_KNOWN else ("", None)
    if not base:
        unique: str = names.create_name(candidate, None)
        return unique
    unique, used, counts = candidate, names._used_names, names._base_count
    if number is None or unique in used:
        number = counts.get(base, 0)
        while unique in used:
            number += 1
            unique = f"{base}_{number}"
    used.add(unique)
    counts[base] = number
    return unique


@lru_cache(maxsize=4096)
def _parts(candidate: str) -> tuple[str, int | None]:
    """A name without its number, and the number; nothing if the name is not legal."""
    match = fx_graph._name_regex.match(candidate)
    if match is None or candidate in fx_graph._illegal_names:
        return "", None
    base, number = match.groups()
    return base, None if number is None else int(number)


def set_arguments(
    node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Make a node read other operands; the operands' users are kept up to date."""
    if _INTERNALS_KNOWN:
        node._update_args_kwargs(args, dict(kwargs))
    else:
        node.args, node.kwargs = args, dict(kwargs)


def set_target(node: fx.Node, target: Any) -> None:
    """Make a node call something else, however far an earlier call of this has come."""
    node.target = target
    if not _is_counted(node):
        # fx takes the node out of its table meanwhile.
        node.graph._find_nodes_lookup_table.insert(node)


def disconnect(node: fx.Node) -> None:
    """Make a node read nothing."""
    if _INTERNALS_KNOWN:
        node._update_args_kwargs((), {})
    else:
        node.args, node.kwargs = (), {}


def replace_input(user: fx.Node, old: fx.Node, new: fx.Node) -> None:
    """Make a node read `new` wherever it reads `old`."""
    if _INTERNALS_KNOWN:
        user._replace_input_with(old, new)
    else:
        args, kwargs = user.args, user.kwargs
        user.args = fx.map_arg(args, lambda n: new if n is old else n)
        user.kwargs = fx.map_arg(kwargs, lambda n: new if n is old else n)


def erase(node: fx.Node) -> None:
    """Take a node without operands and users out of its graph."""
    graph = node.graph
    if not _INTERNALS_KNOWN:
        graph.erase_node(node)
        return
    for hook in getattr(graph.owning_module, "_erase_node_hooks", None) or ():
        hook(node)
    graph._find_nodes_lookup_table.remove(node)
    graph._len -= 1
    node._remove_from_list()
    _SET(node, "_erased", True)


def insert_again(node: fx.Node, following: fx.Node) -> None:
    """Put a node back in front of `following`, however far `erase` has come."""
    node._erased = False
    following.prepend(node)
    if not _is_counted(node):
        _count(node)


def _count(node: fx.Node) -> None:
    graph = node.graph
    graph._find_nodes_lookup_table.insert(node)
    graph._len += 1


def _is_counted(node: fx.Node) -> bool:
    return node in node.graph._find_nodes_lookup_table
