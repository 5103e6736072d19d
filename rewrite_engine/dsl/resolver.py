"""One rule: its syntax with every name resolved, every call bound to a schema."""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

import attrs

from rewrite_engine.dsl import nodes, validator
from rewrite_engine.dsl.checked import (
    Binding,
    FamilyUse,
    Guard,
    Rule,
    Term,
)
from rewrite_engine.dsl.conditions import check_condition, dimensions_bound
from rewrite_engine.dsl.environment import Environment
from rewrite_engine.dsl.expression_text import print_expr
from rewrite_engine.dsl.left_names import Frame, LeftNames
from rewrite_engine.dsl.operators import Operators
from rewrite_engine.dsl.presence import Presence, presence
from rewrite_engine.dsl.right_side import RightSide, resolve_right
from rewrite_engine.dsl.scopes import Definition, Scope
from rewrite_engine.dsl.tensors import tensor_names
from rewrite_engine.dsl.terms import Left
from rewrite_engine.dsl.values import Right
from rewrite_engine.dsl.walk import names_read, references, walk
from rewrite_engine.errors import Note
from rewrite_engine.source import Span


def resolve_rule(definition: Definition, operators: Operators) -> Rule | None:
    """The checked rule of a definition; None if its left side makes no sense.

    What is wrong is reported to the definition's scope; a rule returned beside reports
    of errors is only good for further checks.
    """
    item, scope = definition.item, definition.scope
    assert isinstance(item, nodes.RuleDef)
    left = _LeftSide(item, scope, operators).resolve()
    if left is None:
        return None
    tensors = tensor_names(left.bindings, left.guards)
    env = Environment(scope, dict(left.names.entries), left.presence, tensors=tensors)
    scope.names[item.span] = env.entries
    env.slot = left.family.slot if left.family else None
    rows = left.family.operators if left.family else ()
    right = Right(operators, env, rows, left.names.captured)
    resolved = resolve_right(right, item, tuple(guard.expr for guard in left.guards))
    for entry in env.entries.values():
        check_name(scope, entry.name, entry.span)
    rule = _assemble(item, scope, left, resolved)
    for found in validator.validate_rule(rule, check_left=left.is_clean):
        scope.findings.add(found)
    return rule


def check_name(scope: Scope, name: str, span: Span) -> None:
    """Report a name that generated Python code could not hold."""
    if keyword.iskeyword(name):
        message = f"`{name}` is a word of Python and cannot name anything"
        scope.report("E209", message, span)


def check_duplicates(
    scope: Scope, parameters: Iterable[nodes.Name | nodes.LiteralName]
) -> None:
    """Report a parameter that is named twice, with or without a dollar sign."""
    first: dict[str, Span] = {}
    for parameter in parameters:
        earlier = first.setdefault(parameter.id, parameter.span)
        if earlier is not parameter.span:
            notes = (Note("first named here", earlier),)
            message = f"`{parameter.id}` is named twice"
            scope.report("E204", message, parameter.span, notes=notes)


@attrs.frozen
class _Left:
    """What the left side of a rule comes to. `is_clean`: nothing was reported."""

    names: LeftNames
    family: FamilyUse | None
    bindings: tuple[Binding, ...]
    roots: tuple[str, ...]
    guards: tuple[Guard, ...]
    presence: Presence
    is_clean: bool


