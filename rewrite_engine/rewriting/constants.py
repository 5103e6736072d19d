"""Constants that a new graph reads: folded, and stored under fresh names."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import NamedTuple

import attrs
import torch
from torch import fx

from rewrite_engine.rewriting.effects import is_inert
from rewrite_engine.rewriting.folding import Constant, check_finite, check_unhooked
from rewrite_engine.rewriting.state import State, constant_name
from rewrite_engine.rewriting.transaction import Transaction
from rewrite_engine.rewriting.values import ValueTypes


class Label(NamedTuple):
    """How a new constant is stored."""

    rule: str
    """Stands for its source in its name, if it has none."""
    name: str
    """What the rule calls it."""
    is_parameter: bool


@attrs.frozen(eq=False)
class Store:
    """Where the new constants of one graph go.

    A layer that is called twice gives two matches, and one constant for both: what a
    rule made from the same constants, and is equal, is stored once.
    """

    transaction: Transaction
    state: State
    types: ValueTypes
    _made: dict[Hashable, fx.Node] = attrs.field(factory=dict, init=False)
    """The last node of a new constant, by what that was made from."""

    def add(
        self, before: fx.Node, constant: Constant, label: Label, source: fx.Node | None
    ) -> fx.Node:
        """A node for a new constant, which takes its name and memory format from its
        source, and trains if that does.

        Raises: Refused, if the constant is not finite, and those it was made from are.
        """
        held = None if source is None else self.state.facts.constant(source)
        tensor = constant.rounded(like=held)
        check_finite(constant, tensor)
        if label.is_parameter:
            if held is not None:
                check_unhooked(held, str(source))
            trains = held is not None and held.requires_grad and _has_gradients(tensor)
            tensor = torch.nn.Parameter(tensor, requires_grad=trains)
        named_after = None if source is None else source.target
        key = label, named_after, *_origins(constant)
        node = self._again(before, self._made.get(key), tensor)
        if node is None:
            name = self._name(label, source)
            node = self.state.add(self.transaction, before, name, tensor)
        self._made[key] = node
        self.types.record_constant(node, tensor)
        return node

    def _again(
        self, before: fx.Node, made: fx.Node | None, tensor: torch.Tensor
    ) -> fx.Node | None:
        """A node for a constant that is there already, if nothing can write it."""
        # A match that was refused has taken its nodes back.
        if made is None or made not in self.transaction.created:
            return None
        if not all(map(is_inert, made.users)):
            return None
        return self.state.again(self.transaction, before, made, tensor)

    def _name(self, label: Label, source: fx.Node | None) -> str:
        if source is None:
            return constant_name(label.rule, label.name)
        return self.state.name_after(source, label.name)


def _origins(constant: Constant) -> Iterator[Hashable]:
    """The names of the constants that one was made from; for what was not read, what
    equals nothing else.
    """
    for each in constant.inputs or (constant,):
        yield each.origin.target if isinstance(each.origin, fx.Node) else object()


def _has_gradients(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
