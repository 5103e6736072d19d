"""The constants of a graph, which rewrites read, add and write, wherever they lie."""

from __future__ import annotations

import re
from collections.abc import Callable, MutableMapping
from typing import Any, Protocol, TypeAlias

import attrs
import torch
from torch import fx

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.rewriting.call_signatures import CallSignatures
from rewrite_engine.rewriting.readers import Readers
from rewrite_engine.rewriting.transaction import Transaction

_ILLEGAL = re.compile(r"[^0-9A-Za-z_]")


class State(Protocol):
    """Where the constants of one graph live."""

    facts: GraphFacts
    readers: Readers
    signatures: CallSignatures

    @property
    def is_exported(self) -> bool:
        """Whether the graph is one of an exported program, which calls overloads."""

    def add(
        self, transaction: Transaction, before: fx.Node, name: str, value: torch.Tensor
    ) -> fx.Node:
        """A node that stands for a new constant; stored at `store`."""

    def again(
        self,
        transaction: Transaction,
        before: fx.Node,
        node: fx.Node,
        value: torch.Tensor,
    ) -> fx.Node | None:
        """A node for an equal constant that was added before, if it is still there."""

    def write(
        self, transaction: Transaction, node: fx.Node, value: torch.Tensor
    ) -> None:
        """Let a new tensor take the place of the one that a node stands for."""

    def initial(self, node: fx.Node) -> torch.Tensor | None:
        """The tensor that a node stood for before any write."""

    def name_after(self, node: fx.Node, suffix: str) -> str:
        """The name for a constant that is made from the one that a node stands for."""

    def store(self, transaction: Transaction) -> None:
        """Give the model its new constants, and take those that nothing reads now."""


def fresh_name(wanted: str, taken: Callable[[str], bool]) -> str:
    """A name that is not taken, as near as possible to the one wanted."""
    name, number = wanted, 0
    while taken(name):
        number += 1
        name = f"{wanted}_{number}"
    return name


def constant_name(*parts: str) -> str:
    """An identifier for a constant: `layer.conv.weight` and `folded` give
    `layer_conv_weight_folded`.
    """
    return _ILLEGAL.sub("_", "_".join(parts))


Table: TypeAlias = MutableMapping[str, Any]
"""What holds tensors under names: a dictionary of a module or of a program."""


@attrs.frozen(eq=False)
class Writes:
    """The tensors that were written, as they were at first."""

    initial: dict[tuple[int, str], torch.Tensor] = attrs.field(factory=dict)

    def write(
        self, transaction: Transaction, table: Table, name: str, new: torch.Tensor
    ) -> None:
        old = table[name]
        self.initial.setdefault((id(table), name), old)
        transaction.record(table.__setitem__, name, old)
        table[name] = new

    def at_first(self, table: Table, name: str) -> torch.Tensor | None:
        found = self.initial.get((id(table), name), table.get(name))
        return found if isinstance(found, torch.Tensor) else None


def may_stand_for(held: torch.Tensor | None, other: torch.Tensor) -> bool:
    """Whether a tensor may stand for another, which nothing writes."""
    if held is None or type(held) is not type(other):
        return False
    kinds = [
        (t.dtype, t.shape, t.stride(), t.device, t.requires_grad) for t in (held, other)
    ]
    return kinds[0] == kinds[1] and torch.equal(held, other)
