"""What may be wrong where a step of a rule does not hold, and how to go on behind it.

One step may fail in several ways: another operator, or the right one behind an extra
call. Each way is a `Fault`; the search takes the one that costs the rule least.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import attrs
from torch import fx

from rewrite_engine.explaining.dialects import Dialect, dialect
from rewrite_engine.explaining.explanation import Kind, Mismatch
from rewrite_engine.explaining.steps import Place, callee_span, is_call, steps_below
from rewrite_engine.explaining.wording import (
    bound_elsewhere,
    called,
    found_there,
    operator_text,
    quoted,
)
from rewrite_engine.lowering import markers
from rewrite_engine.lowering.literals import literals_equal
from rewrite_engine.lowering.operators import OperatorPattern
from rewrite_engine.lowering.patterns import ways_of
from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.lowering.spellings import Spelling, call_key
from rewrite_engine.matching.reference import (
    ROW,
    Env,
    Goal,
    Reference,
    named_operands,
)
from rewrite_engine.matching.structure import operands, orders

PlacedGoal = tuple[Any, Any, Place]
"""A goal of the reference matcher and where it stands."""


@attrs.frozen(eq=False)
class Fault:
    """One way in which a step fails; `skipped` steps below it cannot be looked at.

    `held`: 1 if the step itself holds and only its arguments are wrong.
    """

    mismatches: tuple[Mismatch, ...]
    goals: list[PlacedGoal]
    env: Env
    skipped: int = 0
    held: int = 0

    @property
    def cost(self) -> int:
        return len(self.mismatches) + self.skipped


def placed(call: fx.Node, reader: Any, goals: list[Goal]) -> list[PlacedGoal]:
    """The operands of a call as goals that know where they stand."""
    positions = [i for i, arg in enumerate(call.args) if arg is not ...]
    keys = [*positions, *call.kwargs]
    return [
        (pattern, value, Place(call, key, reader))
        for key, (pattern, value) in zip(keys, goals, strict=True)
    ]


@attrs.frozen(eq=False)
class FaultFinder:
    """Finds the faults of one rule's steps."""

    rule: CompiledRule
    reference: Reference
    _dialects: dict[Any, Dialect | None] = attrs.field(factory=dict)

    def faults(
        self, pattern: Any, value: Any, env: Env, place: Place
    ) -> Iterator[Fault]:
        """Every way in which a step that does not hold may be taken to be wrong."""
        if isinstance(pattern, (list, tuple)):
            yield from self._list(pattern, value, env, place)
        elif not isinstance(pattern, fx.Node):
            message = f"{quoted(pattern)} is expected, {found_there(value, place)}"
            kind: Kind = "operand" if isinstance(value, fx.Node) else "literal"
            yield self._one(kind, message, place, env)
        elif pattern in env:
            message = bound_elsewhere(pattern, env, value, place)
            yield self._one("shared", message, place, env)
        elif pattern.op == "placeholder":
            yield self._name(pattern, value, env, place)
        elif pattern.target is markers.chain:
            yield self._no_link(pattern, value, env, place)
        elif not is_call(pattern):
            yield from self._option(pattern, value, env, place)
        elif not isinstance(value, fx.Node):
            wanted = f"a call of {pattern.target} is expected"
            skipped = steps_below(pattern, env) - 1
            message = f"{wanted}, {found_there(value, place)}"
            yield self._one("operand", message, place, env, skipped=skipped)
        else:
            yield from self._call(pattern, value, env, place)

    def _one(
        self, kind: Kind, message: str, place: Place, env: Env, *, skipped: int = 0
    ) -> Fault:
        nodes = () if place.reader is None else (place.reader,)
        found = Mismatch(kind, message, place.span(self.rule), nodes)
        return Fault((found,), [], env, skipped)

    def no_root(self, root: fx.Node, env: Env) -> Fault:
        """A further root of the rule for which there is no node at all."""
        message = "nothing reads what it shares with the rest of the rule"
        span = callee_span(self.rule, root)
        found = Mismatch("missing", message, span)
        return Fault((found,), [], env, max(0, steps_below(root, env) - 1))

    # --- names, lists, options ---

    def _name(self, pattern: fx.Node, value: Any, env: Env, place: Place) -> Fault:
        name, role = pattern.target, pattern.meta["role"]
        if role == "literal":
            wanted = f"`${name}` is a literal"
        elif role == "others":
            wanted = f"`*{name}` is a list of graph values"
        else:
            wanted = f"`{name}` is a graph value"
        message = f"{wanted}, {found_there(value, place)}"
        fault = self._one("operand", message, place, env)
        (mismatch,) = fault.mismatches
        if role != "value" or isinstance(value, fx.Node):
            return fault
        hint = f"`{name}?` may be absent" if value is None else f"`${name}` takes it"
        return attrs.evolve(fault, mismatches=(attrs.evolve(mismatch, hint=hint),))

    def _list(self, items: Any, value: Any, env: Env, place: Place) -> Iterator[Fault]:
        if not isinstance(value, (list, tuple)):
            message = f"a list is expected, {found_there(value, place)}"
            skipped = steps_below(items, env) - 1
            yield self._one("list", message, place, env, skipped=skipped)
            return
        message = f"a list of {len(items)} is expected, here it has {len(value)}"
        fault = self._one("list", message, place, env)
        goals = [(p, v, place) for p, v in zip(items, value, strict=False)]
        skipped = steps_below(list(items[len(value) :]), env) - 1
        yield attrs.evolve(fault, goals=goals, skipped=max(0, skipped))

    def _no_link(self, pattern: fx.Node, value: Any, env: Env, place: Place) -> Fault:
        """A chain with too few links; what it stands on is looked for at once."""
        link, _, inner, least = pattern.args
        wanted = f"at least {least} of `{getattr(link.target, 'name', 'the link')}`"
        is_node = isinstance(value, fx.Node)
        found = called(value) if is_node else found_there(value, place)
        message = f"{wanted} is expected, the graph has {found}"
        nodes = (value,) if is_node else ()
        mismatch = Mismatch("missing", message, callee_span(self.rule, link), nodes)
        return Fault((mismatch,), [(inner, value, place)], {**env, pattern: value})

    def _option(
        self, pattern: fx.Node, value: Any, env: Env, place: Place
    ) -> Iterator[Fault]:
        """An option whose ways all contradict what is known of optional names."""
        ways = ways_of(pattern)
        if pattern.target is markers.maybe:
            ways = ways[:1] if value is None else ways[1:]
        for way in ways:
            names = [str(n.target) for n in way.absent if env.get(n) is not None]
            listed = " and ".join(f"`{name}`" for name in names)
            message = f"{listed} would have to be absent, and is there elsewhere"
            fault = self._one("optional", message, place, {**env, pattern: value})
            goals = [] if way.pattern is None else [(way.pattern, value, place)]
            yield attrs.evolve(fault, goals=goals)

    # --- calls ---

    def _call(
        self, pattern: fx.Node, node: fx.Node, env: Env, place: Place
    ) -> Iterator[Fault]:
        operator: OperatorPattern = pattern.target
        spelled = operator.spellings_of(node)
        for spelling in spelled:
            yield from self._spelled(pattern, node, spelling, env)
        if not spelled:
            yield from self._other_operator(pattern, node, env)
            if place.reader is not None:
                yield from self._extra_call(pattern, node, env, place)
            yield from self._missing_call(pattern, node, env, place)

    def _spelled(
        self, pattern: fx.Node, node: fx.Node, spelling: Spelling, env: Env
    ) -> Iterator[Fault]:
        """The right operator; arguments that are extra, or the other way round."""
        operator: OperatorPattern = pattern.target
        arguments = spelling.arguments(node, self.reference.facts)
        if arguments is None:
            message = f"the arguments do not fit `{spelling.signature.path}`"
            span = callee_span(self.rule, pattern)
            found = Mismatch("argument", message, span, (node,))
            yield Fault((found,), [], env, steps_below(pattern, env) - 1)
            return
        bound = {**env, pattern: node}
        wrong: tuple[Mismatch, ...] = ()
        if operator.is_slot and env.get(ROW, spelling.row) != spelling.row:
            message = f"`{operator}` is another operator here than elsewhere"
            wrong += (self._at_callee("operator", message, pattern, node),)
        else:
            bound |= self.reference.row(operator, spelling)
        named = named_operands(pattern, spelling)
        for order, reordered in self._orders(pattern, node, spelling, arguments):
            read = {order.get(name, name): p for name, p in named.items()}
            extra = tuple(self._extra_arguments(pattern, node, read, arguments))
            mismatches = (*wrong, *reordered, *extra)
            if mismatches:
                goals = [(p, arguments[name]) for name, p in read.items()]
                yield Fault(mismatches, placed(pattern, node, goals), bound, held=1)

    def _orders(
        self,
        pattern: fx.Node,
        node: fx.Node,
        spelling: Spelling,
        arguments: Mapping[str, Any],
    ) -> Iterator[tuple[dict[str, str], tuple[Mismatch, ...]]]:
        """Orders of the operands, with what is wrong about each."""
        operator: OperatorPattern = pattern.target
        condition = operator.conditions[spelling.row]
        named = list(named_operands(pattern, spelling))
        allowed = list(orders(operator, spelling.row, named))
        if condition is not None and not condition(arguments):
            allowed = [{}]
        for order in allowed:
            yield order, ()
        values = [n for n in named if isinstance(arguments[n], fx.Node)]
        for a, b in combinations(values[:4], 2):
            order = {a: b, b: a}
            if order not in allowed:
                message = f"`{a}` and `{b}` of `%{node.name}` are the other way round"
                reason = self._no_commuting(operator, spelling)
                found = self._at_callee("order", f"{message}; {reason}", pattern, node)
                yield order, (found,)

    def _no_commuting(self, operator: OperatorPattern, spelling: Spelling) -> str:
        if operator.rows[spelling.row].commutes:
            return f"`{operator}` does not commute with these arguments"
        return f"`{operator}` does not commute"

    def _extra_arguments(
        self,
        pattern: fx.Node,
        node: fx.Node,
        read: Mapping[str, Any],
        arguments: Mapping[str, Any],
    ) -> Iterator[Mismatch]:
        """Arguments that the rule leaves out and that are not at their defaults."""
        if ... in pattern.args:
            return
        operator: OperatorPattern = pattern.target
        canonical = operator.spellings[0].canonical
        for parameter in canonical.parameters:
            name, value = parameter.name, arguments.get(parameter.name)
            if name in read or name not in arguments:
                continue
            if not literals_equal(value, parameter.default):
                default = quoted(parameter.default)
                message = (
                    f"`{name}` is {quoted(value)}; the rule does not mention it, so it "
                    f"must be at its default, {default}"
                )
                sign = "" if isinstance(value, fx.Node) else "$"
                hint = f"`..` takes any other argument, `{name}={sign}{name}` this one"
                found = self._at_callee("argument", message, pattern, node)
                yield attrs.evolve(found, hint=hint)

    def _at_callee(
        self, kind: Kind, message: str, pattern: fx.Node, node: fx.Node
    ) -> Mismatch:
        return Mismatch(kind, message, callee_span(self.rule, pattern), (node,))

    def _other_operator(
        self, pattern: fx.Node, node: fx.Node, env: Env
    ) -> Iterator[Fault]:
        operator: OperatorPattern = pattern.target
        related = self._dialect(operator, node)
        if related is None:
            wanted = operator_text(operator)
            message = f"{wanted} is expected, the graph has {called(node)}"
            found = self._at_callee("operator", message, pattern, node)
        else:
            found = self._at_callee("dialect", related.message, pattern, node)
            found = attrs.evolve(found, hint=related.hint)
        skipped = steps_below(pattern, env) - 1
        yield Fault((found,), [], {**env, pattern: node}, skipped)
        if related is None or related.relation not in ("decomposed", "composite"):
            args = list(node.args)
            yield self._same_operands(pattern, node, args, found, env)
            if operator.rows[0].commutes and len(args) > 1:
                args[:2] = reversed(args[:2])
                yield self._same_operands(pattern, node, args, found, env)

    def _dialect(self, operator: OperatorPattern, node: fx.Node) -> Dialect | None:
        # The text about a module has its name in it.
        key = operator, node if node.op == "call_module" else call_key(node)
        if key not in self._dialects:
            self._dialects[key] = dialect(operator, node)
        return self._dialects[key]

    def _same_operands(
        self,
        pattern: fx.Node,
        node: fx.Node,
        args: Sequence[Any],
        found: Mismatch,
        env: Env,
    ) -> Fault:
        """Another operator whose arguments are read as if it were the right one."""
        goals: list[PlacedGoal] = []
        skipped = 0
        given = {**dict(enumerate(args)), **node.kwargs}
        positional = pattern.target.canonical(0).positional
        positions = {p.name: i for i, p in enumerate(positional)}
        for key, operand in operands(pattern).items():
            position = key if key in given else positions.get(str(key))
            if position in given:
                place = Place(pattern, key, node)
                goals.append((operand, given[position], place))
            elif getattr(operand, "target", None) is not markers.maybe:
                skipped += max(1, steps_below(operand, env))
        return Fault((found,), goals, {**env, pattern: node}, skipped)

    def _extra_call(
        self, pattern: fx.Node, node: fx.Node, env: Env, place: Place
    ) -> Iterator[Fault]:
        """The call that is wanted is there, behind another one."""
        for operand in node.all_input_nodes:
            if pattern.target.covers(operand):
                between = f"`{pattern.target}` and `%{place.reader}`"
                message = f"{called(node)} stands between {between}"
                span = place.span(self.rule)
                found = Mismatch("between", message, span, (node, operand))
                yield Fault((found,), [(pattern, operand, place)], env)

    def _missing_call(
        self, pattern: fx.Node, node: fx.Node, env: Env, place: Place
    ) -> Iterator[Fault]:
        """What is read is there, without the call that should read it."""
        for operand in pattern.args[:2]:
            if is_call(operand) and operand.target.covers(node):
                message = f"`{pattern.target}` is missing: the graph has {called(node)}"
                found = self._at_callee("missing", message, pattern, node)
                goals = [(operand, node, Place(pattern, None, place.reader))]
                skipped = steps_below(pattern, env) - 1 - steps_below(operand, env)
                yield Fault((found,), goals, env, max(0, skipped))
