"""Who reads a tensor of a model's state: every call, in every graph of the model."""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, Iterator, Mapping

import attrs
import torch
from torch import fx, nn

from rewrite_engine.graph_facts import value_readers
from rewrite_engine.rewriting.aliases import storage_keys
from rewrite_engine.rewriting.effect import owned_module
from rewrite_engine.tensor_types import attribute


@attrs.define(eq=False)
class Readers:
    """The nodes that stand for tensors of a model, by storage: views and tied weights
    are one. Looked up when somebody first asks.
    """

    model: fx.GraphModule
    lifted: Mapping[str, torch.Tensor]
    _known: dict[Hashable, dict[fx.Node, None]] | None = None
    _made: list[tuple[fx.Node, tuple[Hashable, ...]]] = attrs.field(factory=list)
    """The nodes of tensors that the model does not hold yet, each with its storages."""

    def other(
        self, tensor: torch.Tensor, calls: Container[fx.Node], gone: Container[fx.Node]
    ) -> fx.Node | None:
        """A call outside `calls` that reads the tensor or shares memory with it."""
        for node in self._standing_for(tensor):
            for reader in [node] if node.op == "call_module" else value_readers(node):
                if reader not in calls and reader not in gone:
                    return reader
        return None

    def add(self, nodes: Iterable[fx.Node]) -> None:
        """Take up new nodes."""
        if self._known is not None:
            for node in nodes:
                self._list(node, self._known)

    def made(self, node: fx.Node, tensor: torch.Tensor) -> None:
        """Take up a new node that stands for a tensor which the model will hold."""
        self._made.append((node, tuple(storage_keys(tensor))))

    def replaced(self, old: torch.Tensor, new: torch.Tensor) -> None:
        """Note that what read `old` reads `new`."""
        assert self._known is not None, "who reads a tensor is asked before a write"
        readers = dict.fromkeys(self._standing_for(old))
        for key in storage_keys(new):
            self._known[key] = readers

    def _standing_for(self, tensor: torch.Tensor) -> list[fx.Node]:
        if self._known is None:
            self._known = {}
            for module in self.model.modules():
                if isinstance(module, fx.GraphModule):
                    for node in module.graph.nodes:
                        self._list(node, self._known)
        for node, keys in self._made:
            for key in keys:
                self._known.setdefault(key, {})[node] = None
        self._made.clear()
        known = (self._known.get(key, {}) for key in storage_keys(tensor))
        return list(dict.fromkeys(node for nodes in known for node in nodes))

    def _list(self, node: fx.Node, known: dict[Hashable, dict[fx.Node, None]]) -> None:
        for tensor in self._tensors(node):
            for key in storage_keys(tensor):
                known.setdefault(key, {})[node] = None

    def _tensors(self, node: fx.Node) -> Iterator[torch.Tensor]:
        if node.op == "placeholder" and node.graph is self.model.graph:
            held = self.lifted.get(node.name)
            yield from () if held is None else (held,)
        owner = node.graph.owning_module
        if node.op == "get_attr":
            value = attribute(owner, str(node.target))
            yield from (value,) if isinstance(value, torch.Tensor) else ()
        called = owned_module(node, owner)
        # The calls inside another graph are readers themselves.
        if called is not None and not isinstance(called, fx.GraphModule):
            yield from tensors_of(called)


def tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    """The tensors that a module and those inside it hold."""
    for part in module.modules():
        for kept in (part._parameters, part._buffers, vars(part)):
            yield from (t for t in kept.values() if isinstance(t, torch.Tensor))
