"""Spellings of operators: which fx calls they cover, and how those calls' arguments
line up with the operands that a pattern names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import attrs
import torch
from torch import fx, nn

from rewrite_engine import torch_ops
from rewrite_engine.dsl.operand_kinds import takes, wraps_numbers
from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.lowering.literals import argument_kind, literals_equal
from rewrite_engine.module_forms import ModuleForm, module_form
from rewrite_engine.signatures import REQUIRED, Parameter, Signature
from rewrite_engine.tensor_types import attribute

CallKey = tuple[str, object]
"""An fx `op` and its target: the identity of a function or of a module class."""

SUBCLASS = "call_module of a subclass"
"""In place of the `op`: instances of subclasses that compute the same."""

_Found = TypeVar("_Found")


def call_key(node: fx.Node) -> CallKey:
    """What calls of the same function, method or module class have in common."""
    return next(call_keys(node))


def call_keys(node: fx.Node) -> Iterator[CallKey]:
    """The keys of `OperatorPattern.calls` under which a call may stand."""
    if node.op != "call_module":
        target = node.target
        yield node.op, target if isinstance(target, str) else id(target)
        return
    owner = node.graph.owning_module
    called = None if owner is None else attribute(owner, str(node.target))
    kind, *bases = type(called).__mro__
    yield node.op, id(kind)
    for base in bases:
        yield SUBCLASS, id(base)


def look_up(
    table: Mapping[CallKey, _Found], node: fx.Node, facts: GraphFacts
) -> _Found | None:
    """What a table of calls, such as `OperatorPattern.calls`, has for a node."""
    if node.op == "call_module":
        return _look_up_module(table, facts.called(node))
    target = node.target
    # Hashing an OpOverload runs Python code; its identity is as good and far cheaper.
    return table.get((node.op, target if isinstance(target, str) else id(target)))


def _look_up_module(
    table: Mapping[CallKey, _Found], module: nn.Module | None
) -> _Found | None:
    if module is None:
        return None
    found = table.get(("call_module", id(type(module))))
    if found is not None:
        return found
    keys = ((SUBCLASS, id(base)) for base in type(module).__mro__[1:])
    return next((table[key] for key in keys if key in table), None)


class _Read(NamedTuple):
    """Where a spelling holds one canonical parameter."""

    name: str
    mine: str | None
    """The parameter's name here, None if it has no counterpart."""
    default: Any
    width: int | None
    """The length of the list that a single number stands for."""

    def full(self, value: Any) -> Any:
        """A value as it is meant: `stride=2` of an `int[2]` parameter is `[2, 2]`."""
        if self.width is None or type(value) is not int:
            return value
        return [value] * self.width


@attrs.frozen(eq=False)
class Layout:
    """Where calls hold canonical parameters: their positions, or their defaults.

    At the positions `lists`, a number would stand for a list.
    """

    places: Mapping[str, int]
    defaults: Mapping[str, Any]
    lists: tuple[int, ...]


