"""Builds the concrete graph of a choice: the left side is run call by call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
from torch import fx, nn

from rewrite_engine.errors import first_line
from rewrite_engine.lowering.guards import compile_expr
from rewrite_engine.lowering.instances import Instance
from rewrite_engine.lowering.scope import Unknown
from rewrite_engine.lowering.spellings import Spelling
from rewrite_engine.verification.cases import Case, record_dynamic
from rewrite_engine.verification.choices import Choice, Unsuitable
from rewrite_engine.verification.filling import Inputs, NewGraph
from rewrite_engine.verification.modules import MadeModule, keep, module_for
from rewrite_engine.verification.operands import (
    Names,
    channel_axis,
)
from rewrite_engine.verification.spellings import (
    Call,
    calls_of,
    computes,
    respelled,
)
from rewrite_engine.verification.subject import Subject, inputs_in


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
    paths: dict[str, str] = attrs.field(factory=dict)
    """Where modules hold inputs."""
    modules: dict[str, MadeModule] = attrs.field(factory=dict)
    buffers: set[str] = attrs.field(factory=set)
    calls: Names = attrs.field(init=False)
    new: NewGraph = attrs.field(init=False)
    inputs: Inputs = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.calls = {
            node: (name, {**arguments, **self.choice.options_of(node.name)})
            for node, (name, arguments) in calls_of(self.instance).items()
        }
        chosen = self.subject.constants(self.instance) if self.choice.state else ()
        state = {*chosen, *self._held()}
        self.new = NewGraph(self.choice.recorded)
        self.inputs = Inputs(
            self.subject, self.instance, self.choice, self.calls, self.new, state
        )

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

    def build(self) -> Case:
        for node in self.instance.left.nodes:
            if node.op == "output":
                self._output(node)
            elif node.op != "placeholder":
                self._call(node)
        self._settle()
        tensors = self.inputs.tensors
        state = {n: self.paths.get(n, n) for n in self.inputs.state & tensors.keys()}
        return Case(
            self.new.graph,
            tensors,
            state,
            self.instance,
            self.choice,
            self.modules,
            frozenset(self.buffers),
            self._is_claimed(),
        )

    def _output(self, node: fx.Node) -> None:
        # What returns nothing cannot be erased where something reads it.
        values = self.new.values
        roots = [root for root in node.args[0] if values[root] is not None]
        results = [self.new.nodes[root] for root in roots]
        if self.choice.written:
            for root, result in zip(roots, results, strict=True):
                self._write(result, values[root])
        if self.choice.exposed is not None:
            results.append(self.new.nodes[self.instance.calls[self.choice.exposed]])
        self.new.graph.output(tuple(results))

    def _write(self, node: fx.Node, value: Any) -> None:
        try:
            with torch.no_grad():
                value.add_(1)
        except Exception as error:  # whatever operators raise
            raise Unsuitable(first_line(error)) from error
        written = self.new.graph.call_function(torch.ops.aten.add_.Tensor, (node, 1))
        self.new.record(written, value)

    def _settle(self) -> None:
        """What only modules read is read nowhere else."""
        for node in self.new.graph.find_nodes(op="get_attr"):
            if node.target in self.paths:
                if not node.users:
                    self.new.graph.erase_node(node)
                node.target = self.paths[node.target]
        self.new.graph.lint()

    def _is_claimed(self) -> bool:
        """Whether the rule claims anything of this case."""
        if self.subject.rule.when is None:
            return True
        try:
            return bool(compile_expr(self.subject.rule.when)(self.inputs))
        except Unknown:
            return False

    def _call(self, node: fx.Node) -> None:
        spelling = self.instance.spellings[node]
        arguments = spelling.signature.bind(node.args, node.kwargs)
        if arguments is None:
            raise Unsuitable(f"{node.target} does not take these arguments")
        self.inputs.fill_in(node, spelling, arguments)
        call = Call(spelling, {**arguments, **self.choice.options_of(node.name)})
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
                errors.append(first_line(error))
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

    def _evaluate(self, spelling: Spelling, args: Any, kwargs: Any) -> Any:
        with torch.no_grad():
            return _callable(spelling)(*self.new.read(args), **self.new.read(kwargs))

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
        made = module_for(spelling, self.new.read(held), channel_axis(node, self.calls))
        module = made.make()
        for name, source in held.items():
            if isinstance(self.new.read(source), torch.Tensor):
                self._hold(source, f"{node.name}.{form.place(name)}", module)
                keep(module, form.place(name), self.new.values[source])
        with torch.no_grad():
            value = module(*self.new.read(inputs))
        self.modules[node.name] = made
        inputs = self.new.translated(inputs)
        called = self.new.graph.create_node("call_module", node.name, inputs)
        self.new.note(node, called, value)

    def _hold(self, source: fx.Node, path: str, module: nn.Module) -> None:
        """An input is what a module holds at a path, whose first part is the module."""
        name, place = str(source.target), path.partition(".")[2]
        if source.op != "placeholder" or name not in self.inputs.state:
            raise Unsuitable("a module cannot hold what is computed")
        if self.paths.setdefault(name, path) != path:
            raise Unsuitable("two modules would hold one tensor")
        if place in dict(module.named_buffers()):
            self.buffers.add(name)

    def _create(
        self, node: fx.Node, value: Any, spelling: Spelling, args: Any, kwargs: Any
    ) -> None:
        made = self.new.graph.create_node(
            spelling.op,
            spelling.target,
            self.new.translated(args),
            self.new.translated(kwargs),
        )
        self.new.note(node, made, value)


def _callable(spelling: Spelling) -> Callable[..., Any]:
    if spelling.op == "call_method":
        return lambda first, *rest, **named: getattr(first, spelling.target)(
            *rest, **named
        )
    target: Callable[..., Any] = spelling.target
    return target
