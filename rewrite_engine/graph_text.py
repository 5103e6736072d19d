"""Graphs as text: for reports and snapshots, and canonical text to compare them by.

Neither text holds addresses, paths or anything else that differs from run to run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import attrs
from torch import fx, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind

from rewrite_engine.graph_order import (
    canonical_order,
    named_arguments,
    nodes_in,
    random_draws,
    storage_versions,
)
from rewrite_engine.tensor_types import UNKNOWN, attribute
from rewrite_engine.value_text import (
    Symbols,
    class_text,
    literal_text,
    target_text,
    type_text,
    without_addresses,
)

Model: TypeAlias = fx.GraphModule | ExportedProgram

_INDENT = "  "


def graph_text(gm: Model, *, types: bool = True) -> str:
    """A graph to be read: one line a node, under the graph's own names, in its order.

    `types` adds `dtype[shape]` of each value as `meta["val"]` tells it, with symbolic
    sizes called s0, s1, … in order of appearance. Subgraphs and the state of called
    modules are indented below their line. An ExportedProgram shows its signature too.
    """
    return _render(gm, _readable, types=types)


def line_writer(gm: Model) -> Callable[[fx.Node], str]:
    """A function that gives the line of a node as `graph_text` shows it."""
    return _writer(gm, _readable, types=True).line


def structure_text(gm: Model) -> str:
    """A graph up to the names of its values and the order of independent nodes.

    Values are numbered, calls of overloads are spelled in one way (positional where
    the schema allows it, defaults left out), and state counts by name, dtype and shape.
    `%3@1` is value 3 after one write to its storage; `#2` marks the second random draw.
    Two graphs that compute the same from the same state in the same way have equal
    texts; types of values do not count.
    """
    return _render(gm, _canonical, types=False)


@attrs.frozen
class _View:
    """How the nodes of one graph are shown."""

    order: list[fx.Node]
    name: Callable[[fx.Node], str]
    """A node's name where it is defined."""
    operand: Callable[[fx.Node, fx.Node], str]
    """What (reader, operand) calls the operand."""
    arguments: Callable[[fx.Node], tuple[list[Any], dict[str, Any]]]
    draws: Mapping[fx.Node, int] = attrs.field(factory=dict)


def _readable(graph: fx.Graph) -> _View:
    return _View(
        order=list(graph.nodes),
        name=lambda node: f"%{node.name}",
        operand=lambda _, operand: f"%{operand.name}",
        arguments=lambda node: (list(node.args), dict(node.kwargs)),
    )


def _canonical(graph: fx.Graph) -> _View:
    arguments = {node: _normalised(node) for node in graph.nodes}
    order = canonical_order(graph, lambda node: nodes_in(arguments[node]))
    names = {node: f"%{number}" for number, node in enumerate(order)}
    versions = storage_versions(graph)

    def operand_text(reader: fx.Node, operand: fx.Node) -> str:
        version = versions.get((reader, operand))
        return names[operand] if version is None else f"{names[operand]}@{version}"

    return _View(
        order=order,
        name=names.__getitem__,
        operand=operand_text,
        arguments=arguments.__getitem__,
        draws=random_draws(graph),
    )


def _normalised(node: fx.Node) -> tuple[list[Any], dict[str, Any]]:
    """One spelling of a call's arguments: by the schema where there is one."""
    if not isinstance(node.target, OpOverload):
        return list(_as_lists(node.args)), dict(sorted(_as_lists(node.kwargs).items()))
    given = named_arguments(node)
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    shown = 0
    for parameter in node.target._schema.arguments:
        default = _coerced(parameter, parameter.default_value)
        value = _coerced(parameter, given.get(parameter.name, parameter.default_value))
        is_default = parameter.has_default_value() and _same(value, default)
        if not parameter.kwarg_only:
            positional.append(value)
            shown = shown if is_default else len(positional)
        elif not is_default:
            keywords[parameter.name] = value
    return positional[:shown], keywords


def _coerced(parameter: Any, value: Any) -> Any:
    """A value as the schema's type has it: `1` is `[1, 1]` for an `int[2]`."""
    if isinstance(value, int) and not isinstance(value, bool):
        if parameter.N is not None:
            return [value] * parameter.N
        if parameter.type.kind() == "FloatType":
            return float(value)
    return _as_lists(value)


def _as_lists(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_as_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: _as_lists(item) for key, item in value.items()}
    return value


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


def _render(gm: Model, view_of: Callable[[fx.Graph], _View], *, types: bool) -> str:
    writer = _writer(gm, view_of, types=types)
    if isinstance(gm, fx.GraphModule):
        return "\n".join(["graph:", *writer.lines()]) + "\n"
    outputs = writer.output_lines(gm)
    return "\n".join(["program:", *writer.lines(), "outputs:", *outputs]) + "\n"


def _writer(gm: Model, view_of: Callable[[fx.Graph], _View], *, types: bool) -> _Writer:
    if isinstance(gm, fx.GraphModule):
        return _Writer(gm, view_of, Symbols(), types=types)
    lifted = _lifted(gm)
    return _Writer(gm.graph_module, view_of, Symbols(), types=types, lifted=lifted)