@attrs.frozen(eq=False)
class Spelling:
    """One way in which a graph may call an operator.

    `names` maps a parameter of the operator's canonical signature to the parameter of
    this spelling that holds the same operand; a parameter that has no counterpart here
    is missing from it and stays at its canonical default.
    """

    op: str
    target: Any
    signature: Signature
    canonical: Signature
    names: Mapping[str, str]
    row: int
    form: ModuleForm | None = None
    """What an instance computes, if this spelling is a module class."""
    _reads: tuple[_Read, ...] = attrs.field(init=False, repr=False)

    _given: Signature = attrs.field(init=False, repr=False)
    """The signature of a call, without what a module holds."""

    keys: tuple[CallKey, ...] = attrs.field(init=False, repr=False)
    """Under which tables of calls, such as `OperatorPattern.calls`, have it."""

    @keys.default
    def _own_keys(self) -> tuple[CallKey, ...]:
        targets = self.targets
        keys = [(self.op, t if isinstance(t, str) else id(t)) for t in targets]
        if self.form is not None and self.form.subclasses:
            keys.append((SUBCLASS, id(self.target)))
        return tuple(keys)

    @_given.default
    def _call_signature(self) -> Signature:
        if self.form is None:
            return self.signature
        inputs = self.signature.parameters[: self.form.inputs]
        return attrs.evolve(self.signature, parameters=inputs)

    @_reads.default
    def _plan(self) -> tuple[_Read, ...]:
        return tuple(self._read(parameter) for parameter in self.canonical.parameters)

    def _read(self, parameter: Parameter) -> _Read:
        mine = self.names.get(parameter.name)
        default = parameter.default if mine is None else self._default(mine)
        size = parameter.type.partition("[")[2].partition("]")[0]
        width = int(size) if size.isdigit() else None
        return _Read(parameter.name, mine, default, width)

    @property
    def targets(self) -> tuple[Any, ...]:
        """The targets of its calls: a packet of one overload is called like that."""
        packet = torch_ops.packet_of_one(self.target)
        return (self.target,) if packet is None else (self.target, packet)

    @property
    def runnable(self) -> tuple[str, Any]:
        """An fx `op` and target that computes the same from all operands."""
        if self.form is None:
            return self.op, self.target
        return "call_function", self.form.run

    def reordered(self, order: Mapping[str, str]) -> Spelling:
        """The same call read with operands that commute exchanged."""
        names = {name: self.names[order.get(name, name)] for name in self.names}
        return attrs.evolve(self, names=names) if order else self

    def own_name(self, key: int | str) -> str:
        """The name here of the operand at a position or of a canonical name."""
        return self.names[self.canonical_name(key)]

    def canonical_name(self, key: int | str) -> str:
        """The canonical name of the operand at a position."""
        parameter = self.canonical.parameter(key)
        assert parameter is not None
        return parameter.name

    def index(self, name: str) -> int | None:
        """The position at which calls are given a canonical parameter.

        None for what is given by keyword only, held by a module, or not there.
        """
        mine = self.names.get(name)
        positional = self._given.positional
        return next((i for i, p in enumerate(positional) if p.name == mine), None)

    def takes(self, keys: Iterable[int | str]) -> bool:
        """Whether it has a parameter for each of these operands."""
        parameters = (self.canonical.parameter(key) for key in keys)
        return all(p is not None and p.name in self.names for p in parameters)

    def accepts(self, args: Sequence[Any], options: Mapping[str, Any]) -> bool:
        """Whether a call of it may be built: its schema takes every argument."""
        if self.form is not None:
            return False
        wraps = wraps_numbers(self.signature)
        given: list[tuple[int | str, Any]] = [*enumerate(args), *options.items()]
        found = ((self.signature.parameter(key), arg) for key, arg in given)
        return all(
            p is not None and takes(p.type, argument_kind(arg), wraps_numbers=wraps)
            for p, arg in found
        )

    def holds(self, key: int | str) -> bool:
        """Whether a module holds this operand: it is no argument of the call."""
        if self.form is None:
            return False
        return self._given.parameter(self.own_name(key)) is None

    def layout(self, count: int) -> Layout | None:
        """Where a call of so many arguments, all by position, holds its parameters.

        None if only `arguments` can tell: for modules and methods, and where the
        canonical operator has no such parameter.
        """
        given = [p.name for p in self.signature.positional[:count]]
        if self.form is not None or self.signature.kind == "method":
            return None
        if len(given) < count or self.signature.bind(given, {}) is None:
            return None
        places = {r.name: given.index(r.mine) for r in self._reads if r.mine in given}
        if len(places) < count:
            return None
        rest = {r.name: r.full(r.default) for r in self._reads if r.name not in places}
        lists = (places.get(r.name) for r in self._reads if r.width is not None)
        return Layout(places, rest, tuple(i for i in lists if i is not None))

    def arguments(self, node: fx.Node, facts: GraphFacts) -> dict[str, Any] | None:
        """The node's arguments by canonical parameter name, defaults filled in.

        What a module holds is among them. None if they do not fit this spelling.
        """
        bound = self._bound(node, facts)
        if bound is None:
            return None
        arguments = {}
        for read in self._reads:
            value = read.default
            if read.mine is not None:
                value = bound.pop(read.mine, value)
            arguments[read.name] = read.full(value)
        return arguments if not bound or self._at_defaults(bound) else None

    def _bound(self, node: fx.Node, facts: GraphFacts) -> dict[str, Any] | None:
        if self.form is None:
            return self._given.bind(node.args, node.kwargs)
        module = facts.called(node)
        if module is None or not self.form.fits(module):
            return None
        bound = self._given.bind(node.args, node.kwargs)
        if bound is None:
            return None
        for parameter in self.signature.parameters[self.form.inputs :]:
            value = self.form.held(module, parameter)
            if isinstance(value, torch.Tensor):
                place = self.form.place(parameter.name)
                value = facts.held(f"{node.target}.{place}")
            if value is REQUIRED:
                return None
            bound[parameter.name] = value
        return bound

    def _default(self, name: str) -> Any:
        parameter = self.signature.parameter(name)
        assert parameter is not None
        return parameter.default

    def _at_defaults(self, extra: Mapping[str, Any]) -> bool:
        """Whether arguments unknown to the canonical signature change nothing."""
        if self.form is not None and not self.signature.functions:
            return True  # state that only this class has
        return all(
            literals_equal(value, self._default(name)) for name, value in extra.items()
        )


def spelling_of(canonical: Signature, signature: Signature, row: int) -> Spelling:
    """A spelling of the operator whose first one is `canonical`."""
    op, target = torch_ops.resolve(signature)
    names = dict(_align(canonical, signature))
    form = module_form(signature) if signature.kind == "module" else None
    return Spelling(op, target, signature, canonical, names, row, form)


def _align(canonical: Signature, other: Signature) -> Iterator[tuple[str, str]]:
    """Pairs of parameters that hold the same operand: by name, else by position."""
    names = {_common_name(p.name): p.name for p in other.parameters}
    position = 0
    for parameter in canonical.parameters:
        if _common_name(parameter.name) in names:
            yield parameter.name, names[_common_name(parameter.name)]
        elif not parameter.keyword_only:
            counterpart = other.parameter(position)
            if counterpart is not None and _same_operand(parameter, counterpart):
                yield parameter.name, counterpart.name
        position += not parameter.keyword_only


def _common_name(name: str) -> str:
    """`aten.dropout` calls `train` what `F.dropout` calls `training`."""
    return "training" if name == "train" else name


def _same_operand(parameter: Parameter, counterpart: Parameter) -> bool:
    """Whether two names at one position mean one operand: `self`, `input` and `a` do.

    Options are paired by name only: `scale` and `inplace` may share a position.
    """
    return parameter.default is REQUIRED and counterpart.default is REQUIRED
