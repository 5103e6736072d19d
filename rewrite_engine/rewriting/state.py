"""Module state that rewrites read and add: attributes of a GraphModule, or the lifted
inputs of an ExportedProgram.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

import attrs
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.rewriting.safety import Refused
from rewrite_engine.rewriting.transaction import Transaction
from rewrite_engine.tensor_types import UNKNOWN, attribute

_WRITTEN_BACK = (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION)


class State(Protocol):
    """Where the constants of one graph live."""

    facts: GraphFacts

    def add(
        self, transaction: Transaction, before: fx.Node, name: str, value: torch.Tensor
    ) -> fx.Node:
        """A node that stands for a new constant; stored at `store`."""

    def store(self, transaction: Transaction) -> None:
        """Give the module its new constants."""


def _fresh(wanted: str, taken: Any) -> str:
    name, number = wanted, 0
    while taken(name):
        number += 1
        name = f"{wanted}_{number}"
    return name


def constant_name(source: str, name: str) -> str:
    """A name for a constant derived from another: `layer.conv.weight` and `folded`
    give `layer_conv_weight_folded`.
    """
    return f"{re.sub(r'[^0-9A-Za-z_]', '_', source)}_{name}"


@attrs.define(eq=False)
class ModuleState:
    """State of a GraphModule: constants are `get_attr` nodes."""

    facts: GraphFacts
    staged: dict[str, torch.Tensor]
    is_sealed: bool = False
    """Whether the module belongs to a program whose signature lists all constants."""

    @staticmethod
    def of(module: fx.GraphModule, *, is_sealed: bool = False) -> ModuleState:
        staged: dict[str, torch.Tensor] = {}
        return ModuleState(GraphFacts(module, {}, staged), staged, is_sealed)

    def add(
        self, transaction: Transaction, before: fx.Node, name: str, value: torch.Tensor
    ) -> fx.Node:
        if self.is_sealed:
            raise Refused("a nested graph of an ExportedProgram takes no new constants")
        target = _fresh(name, self._is_taken)
        self.staged[target] = value
        transaction.record(lambda: self.staged.pop(target))
        return transaction.create(before, "get_attr", target, (), {})

    def _is_taken(self, name: str) -> bool:
        return name in self.staged or attribute(self.facts.module, name) is not UNKNOWN

    def store(self, transaction: Transaction) -> None:
        module = self.facts.module
        for name, value in self.staged.items():
            transaction.record(lambda n=name: delattr(module, n))  # type: ignore[misc]
            if isinstance(value, torch.nn.Parameter):
                module.register_parameter(name, value)
            else:
                module.register_buffer(name, value)


@attrs.define(eq=False)
class ProgramState:
    """State of an ExportedProgram: constants are placeholders of its signature."""

    facts: GraphFacts
    program: ExportedProgram
    staged: dict[str, torch.Tensor]

    @staticmethod
    def of(program: ExportedProgram) -> ProgramState:
        staged: dict[str, torch.Tensor] = {}
        lifted, names = lifted_tensors(program), _names(program)
        mutated = _mutated(program)
        facts = GraphFacts(program.graph_module, lifted, staged, mutated, names)
        return ProgramState(facts, program, staged)

    def add(
        self, transaction: Transaction, before: fx.Node, name: str, value: torch.Tensor
    ) -> fx.Node:
        first_input = self._first_user_input()
        prefix = "p_" if isinstance(value, torch.nn.Parameter) else "b_"
        target = _fresh(prefix + name.removeprefix(prefix), self._is_taken)
        node = transaction.create(first_input, "placeholder", target, (), {}, target)
        self.staged[node.name] = value
        transaction.record(lambda: self.staged.pop(node.name))
        return node

    def _is_taken(self, name: str) -> bool:
        taken = self.program.state_dict.keys() | self.program.constants.keys()
        return name in self.staged or name in taken

    def _first_user_input(self) -> fx.Node:
        state_inputs = self.facts.lifted.keys() | self.staged.keys()
        nodes = self.program.graph.nodes
        return next(n for n in nodes if n.name not in state_inputs)

    def store(self, transaction: Transaction) -> None:
        signature = self.program.graph_signature
        state = self.program.state_dict
        old = list(signature.input_specs), list(signature.output_specs), dict(state)

        def undo() -> None:
            signature.input_specs[:], signature.output_specs[:] = old[0], old[1]
            state.clear()
            state.update(old[2])

        transaction.record(undo)
        state.update(self.staged)
        signature.input_specs[:] = self._input_specs()
        signature.output_specs[:] = self._output_specs()

    def _input_specs(self) -> list[InputSpec]:
        known = {
            spec.arg.name: spec for spec in self.program.graph_signature.input_specs
        }
        placeholders = self.program.graph.find_nodes(op="placeholder")
        return [known.get(node.name) or self._spec(node) for node in placeholders]

    def _spec(self, node: fx.Node) -> InputSpec:
        is_parameter = isinstance(self.staged[node.name], torch.nn.Parameter)
        kind = InputKind.PARAMETER if is_parameter else InputKind.BUFFER
        persistent = None if is_parameter else True
        return InputSpec(kind, TensorArgument(node.name), node.name, persistent)

    def _output_specs(self) -> list[OutputSpec]:
        """The outputs under the names of the nodes that now produce them."""
        specs = self.program.graph_signature.output_specs
        values = self.program.graph.output_node().args[0]
        return [_renamed(s, v) for s, v in zip(specs, values, strict=True)]


def _renamed(spec: OutputSpec, value: Any) -> OutputSpec:
    name = getattr(spec.arg, "name", None)
    if not isinstance(value, fx.Node) or name is None or name == value.name:
        return spec
    arg = type(spec.arg)(name=value.name)
    return OutputSpec(spec.kind, arg, spec.target)


def _mutated(program: ExportedProgram) -> frozenset[str]:
    """The placeholders of the state that each run of a program writes back."""
    signature = program.graph_signature
    written = {s.target for s in signature.output_specs if s.kind in _WRITTEN_BACK}
    return frozenset(
        s.arg.name
        for s in signature.input_specs
        if s.target is not None and s.target in written
    )


def _names(program: ExportedProgram) -> dict[str, str]:
    """The qualified names of the state that placeholders stand for, by node name."""
    specs = program.graph_signature.input_specs
    return {s.arg.name: s.target for s in specs if s.target is not None}


def lifted_tensors(program: ExportedProgram) -> dict[str, torch.Tensor]:
    """The tensors that an exported program's placeholders stand for, by node name."""
    tensors = {}
    for spec in program.graph_signature.input_specs:
        held = program.state_dict.get(spec.target, program.constants.get(spec.target))
        if isinstance(held, torch.Tensor) and spec.kind is not InputKind.USER_INPUT:
            tensors[spec.arg.name] = held
    return tensors
