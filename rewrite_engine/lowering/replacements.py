"""The right side of a rule as an fx graph: the replacement.

Placeholders stand for what the match binds, calls for what will be created, and the
calls of `markers` for what is decided or computed at match time. The output is a
mapping from the replaced names to the nodes that take their place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
from torch import fx

from rewrite_engine.dsl import checked, nodes
from rewrite_engine.dsl.expression_text import print_expr
from rewrite_engine.dsl.values import values_in
from rewrite_engine.edit import append, append_call
from rewrite_engine.lowering import markers
from rewrite_engine.lowering.guards import compile_expr, names_read, reads_only_types
from rewrite_engine.lowering.operators import OperatorPattern
from rewrite_engine.lowering.patterns import Operators

REST_OF = "rest_of"
"""The keyword under which a new call refers to the call whose arguments it takes."""

_CONSTANTS = {
    "param": markers.param,
    "buffer": markers.buffer,
    "value": markers.value,
}


_WRITES = {"write": markers.write, "own": markers.own}


def build_replacement(
    creates: tuple[checked.Create, ...], operators: Operators
) -> fx.Graph:
    """The replacement graph of a rule.

    Metadata of its nodes: `names` (what the rule calls the node), `statement` (on the
    value of each statement, in order), `compute` (a literal's function, on `computed`
    and as the condition of `choose`) and `of_types` (whether types and literals alone
    decide what that function returns).
    """
    builder = _ReplacementBuilder(operators)
    for name in dict.fromkeys(_names_used(creates)):
        builder.placeholder(name)
    for create in creates:
        builder.create(create)
    append(builder.graph, "output", "output", (builder.replaced,))
    return builder.graph


def operators_built(
    creates: tuple[checked.Create, ...],
) -> Iterator[checked.Operator | checked.Slot]:
    """The operators of the calls that a right side makes."""
    values = (value for create in creates for value in values_in(create.value))
    return (value.operator for value in values if isinstance(value, checked.Build))


_REPEATABLE = markers.CONSTANTS | {markers.spread, markers.reemit}


def follows_from_types(replacement: fx.Graph) -> bool:
    """Whether the literals and types of a match decide what its right side becomes."""
    return all(map(_follows_from_types, replacement.nodes))


def _follows_from_types(node: fx.Node) -> bool:
    if node.op != "call_function" or isinstance(node.target, OperatorPattern):
        return True
    return node.target in _REPEATABLE or node.meta.get("of_types", False)


def names_copied(replacement: fx.Graph) -> frozenset[str]:
    """The names of the calls that are made again, or whose other arguments are taken
    over: with what these calls read, which may have no name.
    """
    made = [n.args[0] for n in replacement.nodes if n.target is markers.reemit]
    made += [n.kwargs[REST_OF] for n in replacement.nodes if REST_OF in n.kwargs]
    return frozenset(str(call.target) for call in made if isinstance(call, fx.Node))


def _set_function(node: fx.Node, expr: nodes.Expr) -> None:
    node.meta["compute"] = compile_expr(expr)
    node.meta["of_types"] = reads_only_types(expr)


@attrs.define(eq=False)
class _ReplacementBuilder:
    operators: Operators
    graph: fx.Graph = attrs.field(factory=fx.Graph)
    replaced: dict[str, Any] = attrs.field(factory=dict)
    _names: dict[str, Any] = attrs.field(factory=dict)

    def placeholder(self, name: str) -> None:
        node = append(self.graph, "placeholder", name)
        node.meta["names"] = [name]
        self._names[name] = node

    def create(self, create: checked.Create) -> None:
        node = self.value(create.value)
        if create.kind in _WRITES:
            args = (self._names[create.name], node)
            node = append_call(self.graph, _WRITES[create.kind], args)
            node.meta.update(names=[], statement=create.span)
            return
        if create.kind != "node":
            node = append_call(self.graph, _CONSTANTS[create.kind], (node,))
        name = f"{create.name}'" if create.replaces else create.name
        self._names[name] = node
        if isinstance(node, fx.Node):
            node.meta.setdefault("names", []).append(name)
            node.meta["statement"] = create.span
        if create.replaces:
            self.replaced[create.name] = node

    def value(self, value: checked.Value) -> Any:
        match value:
            case checked.Use(name):
                return self._names[name]
            case checked.Initial(name):
                return append_call(self.graph, markers.initial, (self._names[name],))
            case checked.Computed(nodes.Constant(constant)):
                return constant
            case checked.Computed(expr):
                return self._computed(expr)
            case checked.MakeList(items):
                return [self.value(item) for item in items]
            case checked.Spread(name):
                return append_call(self.graph, markers.spread, (self._names[name],))
            case checked.Build():
                return self._call(value)
            case checked.Reemit(capture, arguments):
                operands = tuple(self.value(argument) for argument in arguments)
                args = (self._names[capture], *operands)
                return append_call(self.graph, markers.reemit, args)
            case checked.Choose(condition, then, otherwise):
                return self._choose(condition, then, otherwise)

    def _computed(self, expr: nodes.Expr) -> fx.Node:
        operands = tuple(self._names[name] for name in names_read(expr))
        args = (print_expr(expr), *operands)
        node = append_call(self.graph, markers.computed, args)
        _set_function(node, expr)
        return node

    def _choose(
        self, condition: nodes.Expr, then: checked.Value, otherwise: checked.Value
    ) -> fx.Node:
        args = (print_expr(condition), self.value(then), self.value(otherwise))
        node = append_call(self.graph, markers.choose, args)
        _set_function(node, condition)
        return node

    def _call(self, build: checked.Build) -> fx.Node:
        operator = self.operators.pattern(build.operator, builds=True)
        keyed = {a.key: self.value(a.value) for a in build.arguments}
        args = [keyed[key] for key in sorted(k for k in keyed if isinstance(k, int))]
        kwargs = {key: value for key, value in keyed.items() if isinstance(key, str)}
        if build.rest_of is not None:
            kwargs[REST_OF] = self._names[build.rest_of]
        return append_call(self.graph, operator, tuple(args), kwargs)


def _names_used(creates: tuple[checked.Create, ...]) -> list[str]:
    """Names of the left side that the right side reads, in order of appearance."""
    names: list[str] = []
    made: set[str] = set()
    for create in creates:
        names += [n for n in _value_names(create.value) if n not in made]
        if create.kind in _WRITES:
            names.append(create.name)
            continue
        made.add(f"{create.name}'" if create.replaces else create.name)
    return names


def _value_names(value: checked.Value) -> list[str]:
    match value:
        case checked.Use(name) | checked.Initial(name) | checked.Spread(name):
            return [name]
        case checked.Computed(expr):
            return list(names_read(expr))
        case checked.MakeList(items):
            return [n for item in items for n in _value_names(item)]
        case checked.Build(_, arguments, rest_of):
            names = [n for a in arguments for n in _value_names(a.value)]
            return names if rest_of is None else [*names, rest_of]
        case checked.Reemit(capture, arguments):
            return [capture, *(n for a in arguments for n in _value_names(a))]
        case checked.Choose(condition, then, otherwise):
            names = list(names_read(condition))
            return [*names, *_value_names(then), *_value_names(otherwise)]
