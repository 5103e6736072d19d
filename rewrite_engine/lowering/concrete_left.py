"""The runnable left side of one combination of rows, options and alternatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import attrs
from torch import fx

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.lowering import markers
from rewrite_engine.lowering.choices import Choices, Contradiction
from rewrite_engine.lowering.guards import present
from rewrite_engine.lowering.operators import OperatorPattern
from rewrite_engine.lowering.patterns import (
    Way,
    below,
    guards_of,
    is_shared,
    roots_of,
    ways_of,
)
from rewrite_engine.lowering.scope import Unknown
from rewrite_engine.lowering.spellings import Spelling
from rewrite_engine.signatures import REQUIRED


class Alternative(NamedTuple):
    """What an instance is at one place of the rule where it has several ways to be."""

    place: fx.Node | None
    """An option, a chain or alternatives of the matcher; None: the operator of the
    family.
    """
    chosen: int
    options: int
    """How many ways there are."""


@attrs.define(eq=False)
class ConcreteLeft:
    """Builds the runnable left side of one combination of choices."""

    matcher: fx.Graph
    choices: Choices
    graph: fx.Graph = attrs.field(factory=fx.Graph)
    values: dict[fx.Node, Any] = attrs.field(factory=dict)
    spellings: dict[fx.Node, Spelling] = attrs.field(factory=dict)
    operators: dict[fx.Node, OperatorPattern] = attrs.field(factory=dict)
    named_calls: dict[str, fx.Node] = attrs.field(factory=dict)
    taken: set[Alternative] = attrs.field(factory=set)
    slot: Spelling | None = None

    @property
    def row(self) -> int:
        return 0 if self.slot is None else self.slot.row

    def build(self) -> fx.Graph:
        self._choose_row()
        self._placeholders()
        results = tuple(self.value(root) for root in roots_of(self.matcher))
        self._check_guards()
        self.graph.output(results)
        for node in list(self.graph.nodes):
            if node.op == "placeholder" and not node.users:
                self.graph.erase_node(node)
        return self.graph

    def _choose_row(self) -> None:
        calls = (n.target for n in self.matcher.nodes)
        slots = (c for c in calls if isinstance(c, OperatorPattern) and c.is_slot)
        slot = next(slots, None)
        if slot is not None:
            self.slot = slot.spellings[self._choose(None, len(slot.spellings))]

    def _choose(self, pattern: fx.Node | None, options: int) -> int:
        chosen = self.choices.choose(options)
        self.taken.add(Alternative(pattern, chosen, options))
        return chosen

    def _placeholders(self) -> None:
        literals: Mapping[str, Any] = {}
        for node in self.matcher.nodes:
            if isinstance(node.target, OperatorPattern) and node.target.is_slot:
                literals = node.target.literals[self.row]
        for node in self.matcher.find_nodes(op="placeholder"):
            if "each" in node.meta:
                continue
            if node.target in literals:
                self.values[node] = literals[str(node.target)]
            elif not node.meta["optional"]:
                self.values[node] = self._placeholder(str(node.target))

    def _placeholder(self, name: str) -> fx.Node:
        with self.graph.inserting_before(self._first_call()):
            return self.graph.placeholder(name)

    def _first_call(self) -> fx.Node:
        calls = (n for n in self.graph.nodes if n.op != "placeholder")
        return next(calls, self.graph._root)

    def value(self, pattern: Any) -> Any:
        if isinstance(pattern, (list, tuple)):
            return [self._item(item) for item in pattern]
        if not isinstance(pattern, fx.Node):
            return pattern
        if pattern not in self.values:
            self.values[pattern] = self._build(pattern)
            self._name(pattern)
        elif pattern.meta.get("optional") and self.values[pattern] is None:
            raise Contradiction  # it is needed here, and absent elsewhere
        return self.values[pattern]

    def _item(self, pattern: Any) -> Any:
        """An item of a list: one that may be anything is an input."""
        value = self.value(pattern)
        return self._placeholder(pattern.name) if value is _OMITTED else value

    def _name(self, pattern: fx.Node) -> None:
        value = self.values[pattern]
        for name in pattern.meta.get("names", ()):
            if isinstance(value, fx.Node) and pattern.op != "placeholder":
                self.named_calls[name] = value

    def _build(self, pattern: fx.Node) -> Any:
        if pattern.op == "placeholder":
            return self._placeholder(str(pattern.target))
        match pattern.target:
            case OperatorPattern():
                return self._call(pattern)
            case markers.either | markers.skippable:
                ways = ways_of(pattern)
                return self._only(ways[self._choose(pattern, len(ways))])
            case markers.captured:
                return self.value(pattern.args[1])
            case markers.maybe:
                return self._maybe(pattern)
            case markers.chain:
                return self._chain(pattern)
        assert pattern.target is markers.anything
        return self._placeholder(pattern.name) if is_shared(pattern) else _OMITTED

    def _chain(self, pattern: fx.Node) -> Any:
        """A chain of as few links as there may be, or one more."""
        link, hole, inner, least = pattern.args
        value = self.value(inner)
        named = [node for node in below(link) if node.op == "placeholder"]
        found: dict[fx.Node, list[Any]] = {node: [] for node in named}
        for number in range(least + self._choose(pattern, 2)):
            for node in below(link):
                self.values.pop(node, None)
            self.values[hole] = value
            for node in named:
                self.values[node] = self._placeholder(f"{node.target}_{number}")
            value = self.value(link)
            for node in named:
                # An alternative link may lack it.
                read = self.values[node] if self.values[node].users else None
                found[node].insert(0, read)
        self.values.update(found)
        return value

    def _maybe(self, pattern: fx.Node) -> Any:
        absent, inner = ways_of(pattern)
        known = [self.values[n] for n in absent.absent if n in self.values]
        missing = known[0] is None if known else bool(self._choose(pattern, 2))
        return self._only(absent) if missing else self._only(inner)

    def _only(self, way: Way) -> Any:
        """The value of one way; the optional names that it leaves out are absent."""
        for node in way.absent:
            if self.values.setdefault(node, None) is not None:
                raise Contradiction
        return None if way.pattern is None else self.value(way.pattern)

    def _call(self, pattern: fx.Node) -> fx.Node:
        operator: OperatorPattern = pattern.target
        if not operator.spellings:
            raise Contradiction  # of a library that is not imported
        spelling = self.slot if operator.is_slot else operator.spellings[0]
        assert spelling is not None
        given = {}
        for key, operand in [*enumerate(pattern.args), *pattern.kwargs.items()]:
            parameter = None if operand is ... else spelling.canonical.parameter(key)
            if parameter is not None:
                given[spelling.names[parameter.name]] = self.value(operand)
        _check_held(spelling, given)
        node = self._create(pattern, spelling, given)
        self.spellings[node] = spelling
        self.operators[node] = operator
        return node

    def _create(
        self, pattern: fx.Node, spelling: Spelling, given: Mapping[str, Any]
    ) -> fx.Node:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for parameter in spelling.signature.parameters:
            value = given.get(parameter.name, _OMITTED)
            if value is _OMITTED and parameter.default is REQUIRED:
                value = self._placeholder(f"{pattern.name}_{parameter.name}")
            if value is _OMITTED or (value is None and parameter.default is None):
                continue
            positional = not parameter.keyword_only and not kwargs
            in_order = positional and len(args) == _position(spelling, parameter.name)
            if in_order:
                args.append(value)
            else:
                kwargs[parameter.name] = value
        op, target = spelling.runnable
        return self.graph.create_node(op, target, tuple(args), kwargs)

    def _check_guards(self) -> None:
        for guard in guards_of(self.matcher):
            if not guard.is_local:
                continue  # others may read the values, too
            try:
                holds = guard.evaluate(self.scope())
            except Unknown:
                continue
            if not present(holds):
                raise Contradiction

    def scope(self) -> ChoiceScope:
        literals = (n for n in self.matcher.nodes if n.meta.get("role") == "literal")
        return ChoiceScope(self.names(), frozenset(str(n.target) for n in literals))

    def names(self) -> dict[str, Any]:
        return {
            name: value
            for pattern, value in self.values.items()
            for name in pattern.meta.get("names", ())
        }


def _check_held(spelling: Spelling, given: Mapping[str, Any]) -> None:
    """No module holds what a call computes."""
    if spelling.form is None:
        return
    for parameter in spelling.signature.parameters[spelling.form.inputs :]:
        value = given.get(parameter.name)
        if isinstance(value, fx.Node) and value.op != "placeholder":
            raise Contradiction


_OMITTED: Any = object()
"""An argument that is left to its default, or to an input where it has none."""


def _position(spelling: Spelling, name: str) -> int:
    return [p.name for p in spelling.signature.positional].index(name)


@attrs.frozen(eq=False)
class ChoiceScope:
    """What is known of a match before it exists: constants, and what is absent."""

    names: Mapping[str, Any]
    literals: frozenset[str]
    """Names of literals: those that are inputs of the instance are not known."""

    @property
    def facts(self) -> GraphFacts:
        raise Unknown("no graph")

    def value(self, name: str) -> Any:
        value = self.names.get(name)
        if name in self.literals and (value is None or isinstance(value, fx.Node)):
            raise Unknown(name)
        return value
