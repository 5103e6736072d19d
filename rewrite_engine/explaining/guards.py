"""The guards of a rule, each with the values that it was asked about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from torch import fx

from rewrite_engine.explaining.explanation import Mismatch
from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.lowering.guards import Condition
from rewrite_engine.lowering.patterns import placeholders_of
from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.lowering.scope import Scope, Unknown, UnknownType
from rewrite_engine.matching.reference import Env, Reference
from rewrite_engine.value_text import Symbols, dtype_text, literal_text


def judge_guards(
    rule: CompiledRule, reference: Reference, env: Env
) -> tuple[int, list[Mismatch]]:
    """How many guards hold, and what is wrong with those that do not.

    A guard that reads a name which was not reached cannot be asked, and is no step.
    """
    scope = reference.scope(env)
    reached = _reached(rule, env)
    held, failed = 0, []
    for node in rule.matcher_graph.nodes:
        if "guard" not in node.meta:
            continue
        guard: Condition = node.meta["guard"]
        if not guard.reads <= reached:
            continue
        failure = _failure(rule, guard, scope)
        if failure is None:
            held += 1
            reached |= guard.binds
        else:
            reason, hint = failure
            values = tuple(dict.fromkeys(_nodes(rule, guard, scope, env)))
            failed.append(Mismatch("guard", reason, node.meta["span"], values, hint))
    return held, failed


def _reached(rule: CompiledRule, env: Env) -> set[str]:
    """The names that stand for something, if only for what is absent."""
    known = (n for n in rule.matcher_graph.nodes if n in env)
    names = {name for node in known for name in node.meta.get("names", ())}
    return names | set(rule.family_literals)


_FOR_ABSENT: Final = "`not $k or …`, `not b or …`: holds for what is absent"
_FOR_TYPES: Final = (
    "`FakeTensorProp(gm, FakeTensorMode(allow_non_fake_inputs=True)).propagate(x)`"
    " records types, as export"
)


def _failure(
    rule: CompiledRule, guard: Condition, scope: Scope
) -> tuple[str, str | None] | None:
    """Why a guard does not hold, and what can be done about it; None if it does."""
    try:
        if guard.evaluate(scope):
            return None
    except Unknown as unknown:
        absent = "; ".join(_absent(rule, guard, scope))
        for_types = _FOR_TYPES if isinstance(unknown, UnknownType) else None
        why = f"`{guard.text}` cannot be decided: {absent or unknown}"
        return why, _FOR_ABSENT if absent else for_types
    values = "; ".join(_values(guard, scope))
    does_not_hold = f"`{guard.text}` does not hold" + (f": {values}" if values else "")
    if guard.reason:
        does_not_hold = f"{guard.reason}: {does_not_hold}"
    return does_not_hold, None


def _absent(rule: CompiledRule, guard: Condition, scope: Scope) -> Iterator[str]:
    """The names of a guard that this match does not bind: those of an option that was
    not there, or of another alternative.
    """
    inputs = placeholders_of(rule.matcher_graph)
    for name in sorted(guard.reads):
        if scope.value(name) is None:
            is_literal = name in inputs and inputs[name].meta["role"] == "literal"
            yield f"`{'$' if is_literal else ''}{name}` is absent"


def _values(guard: Condition, scope: Scope) -> Iterator[str]:
    for name in sorted(guard.reads):
        yield value_text(name, scope.value(name), scope.facts)


def _nodes(
    rule: CompiledRule, guard: Condition, scope: Scope, env: Env
) -> Iterator[fx.Node]:
    """The values that a guard reads, and the calls that hold the literals it reads."""
    inputs = placeholders_of(rule.matcher_graph)
    for name in sorted(guard.reads):
        value = scope.value(name)
        pattern = inputs.get(name)
        if isinstance(value, fx.Node):
            yield value
        elif value is not None and pattern is not None:
            readers = (env.get(user) for user in pattern.users)
            yield from (call for call in readers if isinstance(call, fx.Node))


def value_text(name: str, value: Any, facts: GraphFacts) -> str:
    """`x is %relu: f16[2, 8], cpu`, `$k is 2`, `b is absent`."""
    if value is None:
        return f"`{name}` is absent"
    if not isinstance(value, fx.Node):
        shown = literal_text(value, lambda node: f"%{node.name}", Symbols())
        return f"`${name}` is {shown}"
    return f"`{name}` is %{value.name}{_type_text(value, facts)}"


def _type_text(node: fx.Node, facts: GraphFacts) -> str:
    known = facts.type_of(node)
    if known is None:
        return ", whose type is not recorded"
    sizes = ", ".join(map(str, known.shape))
    device = "" if known.device.type == "cpu" else f" on {known.device}"
    constant = " (constant)" if facts.constant(node) is not None else ""
    return f": {dtype_text(known.dtype)}[{sizes}]{device}{constant}"
