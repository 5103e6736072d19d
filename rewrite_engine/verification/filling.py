"""Gives the inputs of a left side their values, when a call first reads them.

An operand that is still free is made to fit the operands that are known by then.
Whether a guess was right is never assumed: a call that raises makes the choice
unsuitable.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from rewrite_engine.lowering.instances import Instance
from rewrite_engine.lowering.scope import Unknown
from rewrite_engine.lowering.spellings import Spelling
from rewrite_engine.signatures import Parameter
from rewrite_engine.verification.cases import Tensor
from rewrite_engine.verification.choices import Choice, Unsuitable
from rewrite_engine.verification.demands import Demands, operands_demanded
from rewrite_engine.verification.fitting import Dimensions
from rewrite_engine.verification.literals import literals_of
from rewrite_engine.verification.modules import watched
from rewrite_engine.verification.operands import (
    Names,
    Operand,
    channel_axis,
    elementwise,
    operands_of,
)
from rewrite_engine.verification.samples import RANDOM
from rewrite_engine.verification.spellings import computes, operator_name
from rewrite_engine.verification.subject import Given, Subject, inputs_in


@attrs.frozen(eq=False)
class NewGraph:
    """The graph that is built, and what became of the nodes of the instance."""

    records: bool
    """Whether its nodes record their values."""
    graph: fx.Graph = attrs.field(factory=fx.Graph)
    nodes: dict[fx.Node, Any] = attrs.field(factory=dict)
    """What stands in the graph for a node of the instance."""
    values: dict[fx.Node, Any] = attrs.field(factory=dict)
    """The value of a node of the instance."""
    _fakes: FakeTensorMode = attrs.field(factory=FakeTensorMode)

    def note(self, node: fx.Node, made: fx.Node, value: Any) -> None:
        """A node of the instance was made, and has a value."""
        self.record(made, value)
        self.nodes[node], self.values[node] = made, value

    def record(self, made: fx.Node, value: Any) -> None:
        """Record the value of a new node, if that is wanted."""
        if self.records:
            made.meta["val"] = pytree.tree_map_only(
                torch.Tensor, self._fakes.from_tensor, value
            )

    def translated(self, arguments: Any) -> Any:
        """Arguments of the instance as the graph has them."""
        return fx.map_arg(arguments, self.nodes.__getitem__)

    def read(self, arguments: Any) -> Any:
        """The values of arguments, all of which are known."""
        return fx.map_arg(arguments, self.values.__getitem__)

    def known(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments whose values are known, as values."""
        return {
            name: self.read(value)
            for name, value in arguments.items()
            if all(source in self.values for source in inputs_in(value))
        }