def _lifted(program: ExportedProgram) -> dict[str, tuple[str, str, Any]]:
    """Kind, name and value of the state behind each lifted placeholder."""
    values = {**program.constants, **program.state_dict}
    return {
        spec.arg.name: (spec.kind.name.lower(), spec.target, values.get(spec.target))
        for spec in program.graph_signature.input_specs
        if spec.kind is not InputKind.USER_INPUT
    }


@attrs.frozen
class _Writer:
    """Writes one graph; those nested in it get writers of their own."""

    module: fx.GraphModule
    view_of: Callable[[fx.Graph], _View]
    symbols: Symbols
    types: bool = attrs.field(kw_only=True)
    lifted: Mapping[str, tuple[str, str, Any]] = attrs.field(factory=dict, kw_only=True)
    view: _View = attrs.field(init=False)

    @view.default
    def _view(self) -> _View:
        return self.view_of(self.module.graph)

    def lines(self) -> list[str]:
        """One line a node, and below it what it nests, all indented once."""
        lines: list[str] = []
        for node in self.view.order:
            lines.append(_INDENT + self.line(node))
            lines += (_INDENT * 2 + line for line in self._nested(node))
        return lines

    def output_lines(self, program: ExportedProgram) -> Iterator[str]:
        """What each output of a program is: a result, or the new value of a state."""
        names = {node.name: self.view.name(node) for node in self.module.graph.nodes}
        for spec in program.graph_signature.output_specs:
            target = "" if spec.target is None else f" {spec.target!r}"
            is_constant = isinstance(spec.arg, ConstantArgument)
            value = repr(spec.arg.value) if is_constant else names[spec.arg.name]
            yield f"{_INDENT}{spec.kind.name.lower()}{target} = {value}"

    def line(self, node: fx.Node) -> str:
        """One node, without what it nests."""
        if node.op == "output":
            return f"return {self._value(self.view.arguments(node)[0][0], node)}"
        if node.op in ("placeholder", "get_attr"):
            return self._state_line(node)
        draw = f" #{self.view.draws[node]}" if node in self.view.draws else ""
        head = self.view.name(node) + self._annotation(node.meta.get("val"))
        return f"{head} = {self._callee(node)}({self._call(node)}){draw}"

    def _state_line(self, node: fx.Node) -> str:
        name = self.view.name(node)
        if node.op == "placeholder" and node.name not in self.lifted:
            default = "".join(f" or {self._value(arg, node)}" for arg in node.args)
            return f"{name}{self._annotation(node.meta.get('val'))} = input{default}"
        kind, target, value = self.lifted.get(node.name) or _state(self.module, node)
        if isinstance(value, fx.GraphModule):
            return f"{name} = subgraph"
        return f"{name}: {self._type(value)} = {kind} {target!r}"

    def _callee(self, node: fx.Node) -> str:
        if node.op == "call_method":
            return f".{node.target}"
        if node.op == "call_function":
            return target_text(node.target)
        called = attribute(self.module, str(node.target))
        return f"{class_text(called)} {node.target!r}"

    def _nested(self, node: fx.Node) -> list[str]:
        """The graph behind a node, or the settings and the state of a called module."""
        if node.op not in ("get_attr", "call_module"):
            return []
        value = attribute(self.module, str(node.target))
        if isinstance(value, fx.GraphModule):
            writer = _Writer(value, self.view_of, self.symbols, types=self.types)
            return [line.removeprefix(_INDENT) for line in writer.lines()]
        if isinstance(value, nn.Module):
            return _module_lines(value, self.symbols)
        return []

    def _call(self, node: fx.Node) -> str:
        args, kwargs = self.view.arguments(node)
        parts = [self._value(arg, node) for arg in args]
        parts += [f"{key}={self._value(arg, node)}" for key, arg in kwargs.items()]
        return ", ".join(parts)

    def _annotation(self, value: Any) -> str:
        return f": {self._type(value)}" if self.types and value is not None else ""

    def _type(self, value: Any) -> str:
        return type_text(value, self.symbols)

    def _value(self, value: Any, reader: fx.Node) -> str:
        def operand_text(operand: fx.Node) -> str:
            return self.view.operand(reader, operand)

        return literal_text(value, operand_text, self.symbols)


def _state(module: fx.GraphModule, node: fx.Node) -> tuple[str, str, Any]:
    """Kind, name and value of what a get_attr node reads."""
    target = str(node.target)
    found = attribute(module, target)
    value = None if found is UNKNOWN else found
    owner, _, name = target.rpartition(".")
    if isinstance(value, nn.Parameter):
        return "parameter", target, value
    if name in getattr(attribute(module, owner) if owner else module, "_buffers", ()):
        return "buffer", target, value
    return "constant", target, value


def _module_lines(module: nn.Module, symbols: Symbols) -> list[str]:
    """The settings of a called module and of its parts, and its state by name."""
    lines = []
    for name, part in module.named_modules():
        head = f"{name}: {class_text(part)}" if name else ""
        mode = "" if part.training else "training=False"
        settings = ", ".join(filter(None, [part.extra_repr(), mode]))
        if head or settings:
            lines.append(f"{head}({without_addresses(settings)})")
    state = [*module.named_parameters(), *module.named_buffers()]
    return lines + [f"{name}: {type_text(tensor, symbols)}" for name, tensor in state]
