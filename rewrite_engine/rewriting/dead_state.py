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
    dead = {id(getattr(*place)) for name in names for place in _place(root, name)}
    if not dead:
        return
    read, called = set(_read(root, dead)), set(_called(root))
    for owner, leaf in list(_state(root)):
        is_read = (id(owner), leaf) in read or id(owner) in called
        if id(getattr(owner, leaf)) in dead and not is_read:
            _remove(owner, leaf, transaction)


def _place(root: Module, name: str) -> Iterator[Place]:
    path, _, leaf = name.rpartition(".")
    owner: Any = attribute(root, path) if path else root
    if isinstance(owner, Module) and any(leaf in table for table in _tables(owner)):
        yield owner, leaf


def _state(root: Module) -> Iterator[Place]:
    for owner in root.modules():
        for table in _tables(owner):
            yield from ((owner, leaf) for leaf in table)


def _tables(owner: Module) -> tuple[dict[str, Any], dict[str, Any]]:
    return owner._parameters, owner._buffers


def _graphs(root: fx.GraphModule) -> Iterator[fx.GraphModule]:
    return (m for m in root.modules() if isinstance(m, fx.GraphModule))


def _read(root: fx.GraphModule, dead: Container[int]) -> Iterator[tuple[int, str]]:
    """What the graphs of a module read of some tensors: its owner and its name."""
    for module in _graphs(root):
        for node in module.graph.find_nodes(op="get_attr", sort=False):
            name = str(node.target)
            if id(attribute(module, name)) in dead:
                for owner, leaf in _place(module, name):
                    yield id(owner), leaf


def _called(root: fx.GraphModule) -> Iterator[int]:
    """The modules whose own code may read what they hold."""
    for module in _graphs(root):
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
