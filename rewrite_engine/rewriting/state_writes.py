"""Writes of a rule, `w <- e`: a tensor of the state gives way to a new one.

Nothing is written in place. A tensor that anything outside the match reads is left
alone, or left to those readers while the match gets one of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from typing import Any

import attrs
import torch
from torch import fx, nn

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.matching.match import Match
from rewrite_engine.rewriting.aliases import storage_keys
from rewrite_engine.rewriting.folding import (
    Constant,
    check_finite,
    check_unhooked,
    is_finite,
)
from rewrite_engine.rewriting.readers import tensors_of
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
        name = self.state.name_after(node, "own")
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
        self.transaction.record(parent._modules.pop, fresh, None)
        parent._modules[fresh] = _cloned(facts.module.get_submodule(called), {})
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


def check_apart(
    match: Match, facts: GraphFacts, writes: Sequence[tuple[str, fx.Node, Any]]
) -> None:
    """Whether each written tensor, given with its name and new value, is read by the
    match under no name but those that are written alike: a module called twice or
    tied weights are one tensor.

    Raises: Refused
    """
    written: dict[Hashable, tuple[str, Any]] = {}
    names = {name for name, _, _ in writes}
    for name, node, value in writes:
        for key in _memory(facts, node):
            other, before = written.setdefault(key, (name, value))
            if before is not value and not _is_equal(before, value):
                raise Refused(f"'{other}' and '{name}' are one tensor")
    for name, bound in match.bindings.items():
        nodes = bound if isinstance(bound, list) else [bound]
        for node in nodes if name not in names else ():
            for key in _memory(facts, node) & written.keys():
                raise Refused(f"'{written[key][0]}' and '{name}' are one tensor")
    _check_named(match, facts, writes)


def _check_named(
    match: Match, facts: GraphFacts, writes: Sequence[tuple[str, fx.Node, Any]]
) -> None:
    """Whether as many calls read a written tensor as the pattern gives it to."""
    given = {name: 0 for name, _, _ in writes if name not in match.rule.lists}
    memory = {name: _memory(facts, node) for name, node, _ in writes}
    for placeholder in match.rule.matcher_graph.find_nodes(op="placeholder"):
        calls = sum("guard" not in user.meta for user in placeholder.users)
        for name in given.keys() & placeholder.meta["names"]:
            given[name] += calls
    for name in given:
        # Names of one tensor, which are written alike, are counted together.
        alike = sum(n for other, n in given.items() if memory[other] & memory[name])
        readers = [c for c in match.calls if _read_by(c, facts) & memory[name]]
        if len(readers) > alike:
            raise Refused(f"'{readers[-1]}' also reads '{name}', under no name")


def _memory(facts: GraphFacts, node: object) -> set[Hashable]:
    tensor = facts.constant(node) if isinstance(node, fx.Node) else None
    return set() if tensor is None else set(storage_keys(tensor))


def _read_by(call: fx.Node, facts: GraphFacts) -> set[Hashable]:
    held = [] if (called := facts.called(call)) is None else tensors_of(called)
    operands = (_memory(facts, operand) for operand in call.all_input_nodes)
    return set().union(*operands, *(set(storage_keys(t)) for t in held))


def _is_equal(one: Any, other: Any) -> bool:
    if not isinstance(one, Constant) or not isinstance(other, Constant):
        return False
    one, other = one.exact, other.exact
    return one.device == other.device and torch.equal(one, other)


def like(old: torch.Tensor, value: Constant, name: str) -> torch.Tensor:
    """A value as a tensor that can take the place of `old`: its class, dtype, layout,
    and whether it has gradients.

    Raises: Refused, if the shapes or devices differ, a fraction is lost, or it is not
        finite.
    """
    if type(old) not in (torch.Tensor, nn.Parameter):
        raise Refused(f"'{name}' is a {type(old).__name__}, which is not written")
    check_unhooked(old, name)
    if value.exact.shape != old.shape:
        raise Refused(
            f"'{name}' has the shape {list(old.shape)}, and would become "
            f"{list(value.exact.shape)}"
        )
    if value.exact.device != old.device:
        raise Refused(
            f"'{name}' is on {old.device}, and would be on {value.exact.device}"
        )
    if not torch.can_cast(value.exact.dtype, old.dtype):
        raise Refused(f"'{name}' holds {old.dtype}, and would become {value.dtype}")
    new = torch.empty_like(old, requires_grad=False)
    with torch.no_grad():
        new.copy_(value.exact)
    if not _is_kept(value.exact, new):
        raise Refused(f"'{name}' holds {old.dtype}, too small for what it would become")
    check_finite(value, new)
    if not isinstance(old, nn.Parameter):
        return new.requires_grad_(old.requires_grad)
    parameter = nn.Parameter(new, requires_grad=old.requires_grad)
    vars(parameter).update(vars(old))
    return parameter


def _is_kept(exact: torch.Tensor, new: torch.Tensor) -> bool:
    """Whether a value is kept, or rounded at most: nothing overflows."""
    if new.is_floating_point() or new.is_complex():
        return is_finite(new) or not is_finite(exact)
    return torch.equal(new.to(exact.dtype), exact)


def _cloned(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    """A copy of a module and of those inside it; tensors are shared."""
    if module not in done:
        clone = done[module] = copy.copy(module)
        for kind in ("_parameters", "_buffers"):
            clone.__dict__[kind] = dict(module.__dict__[kind])
        inner = module._modules.items()
        parts = {n: None if m is None else _cloned(m, done) for n, m in inner}
        clone.__dict__["_modules"] = parts
    return done[module]
