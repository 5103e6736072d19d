"""Writes of a rule, `w <- e`: a tensor of the state gives way to a new one.

Nothing is written in place. A tensor that anything outside the match reads is left
alone, or left to those readers while the match gets one of its own.
"""

from __future__ import annotations

import copy

import attrs
import torch
from torch import fx, nn

from rewrite_engine.matching.match import Match
from rewrite_engine.rewriting.folding import Constant
from rewrite_engine.rewriting.safety import Refused
from rewrite_engine.rewriting.state import State, fresh_name
from rewrite_engine.rewriting.transaction import Transaction
from rewrite_engine.tensor_types import UNKNOWN, attribute


@attrs.define(eq=False)
class StateWriter:
    """Makes the writes of one match."""

    match: Match
    transaction: Transaction
    state: State
    _clones: dict[str, str] = attrs.field(factory=dict)

    def write(self, name: str, node: fx.Node, value: Constant, *, own: bool) -> fx.Node:
        """Put a value in the place of a tensor; what stands for it from then on.

        Raises: Refused, if it is no state, does not fit, or is read elsewhere.
        """
        old = self.state.facts.constant(node)
        if old is None:
            raise Refused(f"'{name}' is no state of the model")
        new = like(old, value, name)
        path, held = str(node.target), self.state.facts.is_held(node)
        called = self._called(path) if held else None
        if called in self._clones.values():
            self.state.write(self.transaction, node, new)
            return node
        other = self.state.readers.other(
            old, self.match.calls, self.transaction.detached
        )
        if other is None:
            self.state.write(self.transaction, node, new)
            return node
        if not own:
            raise Refused(f"'{other}' also reads '{name}'")
        if called is None:
            return self._own_constant(node, new)
        return self._own_module(called, path, new)

    # --- one of its own ---

    def _called(self, path: str) -> str:
        """The target of the matched call whose module holds what is at a path."""
        targets = {str(c.target) for c in self.match.calls if c.op == "call_module"}
        return next(target for target in targets if path.startswith(f"{target}."))

    def _own_constant(self, node: fx.Node, new: torch.Tensor) -> fx.Node:
        name = self.state.own_name(node)
        made = self.state.add(self.transaction, node, name, new)
        made.meta.update(node.meta)
        for call in self.match.calls:
            self.transaction.replace_in(call, node, made)
        return made

    def _own_module(self, called: str, path: str, new: torch.Tensor) -> fx.Node:
        """A copy of the called module that shares all other tensors with it."""
        facts = self.state.facts
        parent_path, _, name = called.rpartition(".")
        parent = facts.module.get_submodule(parent_path)
        fresh = fresh_name(f"{name}_1", lambda n: attribute(parent, n) is not UNKNOWN)
        target = f"{parent_path}.{fresh}".lstrip(".")
        inner = path[len(called) + 1 :].split(".")[:-1]
        parent._modules[fresh] = _cloned(facts.module.get_submodule(called), inner)
        self.transaction.record(lambda: parent._modules.pop(fresh))
        self._clones[called] = target
        for call in self.match.calls:
            if call.op == "call_module" and call.target == called:
                self.transaction.retarget(call, target)
        held = facts.held(target + path[len(called) :])
        self.state.write(self.transaction, held, new)
        return held

    def renamed(self, node: fx.Node) -> fx.Node:
        """What stands for a tensor once its module has been copied."""
        facts, path = self.state.facts, str(node.target)
        for called, target in self._clones.items():
            if facts.is_held(node) and path.startswith(f"{called}."):
                return facts.held(target + path[len(called) :])
        return node


def like(old: torch.Tensor, value: Constant, name: str) -> torch.Tensor:
    """A value as a tensor that can take the place of `old`: its class, dtype, layout,
    and whether it has gradients.

    Raises: Refused, if the shapes differ or a fraction would be lost.
    """
    if type(old) not in (torch.Tensor, nn.Parameter):
        raise Refused(f"'{name}' is a {type(old).__name__}, which is not written")
    if value.exact.shape != old.shape:
        raise Refused(
            f"'{name}' has the shape {list(old.shape)}, and would become "
            f"{list(value.exact.shape)}"
        )
    if value.exact.is_floating_point() and not old.is_floating_point():
        raise Refused(f"'{name}' holds {old.dtype}, and would become floating point")
    new = torch.empty_like(old, requires_grad=False)
    with torch.no_grad():
        new.copy_(value.exact)
    if not isinstance(old, nn.Parameter):
        return new.requires_grad_(old.requires_grad)
    parameter = nn.Parameter(new, requires_grad=old.requires_grad)
    vars(parameter).update(vars(old))
    return parameter


def _cloned(module: nn.Module, inner: list[str]) -> nn.Module:
    """A copy of a module and of the modules on a path inside it; tensors are shared."""
    clone = copy.copy(module)
    for kind in ("_parameters", "_buffers", "_modules"):
        clone.__dict__[kind] = dict(module.__dict__[kind])
    if inner:
        clone._modules[inner[0]] = _cloned(module.get_submodule(inner[0]), inner[1:])
    return clone
