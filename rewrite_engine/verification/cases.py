"""Concrete graphs with inputs: an instance of a rule, its operands and literals chosen.

The left side is run call by call; an operand that is still free when a call reads it
is made to fit the operands that are known by then. Whether a guess was right is never
assumed: a call that raises makes the choice unsuitable.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import attrs
import torch
from torch import fx, nn
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils import _pytree as pytree

from rewrite_engine.dsl import nodes
from rewrite_engine.lowering.instances import Instance
from rewrite_engine.lowering.operators import Spelling
from rewrite_engine.lowering.scope import Unknown
from rewrite_engine.signatures import Parameter
from rewrite_engine.verification.literals import literals_of
from rewrite_engine.verification.operands import (
    Demands,
    Operand,
    Sizes,
    elementwise,
    operands_demanded,
    operands_of,
)
from rewrite_engine.verification.samples import RANDOM, sample
from rewrite_engine.verification.spellings import Call, respelled
from rewrite_engine.verification.subject import Example, Given, Subject, inputs_in

Layout = Literal["contiguous", "transposed"]


@attrs.frozen
class Choice:
    """What is chosen for an instance; everything else follows.

    `options` are arguments that the rule leaves open, by call and parameter.
    `dtypes` are those of inputs that differ from `dtype`.
    `example` is a test whose shapes are used, in place of `sizes`.
    `spelling` counts through the spellings of each operator. `state`: inputs that
    could be state of the module are. `recorded`: nodes record their values, with a
    `dynamic` first dimension of the arguments that have the batch size there.
    """

    dtype: torch.dtype = torch.float64
    sizes: Sizes = attrs.field(factory=Sizes)
    dtypes: Mapping[str, torch.dtype] = attrs.field(factory=dict)
    example: Example | None = None
    literals: Mapping[str, Any] = attrs.field(factory=dict)
    options: Mapping[tuple[str, str], Any] = attrs.field(factory=dict)
    spelling: int = 0
    layout: Layout = "contiguous"
    state: bool = True
    recorded: bool = True
    dynamic: bool = False


class Unsuitable(Exception):  # noqa: N818 - an outcome, not an error
    """The left side does not run with what was chosen; the message says why."""


@attrs.frozen
class Tensor:
    """How the value of an input is made."""

    operand: Operand
    dtype: torch.dtype
    layout: Layout

    def make(self, kind: str, generator: torch.Generator) -> torch.Tensor:
        """A value of a kind of `samples`."""
        shape, content = self.operand.shape, self.operand.content
        made = sample(kind, shape, self.dtype, content, generator)
        if self.layout == "transposed" and made.dim() > 1:
            return made.transpose(0, 1).contiguous().transpose(0, 1)
        return made

    def resized(self, batch: int) -> Tensor:
        """The tensor with another first dimension."""
        shape = (batch, *self.operand.shape[1:])
        return attrs.evolve(self, operand=attrs.evolve(self.operand, shape=shape))


@attrs.frozen(eq=False)
class Case:
    """A left side that runs: its graph, and how the values it reads are made.

    `state` names the inputs that are state of the module, not arguments.
    """

    graph: fx.Graph
    tensors: Mapping[str, Tensor]
    state: frozenset[str]
    instance: Instance
    choice: Choice

    @property
    def dynamic(self) -> frozenset[str]:
        """The arguments with a dynamic batch."""
        batch = self.choice.sizes.batch
        shapes = {n: t.operand.shape for n, t in self.tensors.items()}
        named = {n for n, shape in shapes.items() if shape and shape[0] == batch}
        return frozenset(named - self.state) if self.choice.dynamic else frozenset()

    def values(
        self, kind: str, seed: int, batch: int | None = None
    ) -> dict[str, torch.Tensor]:
        """Seeded values for all inputs; `batch` is the size where it is dynamic."""
        generator = torch.Generator().manual_seed(seed)
        tensors = dict(self.tensors)
        if batch is not None:
            tensors |= {name: tensors[name].resized(batch) for name in self.dynamic}
        return {name: tensor.make(kind, generator) for name, tensor in tensors.items()}

    def module(self, values: Mapping[str, torch.Tensor]) -> fx.GraphModule:
        """A fresh module with the state among the values."""
        root = nn.Module()
        for name in sorted(self.state):
            value = values[name].clone()
            if self.is_parameter(name):
                root.register_parameter(name, nn.Parameter(value))
            else:
                root.register_buffer(name, value)
        return fx.GraphModule(root, copy.deepcopy(self.graph), "Left")

    def is_parameter(self, name: str) -> bool:
        """Whether an input that is state is a parameter; else it is a buffer."""
        tensor = self.tensors[name]
        differentiable = tensor.dtype.is_floating_point or tensor.dtype.is_complex
        return differentiable and not tensor.operand.is_buffer

    def inputs(self, values: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """The arguments among the values, in order."""
        return [value for name, value in values.items() if name not in self.state]


def build_case(subject: Subject, instance: Instance, choice: Choice) -> Case:
    """The case of a choice.

    Raises: Unsuitable, if the left side does not run.
    """
    state = set(subject.constants(instance)) if choice.state else set()
    case = _Builder(subject, instance, choice, state).build()
    if choice.dynamic:
        record_dynamic(case)
    return case


def record_dynamic(case: Case) -> None:
    """Record the values of all nodes anew, with dynamic batches.

    Raises: Unsuitable, if the left side is wrong for some batch sizes.
    """
    if not case.dynamic:
        raise Unsuitable("no argument has a batch")
    values = case.values(RANDOM, 0)
    module = case.module(values)
    fakes = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    inputs = [
        _dynamic(name, value, fakes)
        if name in case.dynamic
        else fakes.from_tensor(value)
        for name, value in values.items()
        if name not in case.state
    ]
    try:
        FakeTensorProp(module, fakes).propagate_dont_convert_inputs(*inputs)
    except Exception as error:  # whatever operators raise
        raise Unsuitable(str(error).partition("\n")[0]) from error
    for old, new in zip(case.graph.nodes, module.graph.nodes, strict=True):
        if "val" in new.meta:
            old.meta["val"] = new.meta["val"]
    env = fakes.shape_env
    assert env is not None
    if env.replacements:
        raise Unsuitable("the left side fixes the batch size")


def _dynamic(name: str, value: torch.Tensor, fakes: FakeTensorMode) -> torch.Tensor:
    sizes = [DimDynamic.DYNAMIC, *[DimDynamic.STATIC] * (value.dim() - 1)]
    return fakes.from_tensor(
        value,
        symbolic_context=StatelessSymbolicContext(sizes),
        source=ConstantSource(name),
    )


@attrs.define(eq=False)
class _Builder:
    subject: Subject
    instance: Instance
    choice: Choice
    state: set[str]
    graph: fx.Graph = attrs.field(factory=fx.Graph)
    tensors: dict[str, Tensor] = attrs.field(factory=dict)
    new: dict[fx.Node, Any] = attrs.field(factory=dict)
    """What stands in the new graph for a node of the instance."""
    run: dict[fx.Node, Any] = attrs.field(factory=dict)
    """The value of a node of the instance."""
    fakes: FakeTensorMode = attrs.field(factory=FakeTensorMode)
    sizes: dict[str, int] = attrs.field(factory=dict)
    """Dimensions that guards have named so far."""
    solving: set[str] = attrs.field(factory=set)
    generator: torch.Generator = attrs.field(
        factory=lambda: torch.Generator().manual_seed(0)
    )

    demands: Demands = attrs.field(init=False)
    """What the calls that read a node of the instance need it to be."""

    @demands.default
    def _all_demands(self) -> Demands:
        calls = {
            node: (_name(s), s.signature.bind(node.args, node.kwargs) or {})
            for node, s in self.instance.spellings.items()
        }
        return operands_demanded(self.instance.left, calls, self.choice.sizes)

    def build(self) -> Case:
        for node in self.instance.left.nodes:
            if node.op == "output":
                self.graph.output(fx.map_arg(node.args[0], self.new.__getitem__))
            elif node.op != "placeholder":
                self._call(node)
        self.graph.lint()
        state = frozenset(self.state & self.tensors.keys())
        return Case(self.graph, self.tensors, state, self.instance, self.choice)

    def _call(self, node: fx.Node) -> None:
        spelling = self.instance.spellings[node]
        arguments = spelling.signature.bind(node.args, node.kwargs)
        if arguments is None:
            raise Unsuitable(f"{node.target} does not take these arguments")
        self._fill_in(node, spelling, arguments)
        call = Call(spelling, {**arguments, **self._options(node, spelling)})
        errors = []
        for other in self._spellings(node):
            if other.form is not None:
                continue  # the functions that it computes are spellings of their own
            spelled = respelled(call, other)
            if spelled is None:
                continue
            try:
                value = self._evaluate(other, *spelled)
            except Exception as error:  # whatever operators raise
                errors.append(str(error).partition("\n")[0])
            else:
                self._create(node, value, other, *spelled)
                return
        path = self.instance.spellings[node].signature.path
        raise Unsuitable(errors[0] if errors else f"`{path}` is not run as a function")

    def _spellings(self, node: fx.Node) -> Iterator[Spelling]:
        """The spellings to try, the chosen one first; a family's slot has its own."""
        own, pattern = self.instance.spellings[node], self.instance.operators[node]
        if pattern.is_slot:
            yield own
            return
        count = len(pattern.spellings)
        for i in range(count):
            yield pattern.spellings[(i + self.choice.spelling) % count]

    def _options(self, node: fx.Node, spelling: Spelling) -> dict[str, Any]:
        named = self.choice.options.items()
        return {name: value for (call, name), value in named if call == node.name}

    def _evaluate(self, spelling: Spelling, args: Any, kwargs: Any) -> Any:
        args = fx.map_arg(args, self.run.__getitem__)
        kwargs = fx.map_arg(kwargs, self.run.__getitem__)
        with torch.no_grad():
            return _callable(spelling)(*args, **kwargs)

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
        """Give the inputs that a call reads first their values, literals first."""
        parameters = {p.name: p for p in spelling.signature.parameters}
        free = [
            (source, parameters[name])
            for name, value in arguments.items()
            for source in inputs_in(value)
            if source not in self.run
        ]
        for source, parameter in free:
            if self._is_literal(source, parameter):
                value = self._literal(str(source.target), parameter, arguments)
                self.new[source] = self.run[source] = value
        for source, parameter in free:
            if source not in self.run:
                operand = self._operand(node, source, parameter, arguments)
                self._make(source, operand)

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
        if parameter.name == "block_size":  # one block, the whole operand
            return list(self._known(arguments)["input"].shape)
        found = literals_of(parameter)
        if not found:
            raise Unsuitable(f"no literal is known for `{name}`")
        return found[0]

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
        # Operands may depend on options that are at their defaults.
        defaults = {p.name: p.default for p in spelling.signature.parameters}
        given = {**defaults, **known, **self._options(node, spelling)}
        try:
            operands = operands_of(_name(spelling), given, sizes)
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise Unsuitable(f"no operand fits: {error}") from error
        found = operands.get(parameter.name) or self.demands.get(source)
        return found or elementwise(known, sizes)

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
        fitting = _fitted(demanded, operand.shape, self.sizes)
        if fitting is None:
            fitting = tuple(self._sizes_of(demanded))
        for dim, size in zip(demanded, fitting, strict=False):
            if isinstance(dim, nodes.LiteralName):
                self.sizes.setdefault(dim.id, size)
        return attrs.evolve(operand, shape=fitting)

    def _along(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape, all of whose elements lie along the one axis of a name."""
        axis = self.subject.axes[name](_Known(self))
        if not -len(shape) <= axis < len(shape):
            raise Unsuitable(f"`{name}` has no axis {axis}")
        along = range(len(shape))[axis]
        return tuple(n if i == along else 1 for i, n in enumerate(shape))

    def _sizes_of(self, dims: tuple[nodes.Expr, ...]) -> Iterator[int]:
        for i, dim in enumerate(dims):
            match dim:
                case nodes.Constant(value):
                    assert isinstance(value, int)
                    yield value
                case nodes.LiteralName(id):
                    yield self.sizes.setdefault(id, _default_size(self.choice, i))
                case nodes.Star():
                    yield from [self.choice.sizes.spatial] * max(
                        0, self.choice.sizes.rank - len(dims) + 1
                    )
                case _:
                    yield _default_size(self.choice, i)


@attrs.frozen(eq=False)
class _Known:
    """The scope of expressions of a rule while a case is built."""

    builder: _Builder

    def value(self, name: str) -> Any:
        return self.builder.value_of(name)


def _default_size(choice: Choice, position: int) -> int:
    sizes = choice.sizes
    return (sizes.batch, sizes.channels, *[sizes.spatial] * 64)[position]


def _fitted(
    dims: tuple[nodes.Expr, ...], shape: tuple[int, ...], known: Mapping[str, int]
) -> tuple[int, ...] | None:
    """The shape, if it is one that the dimensions allow."""
    star = next((i for i, d in enumerate(dims) if isinstance(d, nodes.Star)), None)
    if star is not None:
        after = len(dims) - star - 1
        if len(shape) < star + after:
            return None
        skipped = [nodes.Wildcard()] * (len(shape) - star - after)
        dims = (*dims[:star], *skipped, *dims[star + 1 :])
    if len(dims) != len(shape):
        return None
    fits = all(_allows(dim, size, known) for dim, size in zip(dims, shape, strict=True))
    return shape if fits else None


def _allows(dim: nodes.Expr, size: int, known: Mapping[str, int]) -> bool:
    match dim:
        case nodes.Constant(value):
            return value == size
        case nodes.LiteralName(id):
            return known.get(id, size) == size
    return True


def _callable(spelling: Spelling) -> Callable[..., Any]:
    if spelling.op == "call_method":
        return lambda first, *rest, **named: getattr(first, spelling.target)(
            *rest, **named
        )
    target: Callable[..., Any] = spelling.target
    return target


def _name(spelling: Spelling) -> str:
    """`conv2d` of `aten.conv2d.padding`, `torch.conv2d` and `F.conv2d`."""
    parts = spelling.signature.path.strip(".").split(".")
    return parts[1] if spelling.signature.kind == "overload" else parts[-1]
