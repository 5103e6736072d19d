"""Checks of checked rules that can stand alone: structure, duplicates, limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from rewrite_engine.dsl.checked import (
    Apply,
    Build,
    Captured,
    Chain,
    Create,
    Either,
    MakeList,
    Others,
    Reemit,
    Reference,
    Rule,
    RuleFile,
    Term,
    Use,
    Value,
    Variable,
)
from rewrite_engine.dsl.duplicates import duplicates
from rewrite_engine.dsl.list_literals import lists_as_numbers
from rewrite_engine.dsl.values import values_in
from rewrite_engine.dsl.walk import terms_in
from rewrite_engine.errors import Diagnostic, Note

MAX_BUILDS: Final = 256
"""Operators of one right side."""

MAX_RULES: Final = 10_000
"""Rules that one load makes available."""


def validate_rule(rule: Rule, *, check_left: bool = True) -> Iterator[Diagnostic]:
    """Faults in the structure of one rule.

    `check_left` is off where terms are missing because they were wrong.
    """
    yield from _too_large(rule)
    yield from _read_although_replaced(rule)
    yield from lists_as_numbers(rule)
    if check_left:
        yield from _unreplaced_roots(rule)
        yield from _empty_left(rule)
        yield from _disconnected_roots(rule)


def validate_rules(file: RuleFile) -> Iterator[Diagnostic]:
    """Faults in the rules that run together; each of them is right."""
    phases = file.rules_together()
    yield from dict.fromkeys(d for rules in phases for d in duplicates(rules))


def _unreplaced_roots(rule: Rule) -> Iterator[Diagnostic]:
    # A root that the right side binds again (E204) was to be replaced.
    named = {create.name for create in rule.creates if create.kind == "node"}
    for binding in rule.bindings:
        name = binding.name
        if name in rule.roots and name not in named | rule.erase | rule.keep:
            message = f"the right side does not say what `{name}` becomes"
            hint = f"write `{name}' = …`, or `keep {name}` if it stays"
            notes = (Note("no other statement contains it, so its users need one"),)
            yield Diagnostic("E501", message, binding.span, rule.source, notes, hint)


def _too_large(rule: Rule) -> Iterator[Diagnostic]:
    if sum(map(_builds, rule.creates)) > MAX_BUILDS:
        message = f"this right side has more than {MAX_BUILDS} operators"
        yield Diagnostic("E507", message, rule.name_span, rule.source)


def _read_although_replaced(rule: Rule) -> Iterator[Diagnostic]:
    replaced = {create.name for create in rule.creates if create.replaces}
    values = (c.value for c in rule.creates if c.kind == "node")
    for use in (used for value in values for used in _surely_used(value)):
        if isinstance(use, Use) and use.name in replaced and _is_call(rule, use.name):
            message = f"the right side reads `{use.name}`, which it replaces"
            hint = "build what it computed again: its operator, or `N(x)` of a capture"
            yield Diagnostic("E513", message, use.span, rule.source, hint=hint)


def _is_call(rule: Rule, name: str) -> bool:
    """Whether a name is that of a matched call."""
    captured = (
        isinstance(term, Captured) and term.name == name
        for binding in rule.bindings
        for term in terms_in(binding.term)
    )
    return any(binding.name == name for binding in rule.bindings) or any(captured)


def _surely_used(value: Value) -> Iterator[Value]:
    """A value and every value inside it, whatever is chosen."""
    yield value
    match value:
        case Build(_, arguments):
            for argument in arguments:
                yield from _surely_used(argument.value)
        case MakeList(items) | Reemit(_, items):
            for item in items:
                yield from _surely_used(item)


def _builds(create: Create) -> int:
    return sum(isinstance(v, Build | Reemit) for v in values_in(create.value))


def _empty_left(rule: Rule) -> Iterator[Diagnostic]:
    if not rule.bindings:
        message = f"the left side of `{rule.name}` matches nothing"
        yield Diagnostic("E502", message, rule.name_span, rule.source)
    for binding in rule.bindings:
        if not any(isinstance(t, Apply | Reference) for t in terms_in(binding.term)):
            message = f"`{binding.name}` matches no call"
            yield Diagnostic("E502", message, binding.span, rule.source)
        elif binding.name in rule.roots and not _is_anchored(binding.term):
            message = f"every call of `{binding.name}` may be absent"
            notes = (Note("then there is no node that could be replaced"),)
            yield Diagnostic("E502", message, binding.span, rule.source, notes)


def _is_anchored(term: Term) -> bool:
    """Whether a term matches a call of its own in every case."""
    match term:
        case Apply(optional=False) | Reference():
            return True
        case Apply(_, operands):
            return any(o.key == 0 and _is_anchored(o.value) for o in operands)
        case Either(options):
            return all(map(_is_anchored, options))
        case Captured(_, value):
            return _is_anchored(value)
        case Chain(_, _, inner, least):
            return least > 0 or _is_anchored(inner)
    return False


def _disconnected_roots(rule: Rule) -> Iterator[Diagnostic]:
    if len(rule.roots) < 2:
        return
    reach = _reach(rule)
    known = reach[rule.roots[0]]
    spans = {binding.name: binding.span for binding in rule.bindings}
    for root in rule.roots[1:]:
        if not reach[root] & known:
            message = f"`{root}` shares no node with the statements before it"
            hint = "make two rules, or name a node that both contain"
            yield Diagnostic("E503", message, spans[root], rule.source, hint=hint)
        known |= reach[root]


def _reach(rule: Rule) -> Mapping[str, frozenset[str]]:
    """The graph values that each root contains, directly or in what it refers to."""
    terms = {binding.name: binding.term for binding in rule.bindings}
    found: dict[str, frozenset[str]] = {}
    for root in rule.roots:
        seen, pending = {root}, [root]
        while pending:
            term = terms[pending.pop()]
            fresh = _references(term) - seen
            seen |= fresh | _values(term)
            pending.extend(fresh)
        found[root] = frozenset(seen)
    return found


def _values(term: Term) -> set[str]:
    return {t.name for t in _above_chains(term) if isinstance(t, Variable | Others)}


def _references(term: Term) -> set[str]:
    return {t.name for t in _above_chains(term) if isinstance(t, Reference)}


def _above_chains(term: Term) -> Iterator[Term]:
    """The terms whose distance from the root is known: not those below a chain."""
    hidden = {
        id(inner)
        for chain in terms_in(term)
        if isinstance(chain, Chain)
        for part in (chain.link, chain.inner)
        for inner in terms_in(part)
    }
    return (part for part in terms_in(term) if id(part) not in hidden)
