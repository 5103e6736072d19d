"""An order of a graph's nodes that depends on what it computes, not on how it is kept.

Nodes that do not depend on each other may stand in any order. What does count besides
the data flow is told separately: how often a storage was written before it is read
(`storage_versions`), and the order in which random numbers are drawn (`random_draws`).
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from rewrite_engine.tensor_types import attribute

Operands = Callable[[fx.Node], Iterable[fx.Node]]

_ARITHMETIC = (
    "add and concat floordiv lshift matmul mod mul or pow rshift sub truediv xor"
)
_WRITING_OPERATORS = {
    "setitem",
    "delitem",
    *(f"i{name}" for name in _ARITHMETIC.split(" ")),
}


def canonical_order(graph: fx.Graph, operands: Operands) -> list[fx.Node]:
    """Placeholders, then what the output needs, depth first in the order of operands.

    Then the nodes nobody reads, in their own order, each after its operands, and the
    output last. `operands` lists what a node reads.
    """
    placeholders = list(graph.find_nodes(op="placeholder"))
    outputs = list(graph.find_nodes(op="output"))
    needed = [operand for output in outputs for operand in operands(output)]
    unread = [node for node in graph.nodes if not node.users and node.op != "output"]
    return _postorder([*placeholders, *needed, *unread, *outputs], operands)


def _postorder(roots: Iterable[fx.Node], operands: Operands) -> list[fx.Node]:
    order: dict[fx.Node, None] = {}
    # Each entry is a node and the operands it still waits for; no recursion, because
    # graphs are deeper than Python's stack.
    for root in roots:
        stack = [(root, iter(operands(root)))]
        while stack:
            node, waiting = stack[-1]
            missing = next((n for n in waiting if n not in order), None)
            if missing is not None:
                stack.append((missing, iter(operands(missing))))
                continue
            order.setdefault(node)
            stack.pop()
    return list(order)


def nodes_in(value: Any) -> Iterator[fx.Node]:
    """Every node in an argument, containers included, in order."""
    if isinstance(value, fx.Node):
        yield value
    elif isinstance(value, slice):
        yield from nodes_in((value.start, value.stop, value.step))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from nodes_in(item)
    elif isinstance(value, dict):
        yield from nodes_in(tuple(value.values()))


def named_arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments given to an overload, by the names of its schema."""
    names = (p.name for p in node.target._schema.arguments if not p.kwarg_only)
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def random_draws(graph: fx.Graph) -> dict[fx.Node, int]:
    """The overloads that draw random numbers, counted from 1 in order of execution."""
    seeded = torch.Tag.nondeterministic_seeded
    drawing = [n for n in graph.nodes if seeded in getattr(n.target, "tags", ())]
    return {node: count for count, node in enumerate(drawing, start=1)}


def storage_versions(graph: fx.Graph) -> dict[tuple[fx.Node, fx.Node], int]:
    """How often the storage of an operand was written before a node reads it.

    Keys are (reader, operand); versions of 0 are left out. Values that may share a
    storage are taken to share it.
    """
    writes = {node: written for node in graph.nodes if (written := _written(node))}
    if not writes:
        return {}
    storages = _storages(graph)
    count: Counter[fx.Node] = Counter()
    versions = {}
    for node in graph.nodes:
        for operand in node.all_input_nodes:
            versions[node, operand] = count[storages[operand]]
        count.update({storages[written] for written in writes.get(node, ())})
    return {reading: version for reading, version in versions.items() if version}


def _written(node: fx.Node) -> list[fx.Node]:
    """The operands that a node writes in place."""
    if node.op == "call_method":
        return _first_operand(node) if _is_in_place_name(str(node.target)) else []
    if node.op == "call_module":
        called = attribute(node.graph.owning_module, str(node.target))
        return _first_operand(node) if getattr(called, "inplace", False) else []
    if node.op != "call_function":
        return []
    if isinstance(node.target, OpOverload):
        return _written_by_overload(node)
    return _written_by_function(node)


def _written_by_overload(node: fx.Node) -> list[fx.Node]:
    given = named_arguments(node)
    aliases = {p.name: p.alias_info for p in node.target._schema.arguments}
    written = {name for name, info in aliases.items() if info and info.is_write}
    # The schemas of training normalisations do not say that they write statistics.
    if given.get("training") is True or given.get("use_input_stats") is True:
        written |= {"running_mean", "running_var"}
    return [
        n for name, value in given.items() if name in written for n in nodes_in(value)
    ]


def _written_by_function(node: fx.Node) -> list[fx.Node]:
    name = getattr(node.target, "__name__", "")
    if "out" in node.kwargs:
        return list(nodes_in(node.kwargs["out"]))
    is_operator = getattr(operator, name, None) is node.target
    writes = name in _WRITING_OPERATORS if is_operator else _is_in_place_name(name)
    in_place = writes or node.kwargs.get("inplace") is True
    return _first_operand(node) if in_place else []


def _is_in_place_name(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _first_operand(node: fx.Node) -> list[fx.Node]:
    return node.all_input_nodes[:1]


def _storages(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """For each node, the node that stands for all those that may share its storage."""
    parents = {node: node for node in graph.nodes}

    def find(node: fx.Node) -> fx.Node:
        while parents[node] is not node:
            parents[node] = parents[parents[node]]
            node = parents[node]
        return node

    attributes: dict[str, fx.Node] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            parents[find(node)] = find(attributes.setdefault(str(node.target), node))
        for operand in _aliased(node):
            parents[find(operand)] = find(node)
    return {node: find(node) for node in graph.nodes}


def _aliased(node: fx.Node) -> list[fx.Node]:
    """The operands whose storage a node's result may share."""
    if node.op == "output":
        return []
    if node.target is operator.getitem:
        return _first_operand(node)
    if not isinstance(node.target, OpOverload):
        return node.all_input_nodes
    given = named_arguments(node)
    names = [p.name for p in node.target._schema.arguments if p.alias_info is not None]
    return [n for name in names for n in nodes_in(given.get(name))]