@attrs.define(eq=False)
class Inputs:
    """The inputs of an instance; the scope of the rule's expressions about them.

    `calls` are the calls of the instance, `state` the inputs that are state of the
    module: others are added as they are found to be.
    """

    subject: Subject
    instance: Instance
    choice: Choice
    calls: Names
    new: NewGraph
    state: set[str]
    tensors: dict[str, Tensor] = attrs.field(factory=dict)
    _sizes: dict[str, int] = attrs.field(factory=dict)
    """Dimensions that guards have named so far."""
    _solving: set[str] = attrs.field(factory=set)
    _generator: torch.Generator = attrs.field(
        factory=lambda: torch.Generator().manual_seed(0)
    )
    _demands: Demands = attrs.field(init=False)
    """What the calls that read a node of the instance need it to be."""

    @_demands.default
    def _all_demands(self) -> Demands:
        return operands_demanded(self.instance.left, self.calls, self.choice.sizes)

    def fill_in(
        self, node: fx.Node, spelling: Spelling, arguments: dict[str, Any]
    ) -> None:
        """Give the inputs that a call reads first their values: literals first, but
        for those that are computed from operands. Raises: Unsuitable.
        """
        parameters = {p.name: p for p in spelling.signature.parameters}
        free = [
            (source, parameters[name])
            for name, value in arguments.items()
            for source in inputs_in(value)
            if source not in self.new.values
        ]
        literals = dict(pair for pair in free if self._is_literal(*pair))
        operands = [pair for pair in free if pair[0] not in literals]
        names = {str(source.target) for source, _ in operands}
        late = [source for source in literals if self._follows(source, names)]
        for source in literals:
            if source not in late:
                self._fill_literal(source, literals[source], arguments)
        for source, parameter in operands:
            if source not in self.new.values:
                operand = self._operand(node, source, parameter, arguments)
                self._make(source, operand)
        for source in late:
            self._fill_literal(source, literals[source], arguments)

    def _fill_literal(
        self, source: fx.Node, parameter: Parameter, arguments: Mapping[str, Any]
    ) -> None:
        value = self._literal(str(source.target), parameter, arguments)
        self.new.nodes[source] = self.new.values[source] = value

    def _follows(self, literal: fx.Node, operands: set[str]) -> bool:
        """Whether a guard computes a literal from one of the operands."""
        equations = self.subject.equations(str(literal.target))
        return any(not operands.isdisjoint(equation.names) for equation in equations)

    def _is_literal(self, source: fx.Node, parameter: Parameter) -> bool:
        role = self.subject.role(str(source.target))
        return role == "literal" or (role is None and not parameter.takes_tensor)

    def _literal(
        self, name: str, parameter: Parameter, arguments: Mapping[str, Any]
    ) -> Any:
        for known in (name, parameter.name):
            # What a rule leaves open follows a literal of the same name: `eps`, `$eps`.
            with contextlib.suppress(Unknown):
                return self._solved(known)
        if parameter.type.startswith("ScalarType"):
            return self._element_type(parameter.name, arguments)
        if parameter.name == "block_size":  # one block, the whole operand
            return list(self.new.known(arguments)["input"].shape)
        found = literals_of(parameter)
        if not found:
            raise Unsuitable(f"no literal is known for `{name}`")
        return found[0]

    def _element_type(self, name: str, arguments: Mapping[str, Any]) -> torch.dtype:
        """What a value is converted to: something narrower and back again."""
        value = self.new.known(arguments).get("input")
        if not isinstance(value, torch.Tensor) or value.dtype is self.choice.dtype:
            return torch.int8 if "quant_min" in arguments else torch.float16
        return value.dtype if "quant_min" in arguments else self.choice.dtype

    def value(self, name: str) -> Any:
        """What a name of the rule stands for, made if need be. Raises: Unknown."""
        inputs = self.instance.left.find_nodes(op="placeholder")
        source = next((n for n in inputs if n.target == name), None)
        if source in self._demands and source not in self.new.values:
            self._make(source, self._demands[source])
        source = source or self.instance.calls.get(name)
        if source in self.new.values:
            return self.new.values[source]
        for pattern in self.instance.operators.values():
            if pattern.is_slot and name in pattern.literals[self.instance.row]:
                return pattern.literals[self.instance.row][name]
        return self._solved(name)

    def _solved(self, name: str) -> Any:
        if name in self.choice.literals:
            return self.choice.literals[name]
        if name in self._solving:
            raise Unknown(name)
        self._solving.add(name)
        try:
            for equation in self.subject.equations(name):
                with contextlib.suppress(Unknown):
                    return equation.solve(self)
        finally:
            self._solving.discard(name)
        raise Unknown(name)

    def _operand(
        self,
        node: fx.Node,
        source: fx.Node,
        parameter: Parameter,
        arguments: dict[str, Any],
    ) -> Operand:
        """An operand that fits what is known of a call, and of its other readers."""
        spelling, sizes = self.instance.spellings[node], self.choice.sizes
        known = self.new.known(arguments)
        if not computes(spelling):
            return self._watched(node, spelling, parameter.name, known)
        # Operands may depend on options that are at their defaults.
        defaults = {p.name: p.default for p in spelling.signature.parameters}
        given = {**defaults, **known, **self.choice.options_of(node.name)}
        try:
            operands = operands_of(operator_name(spelling), given, sizes)
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise Unsuitable(f"no operand fits: {error}") from error
        found = operands.get(parameter.name) or self._demands.get(source)
        return found or self._broadcast(elementwise(known, sizes), known)

    def _broadcast(self, operand: Operand, known: Mapping[str, Any]) -> Operand:
        """The operand, along the chosen axis if another one has the full shape."""
        axis, shape = self.choice.along, operand.shape
        is_first = not any(isinstance(v, torch.Tensor) for v in known.values())
        if axis is None or is_first or axis >= len(shape):
            return operand
        return attrs.evolve(operand, shape=_lengthwise(shape, axis))

    def _watched(
        self, node: fx.Node, spelling: Spelling, name: str, known: Mapping[str, Any]
    ) -> Operand:
        """What an observer holds after it has seen its input."""
        value = known.get(spelling.signature.parameters[0].name)
        if value is None:
            return elementwise(known, self.choice.sizes)
        return watched(spelling, channel_axis(node, self.calls), name, value)

    def _make(self, source: fx.Node, operand: Operand) -> None:
        name = str(source.target)
        operand = self._as_demanded(name, operand)
        tensor = Tensor(operand, self._dtype(name, operand), self.choice.layout)
        self.tensors[name] = tensor
        if operand.is_buffer:
            self.state.add(name)
        op = "get_attr" if name in self.state else "placeholder"
        graph = self.new.graph
        with graph.inserting_before(_first_call(graph)):
            made = graph.create_node(op, name, name=name)
        self.new.note(source, made, tensor.make(RANDOM, self._generator))

    # --- what the rule says about an input ---

    def _dtype(self, name: str, operand: Operand) -> torch.dtype:
        chosen = self.choice.dtypes.get(name, self.choice.dtype)
        types = self.subject.types.get(name, Given()).dtypes
        if types:
            return chosen if chosen in types else types[0]
        for example in self.subject.examples:
            dtypes = example.types.get(name, Given()).dtypes
            if dtypes and not dtypes[0].is_floating_point:
                return dtypes[0]
        return chosen

    def _as_demanded(self, name: str, operand: Operand) -> Operand:
        """The operand, with another shape if a guard demands it."""
        example = self.choice.example
        shape = None if example is None else example.types.get(name, Given()).shape
        if shape is not None:
            return attrs.evolve(operand, shape=shape)
        if name in self.subject.positive:
            operand = attrs.evolve(operand, content="positive")
        if name in self.subject.axes:
            return attrs.evolve(operand, shape=self._along(name, operand.shape))
        demanded = self.subject.types.get(name, Given()).dims
        if demanded is None:
            return operand
        dimensions = Dimensions(self._sizes, self.choice.sizes)
        return attrs.evolve(operand, shape=dimensions.shape(demanded, operand.shape))

    def _along(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape, all of whose elements lie along the one axis of a name."""
        axis = self.subject.axes[name](self)
        if not -len(shape) <= axis < len(shape):
            raise Unsuitable(f"`{name}` has no axis {axis}")
        return _lengthwise(shape, range(len(shape))[axis])


def _first_call(graph: fx.Graph) -> fx.Node:
    inputs = ("placeholder", "get_attr")
    calls = (node for node in graph.nodes if node.op not in inputs)
    return next(calls, graph._root)


def _lengthwise(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The shape of a vector along an axis, to be broadcast to a shape."""
    return tuple(size if i == axis else 1 for i, size in enumerate(shape))
