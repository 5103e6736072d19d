"""Builds the concrete graph of a choice.

The left side is run call by call; an operand that is still free when a call reads it
is made to fit the operands that are known by then. Whether a guess was right is never
assumed: a call that raises makes the choice unsuitable.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from rewrite_engine.lowering.guards import compile_expr
from rewrite_engine.lowering.instances import Instance
from rewrite_engine.lowering.scope import Unknown
from rewrite_engine.lowering.spellings import Spelling
from rewrite_engine.signatures import Parameter
from rewrite_engine.verification.cases import Case, Tensor, record_dynamic
from rewrite_engine.verification.choices import Choice, Unsuitable
from rewrite_engine.verification.fitting import Dimensions
from rewrite_engine.verification.literals import literals_of
from rewrite_engine.verification.modules import MadeModule, keep, module_for, watched
from rewrite_engine.verification.operands import (
    Demands,
    Names,
    Operand,
    channel_axis,
    elementwise,
    operands_demanded,
    operands_of,
)
from rewrite_engine.verification.samples import RANDOM
from rewrite_engine.verification.spellings import (
    Call,
    calls_of,
    computes,
    operator_name,
    respelled,
)
from rewrite_engine.verification.subject import Given, Subject, inputs_in


def build_case(subject: Subject, instance: Instance, choice: Choice) -> Case:
    """The case of a choice.

    Raises: Unsuitable, if the left side does not run.
    """
    case = _Builder(subject, instance, choice).build()
    if choice.dynamic:
        record_dynamic(case)
    return case


@attrs.define(eq=False)
class _Builder:
    subject: Subject
    instance: Instance
    choice: Choice
    graph: fx.Graph = attrs.field(factory=fx.Graph)
    tensors: dict[str, Tensor] = attrs.field(factory=dict)
    new: dict[fx.Node, Any] = attrs.field(factory=dict)
    """What stands in the new graph for a node of the instance."""
    run: dict[fx.Node, Any] = attrs.field(factory=dict)
    """The value of a node of the instance."""
    fakes: FakeTensorMode = attrs.field(factory=FakeTensorMode)
    sizes: dict[str, int] = attrs.field(factory=dict)
    """Dimensions that guards have named so far."""
    paths: dict[str, str] = attrs.field(factory=dict)
    """Where modules hold inputs."""
    modules: dict[str, MadeModule] = attrs.field(factory=dict)
    buffers: set[str] = attrs.field(factory=set)
    solving: set[str] = attrs.field(factory=set)
    generator: torch.Generator = attrs.field(
        factory=lambda: torch.Generator().manual_seed(0)
    )

    calls: Names = attrs.field(init=False)
    state: set[str] = attrs.field(init=False)
    """The inputs that are state of the module."""
    demands: Demands = attrs.field(init=False)
    """What the calls that read a node of the instance need it to be."""

    @calls.default
    def _all_calls(self) -> Names:
        calls = calls_of(self.instance)
        return {
            node: (name, {**arguments, **self._options(node)})
            for node, (name, arguments) in calls.items()
        }

    @state.default
    def _all_state(self) -> set[str]:
        chosen = self.subject.constants(self.instance) if self.choice.state else ()
        return {*chosen, *self._held()}

    def _held(self) -> Iterator[str]:
        """The inputs that the modules hold which are called."""
        for node, (_, arguments) in self.calls.items():
            spelling = next(self._spellings(node))
            if spelling.form is not None:
                own = self.instance.spellings[node]
                held = [p.name for p in spelling.signature.parameters]
                held = held[spelling.form.inputs :]
                for name, place in spelling.names.items():
                    if place in held:
                        value = arguments.get(own.names.get(name, ""))
                        yield from (str(source.target) for source in inputs_in(value))

    @demands.default
    def _all_demands(self) -> Demands:
        return operands_demanded(self.instance.left, self.calls, self.choice.sizes)

    def build(self) -> Case:
        for node in self.instance.left.nodes:
            if node.op == "output":
                self._output(node)
            elif node.op != "placeholder":
                self._call(node)
        self._settle()
        state = {n: self.paths.get(n, n) for n in self.state & self.tensors.keys()}
        return Case(
            self.graph,
            self.tensors,
            state,
            self.instance,
            self.choice,
            self.modules,
            frozenset(self.buffers),
            self._is_claimed(),
        )

    def _output(self, node: fx.Node) -> None:
        results = list(fx.map_arg(node.args[0], self.new.__getitem__))
        if self.choice.written:
            for root, result in zip(node.args[0], results, strict=True):
                self._write(result, self.run[root])
        if self.choice.exposed is not None:
            results.append(self.new[self.instance.calls[self.choice.exposed]])
        self.graph.output(tuple(results))

    def _write(self, node: fx.Node, value: Any) -> None:
        try:
            with torch.no_grad():
                value.add_(1)
        except Exception as error:  # whatever operators raise
            raise Unsuitable(str(error).partition("\n")[0]) from error
        written = self.graph.call_function(torch.ops.aten.add_.Tensor, (node, 1))
        self._record(written, value)

    def _settle(self) -> None:
        """What only modules read is read nowhere else."""
        for node in self.graph.find_nodes(op="get_attr"):
            if node.target in self.paths:
                if not node.users:
                    self.graph.erase_node(node)
                node.target = self.paths[node.target]
        self.graph.lint()

    def _is_claimed(self) -> bool:
        """Whether the rule claims anything of this case."""
        if self.subject.rule.when is None:
            return True
        try:
            return bool(compile_expr(self.subject.rule.when)(_Known(self)))
        except Unknown:
            return False

    def _call(self, node: fx.Node) -> None:
        spelling = self.instance.spellings[node]
        arguments = spelling.signature.bind(node.args, node.kwargs)
        if arguments is None:
            raise Unsuitable(f"{node.target} does not take these arguments")
        self._fill_in(node, spelling, arguments)
        call = Call(spelling, {**arguments, **self._options(node)})
        errors = []
        for other in self._spellings(node):
            spelled = respelled(call, other)
            if spelled is None:
                continue
            try:
                if other.form is not None:
                    self._call_module(node, other, *spelled)
                else:
                    value = self._evaluate(other, *spelled)
                    self._create(node, value, other, *spelled)
            except Exception as error:  # whatever operators raise
                errors.append(str(error).partition("\n")[0])
            else:
                return
        path = self.instance.spellings[node].signature.path
        raise Unsuitable(errors[0] if errors else f"`{path}` takes no such arguments")

    def _spellings(self, node: fx.Node) -> Iterator[Spelling]:
        """The spellings to try, the chosen one first; a family's slot has its own."""
        own, pattern = self.instance.spellings[node], self.instance.operators[node]
        if pattern.is_slot or not computes(own):
            yield own
            return
        equal = list(filter(computes, pattern.spellings))
        for i in range(len(equal)):
            yield equal[(i + self.choice.spelling) % len(equal)]

    def _options(self, node: fx.Node) -> dict[str, Any]:
        named = self.choice.options.items()
        return {name: value for (call, name), value in named if call == node.name}

    def _evaluate(self, spelling: Spelling, args: Any, kwargs: Any) -> Any:
        args = fx.map_arg(args, self.run.__getitem__)
        kwargs = fx.map_arg(kwargs, self.run.__getitem__)
        with torch.no_grad():
            return _callable(spelling)(*args, **kwargs)

    def _call_module(
        self, node: fx.Node, spelling: Spelling, args: Any, kwargs: Any
    ) -> None:
        form, parameters = spelling.form, spelling.signature.parameters
        given = spelling.signature.bind(args, kwargs)
        assert form is not None and given is not None
        inputs = tuple(given[p.name] for p in parameters[: form.inputs])
        held = {
            p.name: given[p.name]
            for p in parameters[form.inputs :]
            if given.get(p.name) is not None
        }
        made = module_for(spelling, self._values(held), channel_axis(node, self.calls))
        module = made.make()
        for name, source in held.items():
            if isinstance(self._values(source), torch.Tensor):
                self._hold(source, f"{node.name}.{form.place(name)}", module)
                keep(module, form.place(name), self.run[source])
        with torch.no_grad():
            value = module(*self._values(inputs))
        self.modules[node.name] = made
        inputs = fx.map_arg(inputs, self.new.__getitem__)
        called = self.graph.create_node("call_module", node.name, inputs)
        self._record(called, value)
        self.new[node], self.run[node] = called, value

    def _hold(self, source: fx.Node, path: str, module: nn.Module) -> None:
        """An input is what a module holds at a path, whose first part is the module."""
        name, place = str(source.target), path.partition(".")[2]
        if source.op != "placeholder" or name not in self.state:
            raise Unsuitable("a module cannot hold what is computed")
        if self.paths.setdefault(name, path) != path:
            raise Unsuitable("two modules would hold one tensor")
        if place in dict(module.named_buffers()):
            self.buffers.add(name)

    def _values(self, nodes: Any) -> Any:
        return fx.map_arg(nodes, self.run.__getitem__)

    def _create(
        self, node: fx.Node, value: Any, spelling: Spelling, args: Any, kwargs: Any
    ) -> None:
        args = fx.map_arg(args, self.new.__getitem__)
        kwargs = fx.map_arg(kwargs, self.new.__getitem__)
        made = self.graph.create_node(spelling.op, spelling.target, args, kwargs)
        self._record(made, value)
        self.new[node], self.run[node] = made, value

    def _record(self, node: fx.Node, value: Any) -> None:
        if self.choice.recorded:
            node.meta["val"] = pytree.tree_map_only(
                torch.Tensor, self.fakes.from_tensor, value
            )

    # --- inputs ---

    def _fill_in(
        self, node: fx.Node, spelling: Spelling, arguments: dict[str, Any]
    ) -> None:
        """Give the inputs that a call reads first their values: literals first, but
        for those that are computed from operands.
        """
        parameters = {p.name: p for p in spelling.signature.parameters}
        free = [
            (source, parameters[name])
            for name, value in arguments.items()
            for source in inputs_in(value)
            if source not in self.run
        ]
        literals = dict(pair for pair in free if self._is_literal(*pair))
        operands = [pair for pair in free if pair[0] not in literals]
        names = {str(source.target) for source, _ in operands}
        late = [source for source in literals if self._follows(source, names)]
        for source in literals:
            if source not in late:
                self._fill_literal(source, literals[source], arguments)
        for source, parameter in operands:
            if source not in self.run:
                operand = self._operand(node, source, parameter, arguments)
                self._make(source, operand)
        for source in late:
            self._fill_literal(source, literals[source], arguments)

    def _fill_literal(
        self, source: fx.Node, parameter: Parameter, arguments: Mapping[str, Any]
    ) -> None:
        value = self._literal(str(source.target), parameter, arguments)
        self.new[source] = self.run[source] = value

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
            return list(self._known(arguments)["input"].shape)
        found = literals_of(parameter)
        if not found:
            raise Unsuitable(f"no literal is known for `{name}`")
        return found[0]

    def _element_type(self, name: str, arguments: Mapping[str, Any]) -> torch.dtype:
        """What a value is converted to: something narrower and back again."""
        value = self._known(arguments).get("input")
        if not isinstance(value, torch.Tensor) or value.dtype is self.choice.dtype:
            return torch.int8 if "quant_min" in arguments else torch.float16
        return value.dtype if "quant_min" in arguments else self.choice.dtype

    def value_of(self, name: str) -> Any:
        """What a name of the rule stands for, made if need be. Raises: Unknown."""
        inputs = self.instance.left.find_nodes(op="placeholder")
        source = next((n for n in inputs if n.target == name), None)
        if source in self.demands and source not in self.run:
            self._make(source, self.demands[source])
        source = source or self.instance.calls.get(name)
        if source in self.run:
            return self.run[source]
        for pattern in self.instance.operators.values():
            if pattern.is_slot and name in pattern.literals[self.instance.row]:
                return pattern.literals[self.instance.row][name]
        return self._solved(name)

    def _solved(self, name: str) -> Any:
        if name in self.choice.literals:
            return self.choice.literals[name]
        if name in self.solving:
            raise Unknown(name)
        self.solving.add(name)
        try:
            for equation in self.subject.equations(name):
                with contextlib.suppress(Unknown):
                    return equation.solve(_Known(self))
        finally:
            self.solving.discard(name)
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
        known = self._known(arguments)
        if not computes(spelling):
            return self._watched(node, spelling, parameter.name, known)
        # Operands may depend on options that are at their defaults.
        defaults = {p.name: p.default for p in spelling.signature.parameters}
        given = {**defaults, **known, **self._options(node)}
        try:
            operands = operands_of(operator_name(spelling), given, sizes)
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise Unsuitable(f"no operand fits: {error}") from error
        found = operands.get(parameter.name) or self.demands.get(source)
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
        with self.graph.inserting_before(self._first_call()):
            made = self.graph.create_node(op, name, name=name)
        value = tensor.make(RANDOM, self.generator)
        self._record(made, value)
        self.new[source], self.run[source] = made, value

    def _first_call(self) -> fx.Node:
        inputs = ("placeholder", "get_attr")
        calls = (node for node in self.graph.nodes if node.op not in inputs)
        return next(calls, self.graph._root)

    def _known(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments whose values are known."""
        found = {}
        for name, value in arguments.items():
            if all(source in self.run for source in inputs_in(value)):
                found[name] = fx.map_arg(value, self.run.__getitem__)
        return found

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
        dimensions = Dimensions(self.sizes, self.choice.sizes)
        return attrs.evolve(operand, shape=dimensions.shape(demanded, operand.shape))

    def _along(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape, all of whose elements lie along the one axis of a name."""
        axis = self.subject.axes[name](_Known(self))
        if not -len(shape) <= axis < len(shape):
            raise Unsuitable(f"`{name}` has no axis {axis}")
        return _lengthwise(shape, range(len(shape))[axis])


@attrs.frozen(eq=False)
class _Known:
    """The scope of expressions of a rule while a case is built."""

    builder: _Builder

    def value(self, name: str) -> Any:
        return self.builder.value_of(name)


def _lengthwise(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The shape of a vector along an axis, to be broadcast to a shape."""
    return tuple(size if i == axis else 1 for i, size in enumerate(shape))


def _callable(spelling: Spelling) -> Callable[..., Any]:
    if spelling.op == "call_method":
        return lambda first, *rest, **named: getattr(first, spelling.target)(
            *rest, **named
        )
    target: Callable[..., Any] = spelling.target
    return target
