"""The state of an ExportedProgram: placeholders, which its signature names."""

from __future__ import annotations

from typing import Any

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

from rewrite_engine.errors import GraphError
from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.rewriting.call_signatures import CallSignatures
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

_WRITTEN_BACK = (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION)


@attrs.define(eq=False)
class ProgramState:
    """State of an ExportedProgram: constants are placeholders of its signature."""

    facts: GraphFacts
    readers: Readers
    program: ExportedProgram
    signatures: CallSignatures
    staged: dict[str, torch.Tensor]
    _lifted: dict[str, torch.Tensor]
    _names: dict[str, str]
    """The qualified names of all constants, those that are new, too, by node name."""
    _first_input: fx.Node
    """The first node that stands for no state: new constants go in front of it."""
    _new_names: set[str] = attrs.field(factory=set)
    _writes: Writes = attrs.field(factory=Writes)

    @property
    def is_exported(self) -> bool:
        return True

    @staticmethod
    def of(program: ExportedProgram) -> ProgramState:
        staged: dict[str, torch.Tensor] = {}
        lifted, names = lifted_tensors(program), _names(program)
        _check_names(program)
        mutated = _mutated(program)
        facts = GraphFacts(program.graph_module, lifted, staged, mutated, names)
        readers = Readers(program.graph_module, lifted)
        first = next(n for n in program.graph.nodes if n.name not in names)
        signatures = CallSignatures.of(program)
        return ProgramState(
            facts, readers, program, signatures, staged, lifted, names, first
        )

    def write(
        self, transaction: Transaction, node: fx.Node, value: torch.Tensor
    ) -> None:
        table, name = self._place(node)
        self.readers.replaced(table[name], value)
        self._writes.write(transaction, table, name, value)
        if node.name in self._lifted:
            old = self._lifted[node.name]
            transaction.record(self._lifted.__setitem__, node.name, old)
            self._lifted[node.name] = value

    def initial(self, node: fx.Node) -> torch.Tensor | None:
        if self.facts.constant(node) is None:
            return None
        return self._writes.at_first(*self._place(node))

    def name_after(self, node: fx.Node, suffix: str) -> str:
        return f"{self._names.get(node.name, node.name)}_{suffix}"

    def _place(self, node: fx.Node) -> tuple[Table, str]:
        if node.name in self.staged:
            return self.staged, node.name
        target = self._names.get(node.name)
        if target is None:
            raise Refused(f"'{node}' is no state of the program: it is not written")
        state = self.program.state_dict
        return (state if target in state else self.program.constants), target

    def add(
        self, transaction: Transaction, before: fx.Node, name: str, value: torch.Tensor
    ) -> fx.Node:
        prefix = "p" if isinstance(value, torch.nn.Parameter) else "b"
        qualified = name
        if self._is_taken(name):
            # Of a module that is called twice, `unflatten` takes two calls for one if
            # they read parameters of their own; those at the top are given to them.
            qualified = fresh_name(constant_name(name), self._is_taken)
        hint = constant_name(prefix, qualified)
        first_input = self._first_input
        node = transaction.create(first_input, "placeholder", hint, (), {}, hint)
        # Parameters of the code are told apart by their targets.
        node.target = node.name
        transaction.record(self._forget, node.name, qualified)
        self.staged[node.name] = value
        self._names[node.name] = qualified
        self._new_names.add(qualified)
        self.readers.made(node, value)
        return node

    def again(
        self,
        transaction: Transaction,
        before: fx.Node,
        node: fx.Node,
        value: torch.Tensor,
    ) -> fx.Node | None:
        is_there = node not in transaction.detached
        is_equal = is_there and may_stand_for(self.staged.get(node.name), value)
        return node if is_equal else None

    def _forget(self, node_name: str, qualified: str) -> None:
        self.staged.pop(node_name, None)
        self._names.pop(node_name, None)
        self._new_names.discard(qualified)

    def _is_taken(self, name: str) -> bool:
        held = self._new_names, self.program.state_dict, self.program.constants
        return any(name in names for names in held)

    def store(self, transaction: Transaction) -> None:
        signature, tables = self.program.graph_signature, self._tables()
        specs = list(signature.input_specs), list(signature.output_specs)
        held = [dict(table) for table in tables]

        def undo() -> None:
            signature.input_specs[:], signature.output_specs[:] = specs
            for table, before in zip(tables, held, strict=True):
                table.clear()
                table.update(before)

        transaction.record(undo)
        # What a later rewrite folded again has left the graph.
        live = {n.name for n in self.program.graph.find_nodes(op="placeholder")}
        staged = ((n, t) for n, t in self.staged.items() if n in live)
        tables[0].update({self._names[n]: t for n, t in staged})
        signature.input_specs[:] = self._input_specs()
        signature.output_specs[:] = self._output_specs()
        self.signatures.store(transaction)
        self._drop_unread({s.target for s in specs[0] if s.target is not None})

    def _drop_unread(self, before: set[str]) -> None:
        """Remove state that was an input and is none now, under all its names."""
        read = {spec.target for spec in self.program.graph_signature.input_specs}
        tables = self._tables()
        gone = [table[n] for n in before - read for table in tables if n in table]
        dead = set(map(id, gone))
        for table in tables:
            for name in [n for n, tensor in table.items() if id(tensor) in dead]:
                if name not in read:
                    del table[name]

    def _tables(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.program.state_dict, self.program.constants

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
        target = self._names[node.name]
        return InputSpec(kind, TensorArgument(node.name), target, persistent)

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


def _check_names(program: ExportedProgram) -> None:
    """Raises: GraphError, if the signature names other inputs than the graph has."""
    specs = program.graph_signature.input_specs
    placeholders = program.graph.find_nodes(op="placeholder")
    for spec, node in zip(specs, placeholders, strict=False):
        if spec.arg.name != node.name:
            message = f"the program's signature has an input `{spec.arg.name}`"
            hint = (
                "`copy.deepcopy` of a program renames inputs called like builtins; "
                "export the model again instead"
            )
            raise GraphError(f"{message}, its graph has `{node.name}`: {hint}")


def _mutated(program: ExportedProgram) -> frozenset[str]:
    """The placeholders of the state and inputs that each run of a program writes."""
    outputs = program.graph_signature.output_specs
    state = {s.target for s in outputs if s.kind in _WRITTEN_BACK}
    inputs = {s.target for s in outputs if s.kind is OutputKind.USER_INPUT_MUTATION}
    return frozenset(
        s.arg.name
        for s in program.graph_signature.input_specs
        if s.arg.name in inputs or (s.target is not None and s.target in state)
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
