"""The slow, obvious matcher: the oracle that the matching program is tested against.

It reads the matcher graph directly, tries everything in order by plain recursion, and
evaluates guards only when the whole structure is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations
from typing import Any

import attrs
from torch import fx

from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.lowering import markers
from rewrite_engine.lowering.literals import is_literal, literals_equal
from rewrite_engine.lowering.operators import OperatorPattern
from rewrite_engine.lowering.patterns import (
    Way,
    below,
    guards_of,
    placeholders_of,
    roots_of,
    ways_of,
)
from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.lowering.spellings import Spelling

Goal = tuple[Any, Any]
"""A pattern node (or literal) and the argument that it must match."""

Env = Mapping[Any, Any]
"""What pattern nodes stand for; the family row is under `ROW`."""

ROW = "row"


def reference_matches(
    rule: CompiledRule, anchor: fx.Node, facts: GraphFacts
) -> Iterator[dict[str, Any]]:
    """Every way in which a rule matches at a node, as bindings by name, in order."""
    search = Reference(rule, facts)
    for env in search.roots(roots_of(rule.matcher_graph), anchor):
        scope = search.scope(env)
        if all(guard.holds(scope) for guard in guards_of(rule.matcher_graph)):
            yield scope.names


@attrs.frozen(eq=False)
class Reference:
    """The search for one rule in one graph."""

    rule: CompiledRule
    facts: GraphFacts

    def roots(self, roots: tuple[fx.Node, ...], anchor: fx.Node) -> Iterator[Env]:
        found: Iterator[Env] = self.solve([(roots[0], anchor)], {})
        for root in roots[1:]:
            found = self._further(root, found, anchor.graph)
        return found

    def _further(
        self, root: fx.Node, found: Iterator[Env], graph: fx.Graph
    ) -> Iterator[Env]:
        for env in found:
            for node in graph.nodes:
                yield from self.solve([(root, node)], env)

    def solve(self, goals: list[Goal], env: Env) -> Iterator[Env]:
        if not goals:
            yield env
            return
        (pattern, value), rest = goals[0], goals[1:]
        for more, extended in self.ways(pattern, value, env):
            yield from self.solve([*more, *rest], extended)

    def ways(
        self, pattern: Any, value: Any, env: Env
    ) -> Iterator[tuple[list[Goal], Env]]:
        """One step: every way in which a pattern may stand for a value, as the goals
        that are left and what is known then.
        """
        if isinstance(pattern, (list, tuple)):
            yield from self._list(pattern, value, env)
        elif not isinstance(pattern, fx.Node):
            if literals_equal(pattern, value):
                yield [], env
        elif pattern in env:
            if _same(pattern, env[pattern], value):
                yield [], env
        elif pattern.op == "placeholder":
            if _fits(pattern.meta["role"], value):
                yield [], {**env, pattern: value}
        elif isinstance(pattern.target, OperatorPattern):
            yield from self._call(pattern, value, env)
        else:
            yield from self._marker(pattern, value, {**env, pattern: value})

    def _list(
        self, items: Any, value: Any, env: Env
    ) -> Iterator[tuple[list[Goal], Env]]:
        if not isinstance(value, (list, tuple)):
            return
        stars = [
            i
            for i, item in enumerate(items)
            if isinstance(item, fx.Node) and item.meta.get("role") == "others"
        ]
        if not stars:
            if len(items) == len(value):
                yield list(zip(items, value, strict=True)), env
            return
        star, after = stars[0], len(items) - stars[0] - 1
        if len(value) < star + after:
            return
        middle = list(value[star : len(value) - after])
        values = [*value[:star], middle, *value[len(value) - after :]]
        yield list(zip(items, values, strict=True)), env

    def _marker(
        self, pattern: fx.Node, value: Any, env: Env
    ) -> Iterator[tuple[list[Goal], Env]]:
        if pattern.target in (markers.anything, markers.hole):
            yield [], env
        elif pattern.target is markers.chain:
            yield from self._chain(pattern, value, env, ())
        elif pattern.target is markers.captured:
            yield [(pattern.args[1], value)], env
        elif pattern.target is markers.maybe:
            absent, present = ways_of(pattern)
            yield from self._way(absent if value is None else present, value, env)
        else:
            for way in ways_of(pattern):
                yield from self._way(way, value, env)

    def _chain(
        self, pattern: fx.Node, value: Any, env: Env, links: tuple[Env, ...]
    ) -> Iterator[tuple[list[Goal], Env]]:
        """One more link first, then what the chain stands on."""
        link, hole, inner, least = pattern.args
        local = set(below(link))
        for found in self.solve([(link, value)], env):
            outside = {node: v for node, v in found.items() if node not in local}
            yield from self._chain(pattern, found[hole], outside, (*links, found))
        if len(links) >= least:
            named = [node for node in local if node.op == "placeholder"]
            lists = {n: [found.get(n) for found in links] for n in named}
            yield [(inner, value)], {**env, **lists}

    def _way(self, way: Way, value: Any, env: Env) -> Iterator[tuple[list[Goal], Env]]:
        """Go on with one way only; optional names of the others are absent."""
        if all(env.get(node) is None for node in way.absent):
            goals = [] if way.pattern is None else [(way.pattern, value)]
            yield goals, {**env, **dict.fromkeys(way.absent)}

    def _call(
        self, pattern: fx.Node, value: Any, env: Env
    ) -> Iterator[tuple[list[Goal], Env]]:
        if not isinstance(value, fx.Node):
            return
        operator: OperatorPattern = pattern.target
        for spelling in operator.spellings:
            if not self._may_be(spelling, value):
                continue
            if operator.is_slot and env.get(ROW, spelling.row) != spelling.row:
                continue
            arguments = spelling.arguments(value, self.facts)
            if arguments is not None:
                bound = {**env, **self.row(operator, spelling), pattern: value}
                for goals in _goals(pattern, spelling, arguments):
                    yield goals, bound

    def _may_be(self, spelling: Spelling, value: fx.Node) -> bool:
        """Whether it is the same target; of a module call, the form decides."""
        if spelling.form is not None:
            return value.op == "call_module"
        return spelling.op == value.op and value.target in spelling.targets

    def row(self, operator: OperatorPattern, spelling: Spelling) -> Env:
        """What is known once a call of the rule's family has this spelling."""
        if not operator.is_slot:
            return {}
        placeholders = placeholders_of(self.rule.matcher_graph)
        literals = operator.literals[spelling.row]
        named = {placeholders[name]: value for name, value in literals.items()}
        return {ROW: spelling.row, **named}

    def scope(self, env: Env) -> _ReferenceScope:
        names = {
            name: env.get(node)
            for node in self.rule.matcher_graph.nodes
            for name in node.meta.get("names", ())
        }
        return _ReferenceScope(self, env, names, self.facts)


