"""Parameters and buffers that a rewrite left unread: they leave their module."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Any, TypeAlias

import torch
from torch import fx
from torch.nn import Module

from rewrite_engine.rewriting.transaction import Transaction
from rewrite_engine.tensor_types import UNKNOWN, attribute

Place: TypeAlias = tuple[Module, str]
"""A module and the name of one of its parameters or buffers."""


def drop_unread(
    root: fx.GraphModule, names: Iterable[str], transaction: Transaction
) -> None:
    """Remove the state of these qualified names that no graph of the module reads.

    Other names of the same tensors go, too. State that is read under its name, or
    belongs to a submodule that is called, stays.
    """
    places = filter(None, (_place(root, name) for name in names))
    held = (o._parameters.get(leaf, o._buffers.get(leaf)) for o, leaf in places)
    dead = {id(tensor) for tensor in held if tensor is not None}
    if not dead:
        return
    modules = list(root.modules())
    graphs = [module for module in modules if isinstance(module, fx.GraphModule)]
    read, called = set(_read(graphs, dead)), set(_called(graphs))
    for owner, leaf in list(_holding(modules, dead)):
        if (id(owner), leaf) not in read and id(owner) not in called:
            _remove(owner, leaf, transaction)


def _place(root: Module, name: str) -> Place | None:
    """Where a parameter or buffer is; None if it is neither."""
    path, _, leaf = name.rpartition(".")
    owner: Any = attribute(root, path) if path else root
    if not isinstance(owner, Module):
        return None
    return (owner, leaf) if any(leaf in table for table in _tables(owner)) else None


def _holding(modules: Iterable[Module], tensors: Container[int]) -> Iterator[Place]:
    """The places of some tensors."""
    for owner in modules:
        for table in _tables(owner):
            yield from ((owner, leaf) for leaf, t in table.items() if id(t) in tensors)


def _tables(owner: Module) -> tuple[dict[str, Any], dict[str, Any]]:
    return owner._parameters, owner._buffers


def _read(
    graphs: Iterable[fx.GraphModule], tensors: Container[int]
) -> Iterator[tuple[int, str]]:
    """The places of some tensors that graphs read, by the identity of the owner."""
    for module in graphs:
        for node in module.graph.find_nodes(op="get_attr", sort=False):
            name = str(node.target)
            if id(attribute(module, name)) in tensors:
                place = _place(module, name)
                if place is not None:
                    yield id(place[0]), place[1]


def _called(graphs: Iterable[fx.GraphModule]) -> Iterator[int]:
    """The modules whose own code may read what they hold."""
    for module in graphs:
        for node in module.graph.find_nodes(op="call_module", sort=False):
            called = attribute(module, str(node.target))
            if called is not UNKNOWN:
                yield from map(id, called.modules())


def _remove(owner: Module, leaf: str, transaction: Transaction) -> None:
    table: dict[str, torch.Tensor | None]
    table = next(table for table in _tables(owner) if leaf in table)
    before, loose = dict(table), leaf in owner._non_persistent_buffers_set

    def undo() -> None:
        # In the order of old, too.
        table.clear()
        table.update(before)
        if loose:
            owner._non_persistent_buffers_set.add(leaf)

    transaction.record(undo)
    del table[leaf]
    owner._non_persistent_buffers_set.discard(leaf)