@attrs.define(eq=False)
class _LeftSide:
    rule: nodes.RuleDef
    scope: Scope
    operators: Operators

    def resolve(self) -> _Left | None:
        left = self._left()
        frame = Frame(self.scope)
        binds = [s for s in self.rule.left if isinstance(s, nodes.Bind)]
        for bind in binds:
            self._declare_statement(left, bind)
        bindings = tuple(
            Binding(bind.name, left.term(bind.value, frame), span=bind.span)
            for bind in binds
        )
        referred = [references(binding.term) for binding in bindings]
        ordered = self._ordered(bindings, referred)
        if ordered is None:
            return None
        inner = frozenset[str]().union(*referred)
        roots = tuple(b.name for b in bindings if b.name not in inner)
        present = presence(ordered, roots)
        guards = self._guards(left, present)
        is_clean = not self.scope.findings.any_within(
            self.scope.source, Span(self.rule.span.start, _end_of_left(self.rule))
        )
        return _Left(
            left.names, left.family, bindings, roots, guards, present, is_clean
        )

    def _left(self) -> Left:
        """What resolves this left side; a wrong family has no rows."""
        use = self.rule.family
        names = LeftNames(self.rule.span.of(self.scope.source.text))
        left = Left(self.scope, self.operators, names)
        if use is None:
            return left
        check_duplicates(self.scope, use.parameters)
        slot = use.parameters[0].id
        found = self.operators.family_use(self.scope, use)
        left.family = found or FamilyUse(slot, ())
        literals = (p for p in use.parameters if isinstance(p, nodes.LiteralName))
        for parameter in literals:
            left.names.declare(self.scope, parameter.id, "literal", parameter.span)
        self._check_used(use)
        return left

    def _check_used(self, use: nodes.ForFamily) -> None:
        statements = (*self.rule.left, *self.rule.right)
        called = {n.callee.id for n in walk(statements) if isinstance(n, nodes.Call)}
        used = called | names_read(statements)
        for parameter in use.parameters:
            if parameter.id not in used and not parameter.id.startswith("_"):
                report_unused(self.scope, parameter)

    def _declare_statement(self, left: Left, bind: nodes.Bind) -> None:
        span = bind.span.first(len(bind.name))
        earlier = left.names.entries.get(bind.name)
        if earlier is not None and earlier.kind == "call":
            message = f"`{bind.name}` is bound twice"
            self.scope.report("E204", message, span, notes=(earlier.note(),))
        elif left.family is not None and bind.name == left.family.slot:
            message = f"`{bind.name}` is the operator of the rule's family"
            self.scope.report("E204", message, span)
        left.names.declare(self.scope, bind.name, "call", span)

    def _ordered(
        self, bindings: tuple[Binding, ...], referred: Sequence[frozenset[str]]
    ) -> tuple[Binding, ...] | None:
        """Bindings after those that they refer to; None: they form a cycle."""
        if not any(referred):
            return bindings
        by_name = {binding.name: binding for binding in bindings}
        graph = {b.name: names for b, names in zip(bindings, referred, strict=True)}
        try:
            order = tuple(TopologicalSorter(graph).static_order())
        except CycleError as error:
            cycle: list[str] = error.args[1]
            first = min((by_name[name] for name in cycle), key=lambda b: b.span.start)
            chain = " -> ".join(f"`{name}`" for name in cycle)
            message = f"these statements contain each other: {chain}"
            self.scope.report("E511", message, first.span)
            return None
        return tuple(by_name[name] for name in order)

    # --- guards ---

    def _guards(self, left: Left, present: Presence) -> tuple[Guard, ...]:
        wheres = [s for s in self.rule.left if isinstance(s, nodes.Where)]
        for where in wheres:
            for name, span in dimensions_bound(where.guards):
                left.names.declare(self.scope, name, "literal", span)
        env = Environment(self.scope, left.names.entries, present, is_guard=True)
        env.slot = left.family.slot if left.family else None
        claim = self.rule.precision
        if claim is not None and claim.when is not None:
            check_condition(claim.when, env)
        return tuple(
            self._guard(guard, where, left, env)
            for where in wheres
            for guard in where.guards
        )

    def _guard(
        self, expr: nodes.Expr, where: nodes.Where, left: Left, env: Environment
    ) -> Guard:
        check_condition(expr, env)
        patterns = self._patterns(expr, left)
        text = print_expr(expr)
        return Guard(expr, text, where.reason, patterns, span=expr.span)

    def _patterns(self, expr: nodes.Expr, left: Left) -> Mapping[Span, Term]:
        found: dict[Span, Term] = {}
        with left.names.forgotten():  # a test binds no names
            for current in walk(expr):
                if isinstance(current, nodes.Matches):
                    found[current.span] = left.term(current.pattern, Frame(self.scope))
        return found


def report_unused(scope: Scope, parameter: nodes.Name | nodes.LiteralName) -> None:
    """Warn of a parameter that nothing reads."""
    sign = "$" if isinstance(parameter, nodes.LiteralName) else ""
    hint = f"`{sign}_{parameter.id}` says that this is meant"
    message = f"`{sign}{parameter.id}` is never used"
    scope.report("W201", message, parameter.span, hint=hint)


def _end_of_left(rule: nodes.RuleDef) -> int:
    return max(statement.span.end for statement in rule.left)


def _assemble(item: nodes.RuleDef, scope: Scope, left: _Left, right: RightSide) -> Rule:
    return Rule(
        item.name,
        scope.source,
        item.span,
        item.name_span,
        item.doc,
        left.family,
        left.bindings,
        left.roots,
        left.guards,
        right.creates,
        right.meta,
        right.keep,
        right.erase,
        left.presence.optional,
        item.strategy == "once",
        item.benefit,
        item.precision.tolerance if item.precision else None,
        item.precision.when if item.precision else None,
    )
