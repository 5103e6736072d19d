"""The concrete pairs of a rule: one for every family row, spelling of the family's
operator, option and alternative. Both graphs of a pair can be run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import fx

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.lowering import markers
from rewrite_engine.lowering.exchange import exchange
from rewrite_engine.lowering.guards import Unknown, present
from rewrite_engine.lowering.operators import OperatorPattern, Spelling
from rewrite_engine.lowering.patterns import (
    Way,
    below,
    captured_calls,
    guards_of,
    optional_below,
    roots_of,
    ways_of,
)
from rewrite_engine.lowering.replacements import REST_OF
from rewrite_engine.signatures import REQUIRED

MOST = 10_000
"""Instances of one rule; a rule with more should be several rules."""


@attrs.frozen(eq=False)
class Instance:
    """One concrete pair. Both modules take the placeholders of `matcher` by name and
    return the values of the rule's roots.
    """

    name: str
    row: int
    matcher: fx.GraphModule
    replacement: fx.GraphModule
    calls: Mapping[str, fx.Node]
    """The calls of `matcher` by the names that the rule gives them."""


class _Contradiction(Exception):  # noqa: N818 - an outcome, not an error
    """These choices exclude each other."""


def instances(
    rule_name: str, matcher: fx.Graph, replacement: fx.Graph
) -> Iterator[Instance]:
    """Every concrete pair of a rule, in a stable order."""
    number = 0
    for choices in _all_choices():
        try:
            builder = _Concrete(matcher, choices)
            graph = builder.build()
        except _Contradiction:
            continue
        right = _ConcreteReplacement(replacement, builder, graph).build()
        name = f"{rule_name}_{number}"
        number += 1
        yield Instance(
            name,
            builder.row,
            fx.GraphModule(torch.nn.Module(), graph, name),
            fx.GraphModule(torch.nn.Module(), right, name),
            builder.named_calls,
        )
        assert number <= MOST, f"'{rule_name}' has more than {MOST} instances"


class _Choices:
    """Decisions replayed from a prefix; new ones take the first option."""

    def __init__(self, prefix: list[int]) -> None:
        self.taken: list[tuple[int, int]] = []
        self._prefix = prefix

    def choose(self, options: int) -> int:
        index = len(self.taken)
        chosen = self._prefix[index] if index < len(self._prefix) else 0
        self.taken.append((chosen, options))
        return chosen


def _all_choices() -> Iterator[_Choices]:
    """Every sequence of decisions, the last one varying fastest."""
    prefix: list[int] | None = []
    while prefix is not None:
        choices = _Choices(prefix)
        yield choices
        prefix = _following(choices.taken)


def _following(taken: list[tuple[int, int]]) -> list[int] | None:
    while taken and taken[-1][0] + 1 == taken[-1][1]:
        taken.pop()
    if not taken:
        return None
    *before, (last, _) = taken
    return [*(chosen for chosen, _ in before), last + 1]


@attrs.define(eq=False)
class _Concrete:
    """Builds the runnable left side of one combination of choices."""

    matcher: fx.Graph
    choices: _Choices
    graph: fx.Graph = attrs.field(factory=fx.Graph)
    values: dict[fx.Node, Any] = attrs.field(factory=dict)
    spellings: dict[fx.Node, Spelling] = attrs.field(factory=dict)
    named_calls: dict[str, fx.Node] = attrs.field(factory=dict)
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
            self.slot = slot.spellings[self.choices.choose(len(slot.spellings))]

    def _placeholders(self) -> None:
        literals: Mapping[str, Any] = {}
        for node in self.matcher.nodes:
            if isinstance(node.target, OperatorPattern) and node.target.is_slot:
                literals = node.target.literals[self.row]
        for node in self.matcher.nodes:
            if node.op != "placeholder":
                continue
            if node.target in literals:
                self.values[node] = literals[str(node.target)]
            elif node.meta["optional"] and self.choices.choose(2):
                self.values[node] = None
            else:
                self.values[node] = self._placeholder(str(node.target))

    def _placeholder(self, name: str) -> fx.Node:
        with self.graph.inserting_before(self._first_call()):
            return self.graph.placeholder(name)

    def _first_call(self) -> fx.Node:
        calls = (n for n in self.graph.nodes if n.op != "placeholder")
        return next(calls, self.graph._root)

    def value(self, pattern: Any) -> Any:
        if isinstance(pattern, (list, tuple)):
            return [self.value(item) for item in pattern]
        if not isinstance(pattern, fx.Node):
            return pattern
        if pattern not in self.values:
            self.values[pattern] = self._build(pattern)
            self._name(pattern)
        return self.values[pattern]

    def _name(self, pattern: fx.Node) -> None:
        value = self.values[pattern]
        for name in pattern.meta.get("names", ()):
            if isinstance(value, fx.Node) and pattern.op != "placeholder":
                self.named_calls[name] = value

    def _build(self, pattern: fx.Node) -> Any:
        match pattern.target:
            case OperatorPattern():
                return self._call(pattern)
            case markers.either | markers.skippable:
                ways = ways_of(pattern)
                return self._only(ways[self.choices.choose(len(ways))])
            case markers.captured:
                return self.value(pattern.args[1])
            case markers.maybe:
                return self._maybe(pattern)
        assert pattern.target is markers.anything
        return _OMITTED

    def _maybe(self, pattern: fx.Node) -> Any:
        absent, inner = ways_of(pattern)
        if absent.absent:
            missing = all(self.values[node] is None for node in absent.absent)
        else:
            missing = bool(self.choices.choose(2))
        return None if missing else self._only(inner)

    def _only(self, way: Way) -> Any:
        """The value of one way; names that it leaves out must be absent, others not."""
        if any(self.values[node] is not None for node in way.absent):
            raise _Contradiction
        if isinstance(way.pattern, fx.Node) and way.pattern.op != "placeholder":
            needed = set(optional_below(way.pattern)) - _guarded(way.pattern)
            if any(self.values[node] is None for node in needed):
                raise _Contradiction
        return self.value(way.pattern)

    def _call(self, pattern: fx.Node) -> fx.Node:
        operator: OperatorPattern = pattern.target
        spelling = self.slot if operator.is_slot else operator.spellings[0]
        assert spelling is not None
        given = {}
        for key, operand in [*enumerate(pattern.args), *pattern.kwargs.items()]:
            parameter = None if operand is ... else spelling.canonical.parameter(key)
            if parameter is not None:
                given[spelling.names[parameter.name]] = self.value(operand)
        node = self._create(pattern, spelling, given)
        self.spellings[node] = spelling
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
        return self.graph.create_node(spelling.op, spelling.target, tuple(args), kwargs)

    def _check_guards(self) -> None:
        for guard in guards_of(self.matcher):
            try:
                holds = guard.evaluate(self.scope())
            except Unknown:
                continue
            if not present(holds):
                raise _Contradiction

    def scope(self) -> _ChoiceScope:
        literals = (n for n in self.matcher.nodes if n.meta.get("role") == "literal")
        return _ChoiceScope(self._names(), frozenset(str(n.target) for n in literals))

    def _names(self) -> dict[str, Any]:
        return {
            name: value
            for pattern, value in self.values.items()
            for name in pattern.meta.get("names", ())
        }


_OMITTED: Any = object()
"""An argument that is left to its default, or to an input where it has none."""


def _position(spelling: Spelling, name: str) -> int:
    positional = [p.name for p in spelling.signature.parameters if not p.keyword_only]
    return positional.index(name)


def _guarded(pattern: fx.Node) -> set[fx.Node]:
    """Optional names of a pattern that stand in options of their own."""
    options = (markers.maybe, markers.either, markers.skippable)
    nested = [n for n in below(pattern) if n.target in options]
    return {name for option in nested for name in optional_below(option)}


@attrs.frozen(eq=False)
class _ChoiceScope:
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

    def bind(self, name: str, value: Any) -> None:
        raise Unknown(name)

    def matches(self, node: fx.Node, pattern: object) -> bool:
        raise Unknown("no graph")


@attrs.define(eq=False)
class _ConcreteReplacement:
    """Builds the runnable right side that belongs to a concrete left side."""

    replacement: fx.Graph
    left: _Concrete
    matched: fx.Graph
    graph: fx.Graph = attrs.field(factory=fx.Graph)
    copies: dict[fx.Node, fx.Node] = attrs.field(factory=dict)
    values: dict[fx.Node, Any] = attrs.field(factory=dict)
    names: dict[str, Any] = attrs.field(init=False)

    def build(self) -> fx.Graph:
        for node in self.matched.nodes:
            if node.op == "placeholder":
                self.copies[node] = self.graph.placeholder(str(node.target))
        self.names = self.left._names()
        for node in self.replacement.nodes:
            if "statement" in node.meta:
                # Later conditions may ask whether a new node is there.
                self.names.update(dict.fromkeys(node.meta["names"], self.value(node)))
        replaced = self.replacement.output_node().args[0]
        results = []
        for root in roots_of(self.left.matcher):
            name = next(n for n in root.meta["names"] if n in replaced)
            results.append(self.value(replaced[name]))
        self.graph.output(tuple(results))
        return self.graph

    def old(self, value: Any) -> Any:
        """A value of the left side, in the right side's graph."""
        return fx.map_arg(value, self._copy)

    def _copy(self, node: fx.Node) -> fx.Node:
        if node.graph is self.graph:
            return node
        if node not in self.copies:
            self.copies[node] = self.graph.node_copy(node, self._copy)
        return self.copies[node]

    def value(self, pattern: Any) -> Any:
        if isinstance(pattern, (list, tuple)):
            return [self.value(item) for item in pattern]
        if not isinstance(pattern, fx.Node):
            return pattern
        if pattern not in self.values:
            self.values[pattern] = self._build(pattern)
        return self.values[pattern]

    def _build(self, pattern: fx.Node) -> Any:
        if pattern.op == "placeholder":
            return self.old(self.names.get(str(pattern.target)))
        if pattern.target is markers.computed:
            return self._computed(pattern)
        if pattern.target is markers.choose:
            _, then, otherwise = pattern.args
            scope = attrs.evolve(self.left.scope(), names=self.names)
            chosen = present(pattern.meta["compute"](scope))
            return self.value(then if chosen else otherwise)
        if pattern.target is markers.reemit:
            return self._reemit(pattern)
        if isinstance(pattern.target, OperatorPattern):
            return self._call(pattern)
        return self.value(pattern.args[0])

    def _computed(self, pattern: fx.Node) -> Any:
        text, *operands = pattern.args
        names = tuple(operand.meta["names"][0] for operand in operands)
        run = _Computation(text, names, pattern.meta["compute"])
        return self.graph.call_function(run, tuple(self.value(o) for o in operands))

    def _call(self, pattern: fx.Node) -> fx.Node:
        operator: OperatorPattern = pattern.target
        keyed = {**dict(enumerate(pattern.args)), **pattern.kwargs}
        original = keyed.pop(REST_OF, None)
        spelling = operator.first_spelling(self.left.row if operator.is_slot else 0)
        matched = None if original is None else self.names[str(original.target)]
        if matched is not None and self.left.spellings[matched] in operator.spellings:
            spelling = self.left.spellings[matched]
        given = {}
        for key, operand in keyed.items():
            parameter = spelling.canonical.parameter(key)
            assert parameter is not None
            given[spelling.names[parameter.name]] = self.value(operand)
        if matched is None:
            positional = tuple(self.value(arg) for arg in pattern.args)
            named = {k: self.value(v) for k, v in pattern.kwargs.items()}
            return self.graph.create_node(
                spelling.op, spelling.target, positional, named
            )
        args, kwargs = exchange(spelling, matched, given)
        return self.graph.create_node(
            spelling.op, spelling.target, self.old(args), self.old(kwargs)
        )

    def _reemit(self, pattern: fx.Node) -> Any:
        capture, *operands = pattern.args
        left = next(
            n
            for n in self.left.matcher.nodes
            if n.target is markers.captured and n.args[0] == capture.target
        )
        new = [self.value(operand) for operand in operands]
        root, hole = self.left.values.get(left), left.args[2]
        if root is None or not self._is_there(left):
            return new[0]
        if hole is None:
            args = (*new, *self.old(root.args[len(new) :]))
            kwargs = self.old(root.kwargs)
            return self.graph.create_node(root.op, root.target, args, kwargs)
        return self._reemit_chain(root, {self.left.values[hole]: new[0]})

    def _is_there(self, capture: fx.Node) -> bool:
        """Whether the captured part is in this instance: it may be optional."""
        _, value, hole = capture.args
        if hole is not None:
            return True
        return any(call in self.left.values for call in captured_calls(value))

    def _reemit_chain(self, node: fx.Node, moved: dict[fx.Node, Any]) -> Any:
        if node not in moved:
            inside = any(n in moved for n in _ancestors(node))
            moved[node] = (
                self.graph.node_copy(node, lambda n: self._reemit_chain(n, moved))
                if inside
                else self.old(node)
            )
        return moved[node]


def _ancestors(node: fx.Node) -> set[fx.Node]:
    todo, found = [node], set()
    while todo:
        for operand in todo.pop().all_input_nodes:
            if operand not in found:
                found.add(operand)
                todo.append(operand)
    return found


@attrs.frozen(eq=False)
class _Computation:
    """A literal expression as a function that a graph can call."""

    text: str
    names: tuple[str, ...]
    compute: Callable[[Any], Any]
    __name__: str = "computed"

    def __call__(self, *values: Any) -> Any:
        return self.compute(_ValueScope(dict(zip(self.names, values, strict=True))))


@attrs.frozen(eq=False)
class _ValueScope:
    """Names that stand for tensors and literals, while an instance runs."""

    names: Mapping[str, Any]

    def value(self, name: str) -> Any:
        return self.names[name]
