"""Constants that a new graph reads: folded, and stored under fresh names."""

from __future__ import annotations

from typing import NamedTuple

import attrs
import torch
from torch import fx

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
    """Where the new constants of one graph go."""

    transaction: Transaction
    state: State
    types: ValueTypes

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
        if source is None:
            name = constant_name(label.rule, label.name)
        else:
            name = self.state.name_after(source, label.name)
        node = self.state.add(self.transaction, before, name, tensor)
        self.types.record_constant(node, tensor)
        return node


def _has_gradients(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
