"""The left side of a rule as an fx graph: the matcher.

Placeholders stand for what the rule names (`role` in their metadata: `value`,
`literal` or `others`), calls for what must be in the graph, and the calls of `markers`
for options, alternatives, captures and guards. Nothing is expanded: one graph covers
every family row, option and alternative.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from torch import fx

from rewrite_engine.dsl import checked
from rewrite_engine.dsl.walk import terms_in
from rewrite_engine.edit import append, append_call
from rewrite_engine.lowering import markers
from rewrite_engine.lowering.guards import Condition, compile_guard, names_bound
from rewrite_engine.lowering.operators import (
    OperatorPattern,
    literal_value,
    operator_pattern,
    slot_pattern,
)


class Operators:
    """The operator patterns of one rule; equal operators share one pattern."""

    def __init__(self, rule: checked.Rule) -> None:
        self._family = slot_pattern(rule.family) if rule.family else None

    def pattern(
        self, operator: checked.Operator | checked.Slot, *, builds: bool = False
    ) -> OperatorPattern:
        """The pattern of an operator that is matched, or built on the right side."""
        if isinstance(operator, checked.Operator):
            return operator_pattern(operator, builds=builds)
        assert self._family is not None
        return self._family


def build_matcher(rule: checked.Rule, operators: Operators) -> fx.Graph:
    """The matcher graph of a rule; its output lists the roots.

    Metadata of its nodes: `role` (placeholders), `names` (what the rule calls it),
    `optional` (a placeholder that may be absent), `guard` (a `Condition`), `span`
    (calls: where the rule says so) and `operands` (the spans of a call's operands).
    """
    builder = _MatcherBuilder(rule, operators)
    # In source order, so that chains of statements are not built by recursion.
    for binding in rule.bindings:
        builder.binding(binding.name)
    roots = [builder.binding(name) for name in rule.roots]
    for guard in rule.guards:
        builder.guard(guard)
    append(builder.graph, "output", "output", (tuple(roots),))
    return builder.graph


@attrs.define(eq=False)
class _MatcherBuilder:
    rule: checked.Rule
    operators: Operators
    graph: fx.Graph = attrs.field(factory=fx.Graph)
    _built: dict[int, Any] = attrs.field(factory=dict)
    _placeholders: dict[str, fx.Node] = attrs.field(factory=dict)
    _bindings: dict[str, checked.Binding] = attrs.field(init=False)
    _rule_names: set[str] = attrs.field(init=False)
    """What the bindings name; other names are those of one guard."""
    _wanted: dict[int, str] = attrs.field(init=False)
    """Names of call nodes: those of their bindings."""

    def __attrs_post_init__(self) -> None:
        self._bindings = {binding.name: binding for binding in self.rule.bindings}
        self._wanted = {
            id(binding.term): binding.name for binding in self.rule.bindings
        }
        # All placeholders come first, as in any fx graph.
        for binding in self.rule.bindings:
            self._declare(binding.term)
        self._rule_names = {*self._bindings, *self._placeholders}
        for guard in self.rule.guards:
            for term in guard.patterns.values():
                self._declare(term)
        for name in self._dimensions():
            self._placeholder(name, "literal")

    def binding(self, name: str) -> Any:
        node = self.term(self._bindings[name].term)
        if isinstance(node, fx.Node):
            names = node.meta.setdefault("names", [])
            if name not in names:
                names.append(name)
        return node

    def term(self, term: checked.Term) -> Any:
        # A macro puts the same term object in several places: one node stands for it.
        if id(term) not in self._built:
            node = self._built[id(term)] = self._build(term)
            if isinstance(node, fx.Node) and node.op != "placeholder":
                node.meta.setdefault("span", term.span)
        return self._built[id(term)]

    def _build(self, term: checked.Term) -> Any:
        match term:
            case checked.Variable(name) | checked.LiteralVariable(name):
                return self._placeholders[name]
            case checked.Others(name):
                return self._placeholders[name]
            case checked.Reference(name):
                return self.binding(name)
            case checked.Literal(value):
                return literal_value(value)
            case checked.Items(items):
                return [self.term(item) for item in items]
            case checked.Anything():
                return append_call(self.graph, markers.anything)
            case checked.Either(options):
                parts = tuple(self.term(option) for option in options)
                return append_call(self.graph, markers.either, parts)
            case checked.Maybe(value):
                return append_call(self.graph, markers.maybe, (self.term(value),))
            case checked.Captured(name, value, hole):
                return self._captured(name, value, hole)
            case checked.Hole():
                return append_call(self.graph, markers.hole)
            case checked.Chain():
                return self._chain(term)
            case checked.Apply():
                return self._apply(term)

    def _captured(
        self, name: str, value: checked.Term, hole: checked.Term | None
    ) -> fx.Node:
        inner = self.term(value)
        held = None if hole is None else self.term(hole)
        args = (name, inner, held)
        node = append_call(self.graph, markers.captured, args, name=f"capture_{name}")
        node.meta.update(names=[name], optional=name in self.rule.optional)
        return node

    def _chain(self, term: checked.Chain) -> fx.Node:
        hole, link, inner = map(self.term, (term.hole, term.link, term.inner))
        for node in below(link):
            node.meta["each"] = True
        args = (link, hole, inner, term.least)
        node = append_call(self.graph, markers.chain, args)
        node.meta["span"] = term.span
        return node

    def _apply(self, term: checked.Apply) -> fx.Node:
        operator = self.operators.pattern(term.operator)
        keyed = {operand.key: self.term(operand.value) for operand in term.operands}
        args = [keyed[key] for key in sorted(k for k in keyed if isinstance(k, int))]
        kwargs = {key: value for key, value in keyed.items() if isinstance(key, str)}
        if term.rest:
            args.append(...)
        name = self._wanted.get(id(term))
        call = append_call(self.graph, operator, tuple(args), kwargs, name)
        call.meta["span"] = term.span
        call.meta["operands"] = {o.key: o.value.span for o in term.operands}
        if not term.optional:
            return call
        return append_call(self.graph, markers.skippable, (call,))

    # --- placeholders ---

    def _declare(self, term: checked.Term) -> None:
        for part in terms_in(term):
            match part:
                case checked.Variable(name):
                    self._placeholder(name, "value")
                case checked.LiteralVariable(name):
                    self._placeholder(name, "literal")
                case checked.Others(name):
                    self._placeholder(name, "others")

    def _placeholder(self, name: str, role: str) -> None:
        if name in self._placeholders:
            return
        node = append(self.graph, "placeholder", name)
        node.meta.update(role=role, names=[name], optional=name in self.rule.optional)
        self._placeholders[name] = node

    def _dimensions(self) -> list[str]:
        """Literal names that a family or a guard's type test gives a value."""
        family = self.rule.family
        names = [name for row in family.rows for name in row.literals] if family else []
        for guard in self.rule.guards:
            names += names_bound(guard.expr)
        return names

    # --- guards ---

    def guard(self, guard: checked.Guard) -> None:
        patterns = {span: self.term(term) for span, term in guard.patterns.items()}
        condition = compile_guard(guard.expr, guard.text, guard.reason, patterns)
        # Names of the rule inside a pattern must be bound before it is tried.
        inside = {
            n for p in patterns.values() for node in below(p) for n in _names(node)
        }
        bound = inside & {n for n in self._rule_names if n not in condition.binds}
        condition = attrs.evolve(condition, reads=condition.reads | bound)
        operands = (self._named(name) for name in sorted(condition.reads))
        node = append_call(self.graph, markers.where, (condition.text, *operands))
        node.meta.update(guard=condition, span=guard.span)

    def _named(self, name: str) -> Any:
        if name in self._placeholders:
            return self._placeholders[name]
        if name in self._bindings:
            return self.binding(name)
        return next(n for n in self.graph.nodes if name in n.meta.get("names", ()))


def _names(node: fx.Node) -> list[str]:
    return list(node.meta.get("names", ()))


def guards_of(matcher: fx.Graph) -> list[Condition]:
    """The guards of a matcher, in source order."""
    return [node.meta["guard"] for node in matcher.nodes if "guard" in node.meta]


def roots_of(matcher: fx.Graph) -> tuple[fx.Node, ...]:
    """The calls that anchor a matcher, in source order."""
    roots: tuple[fx.Node, ...] = matcher.output_node().args[0]
    return roots


def placeholders_of(matcher: fx.Graph) -> Mapping[str, fx.Node]:
    """What the rule names, other than calls."""
    return {str(n.target): n for n in matcher.nodes if n.op == "placeholder"}


@attrs.frozen(eq=False)
class Way:
    """One way to go on at an option: a pattern, if any, and the optional names that
    are absent from the whole match if it is taken.
    """

    pattern: Any
    absent: tuple[fx.Node, ...]


def ways_of(option: fx.Node) -> tuple[Way, ...]:
    """The ways of an `either`, a `maybe` (absent first) or a `skippable`, in order."""
    # A matcher is asked at every node, and never changes once it is built.
    if "ways" not in option.meta:
        option.meta["ways"] = _ways_of(option)
    ways: tuple[Way, ...] = option.meta["ways"]
    return ways


def _ways_of(option: fx.Node) -> tuple[Way, ...]:
    if option.target is markers.maybe:
        inner = option.args[0]
        return Way(None, tuple(optional_below(inner))), Way(inner, ())
    if option.target is markers.skippable:
        call = option.args[0]
        skipped = optional_below([*call.args[1:], *call.kwargs.values()])
        return Way(call, ()), Way(call.args[0], tuple(skipped))
    of_parts = [optional_below(part) for part in option.args]
    everything = dict.fromkeys(name for names in of_parts for name in names)
    return tuple(
        Way(part, tuple(name for name in everything if name not in names))
        for part, names in zip(option.args, of_parts, strict=True)
    )


def optional_below(pattern: Any) -> dict[fx.Node, None]:
    """The optional placeholders of a pattern, in order of appearance."""
    return dict.fromkeys(n for n in below(pattern) if n.meta.get("optional"))


def below(pattern: Any) -> Iterator[fx.Node]:
    """A pattern node and everything under it, each once, without recursion."""
    todo, seen = [pattern], set()
    while todo:
        item = todo.pop()
        if isinstance(item, (list, tuple)):
            todo.extend(reversed(item))
        elif isinstance(item, fx.Node) and item not in seen:
            seen.add(item)
            yield item
            todo.extend(reversed([*item.args, *item.kwargs.values()]))


def is_shared(pattern: fx.Node) -> bool:
    """Whether several operands are one term, as a macro makes of its parameter: what
    stands there must be the same, even where that may be anything.
    """
    places = 0
    for reader in pattern.users:
        if reader.target is markers.captured:
            places += reader.args[1] is pattern
        elif reader.target is not markers.where:
            operands = [*reader.args, *reader.kwargs.values()]
            places += sum(item is pattern for item in _flat(operands))
    return places > 1


def _flat(values: list[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(list(value))
        else:
            yield value


def chains_below(pattern: Any) -> Iterator[fx.Node]:
    """The chains of a pattern."""
    return (node for node in below(pattern) if node.target is markers.chain)


def captured_calls(pattern: fx.Node) -> Iterator[fx.Node]:
    """The calls that a capture of one operator may stand for."""
    if isinstance(pattern.target, OperatorPattern):
        yield pattern
    elif pattern.target is markers.skippable:
        yield pattern.args[0]
    elif pattern.target is markers.either:
        for option in pattern.args:
            yield from captured_calls(option)
