"""The state of a GraphModule: attributes, which `get_attr` nodes read."""

from __future__ import annotations

import attrs
import torch
from torch import fx

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.rewriting.call_signatures import CallSignatures
from rewrite_engine.rewriting.dead_state import drop_unread
from rewrite_engine.rewriting.readers import Readers
from rewrite_engine.rewriting.safety import Refused
from rewrite_engine.rewriting.state import (
    Table,
    Writes,
    constant_name,
    fresh_name,
    may_stand_for,
)
from rewrite_engine.rewriting.transaction import Transaction
from rewrite_engine.tensor_types import UNKNOWN, attribute


@attrs.define(eq=False)
class ModuleState:
    """State of a GraphModule: constants are `get_attr` nodes."""

    facts: GraphFacts
    readers: Readers
    staged: dict[str, torch.Tensor]
    is_exported: bool = False
    """Whether the module belongs to a program, whose signature lists all constants."""
    signatures: CallSignatures = attrs.field(factory=CallSignatures)
    _writes: Writes = attrs.field(factory=Writes)

    @staticmethod
    def of(
        module: fx.GraphModule,
        readers: Readers | None = None,
        *,
        is_exported: bool = False,
    ) -> ModuleState:
        """The state of a graph; `readers` are those of the whole model."""
        staged: dict[str, torch.Tensor] = {}
        facts = GraphFacts(module, {}, staged)
        return ModuleState(facts, readers or Readers(module, {}), staged, is_exported)

    def write(
        self, transaction: Transaction, node: fx.Node, value: torch.Tensor
    ) -> None:
        table, name = self._place(node)
        self.readers.replaced(table[name], value)
        self._writes.write(transaction, table, name, value)

    def initial(self, node: fx.Node) -> torch.Tensor | None:
        if self.facts.constant(node) is None:
            return None
        return self._writes.at_first(*self._place(node))

    def name_after(self, node: fx.Node, suffix: str) -> str:
        # It lies at the top: other graphs may call the submodule that holds the other.
        return constant_name(str(node.target), suffix)

    def _place(self, node: fx.Node) -> tuple[Table, str]:
        """The table that holds a constant, and its name there."""
        path = str(node.target)
        if path in self.staged:
            return self.staged, path
        owner, _, name = path.rpartition(".")
        holder = self.facts.module.get_submodule(owner)
        for table in (holder._parameters, holder._buffers, vars(holder)):
            if name in table and not hasattr(type(holder), name):
                return table, name
        raise Refused(f"'{path}' is computed or belongs to a class: it is not written")

    def add(
        self, transaction: Transaction, before: fx.Node, name: str, value: torch.Tensor
    ) -> fx.Node:
        if self.is_exported:
            raise Refused("a nested graph of an ExportedProgram takes no new constants")
        target = fresh_name(name, self._is_taken)
        transaction.record(self.staged.pop, target, None)
        self.staged[target] = value
        node = transaction.create(before, "get_attr", target, (), {})
        self.readers.made(node, value)
        return node

    def again(
        self,
        transaction: Transaction,
        before: fx.Node,
        node: fx.Node,
        value: torch.Tensor,
    ) -> fx.Node | None:
        if not may_stand_for(self.staged.get(str(node.target)), value):
            return None
        found = transaction.create(before, "get_attr", str(node.target), (), {})
        self.readers.made(found, self.staged[str(node.target)])
        return found

    def _is_taken(self, name: str) -> bool:
        return name in self.staged or attribute(self.facts.module, name) is not UNKNOWN

    def store(self, transaction: Transaction) -> None:
        module = self.facts.module
        for name, value in self.staged.items():
            is_parameter = isinstance(value, torch.nn.Parameter)
            table = module._parameters if is_parameter else module._buffers
            transaction.record(table.pop, name, None)
            if is_parameter:
                module.register_parameter(name, value)
            else:
                module.register_buffer(name, value)
        # Other graphs may read the state of a submodule.
        if self.readers.model is module:
            gone = (n for n in transaction.detached if n.op == "get_attr")
            drop_unread(module, (str(n.target) for n in gone), transaction)