@attrs.frozen(eq=False)
class _ReferenceScope:
    search: Reference
    env: Env
    names: dict[str, Any]
    facts: GraphFacts

    def value(self, name: str) -> Any:
        return self.names.get(name)

    def bind(self, name: str, value: Any) -> None:
        self.names[name] = value

    def matches(self, node: fx.Node, pattern: Any) -> bool:
        return any(True for _ in self.search.solve([(pattern, node)], self.env))


def _goals(
    pattern: fx.Node, spelling: Spelling, arguments: Mapping[str, Any]
) -> Iterator[list[Goal]]:
    """The operands to match, in every order in which they may be read."""
    operator: OperatorPattern = pattern.target
    canonical = spelling.canonical
    operands = named_operands(pattern, spelling)
    rest = ... in pattern.args
    for order in _orders(operator, spelling.row, arguments):
        read = {order.get(name, name): value for name, value in operands.items()}
        others = [p for p in canonical.parameters if p.name not in read]
        if rest or all(literals_equal(arguments[p.name], p.default) for p in others):
            yield [(value, arguments[name]) for name, value in read.items()]


def named_operands(pattern: fx.Node, spelling: Spelling) -> dict[str, Any]:
    """The operand patterns of a call by canonical parameter name, in their order."""
    named = {}
    for key, value in [*enumerate(pattern.args), *pattern.kwargs.items()]:
        if value is not ...:
            parameter = spelling.canonical.parameter(key)
            assert parameter is not None
            named[parameter.name] = value
    return named


def _orders(
    operator: OperatorPattern, row: int, arguments: Mapping[str, Any]
) -> Iterator[dict[str, str]]:
    yield {}
    condition = operator.conditions[row]
    if condition is not None and not condition(arguments):
        return
    canonical = operator.canonical(row)
    parameters = [canonical.parameter(key) for key in operator.rows[row].commutes]
    names = [parameter.name for parameter in parameters if parameter is not None]
    for order in list(permutations(names))[1:]:
        yield dict(zip(names, order, strict=True))


def _same(pattern: fx.Node, bound: Any, value: Any) -> bool:
    if pattern.op == "placeholder" and pattern.meta["role"] != "literal":
        if isinstance(bound, list):
            return bound == list(value)
        return bound is value and value is not None
    return bound is value or literals_equal(bound, value)


def _fits(role: str, value: Any) -> bool:
    if role == "literal":
        return is_literal(value)
    if role == "others":
        return all(isinstance(item, fx.Node) for item in value)
    return isinstance(value, fx.Node)
