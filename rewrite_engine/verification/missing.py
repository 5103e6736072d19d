"""What to say of rules and instances that cannot be run."""

from __future__ import annotations

from collections.abc import Sequence

from rewrite_engine.dsl.checked import Rule, Variable
from rewrite_engine.dsl.walk import terms_in
from rewrite_engine.errors import Diagnostic, Note
from rewrite_engine.lowering.instances import Instance
from rewrite_engine.source import Span
from rewrite_engine.verification.subject import Subject


def missing_inputs(
    subject: Subject, missing: Sequence[tuple[Instance, str]]
) -> Diagnostic:
    """Which types would have to be known to run instances; each with a reason."""
    rule = subject.rule
    instance, reason = missing[0]
    untyped = [name for name in _inputs(instance) if not _is_typed(subject, name)]
    paths = (spelling.signature.path for spelling in instance.spellings.values())
    calls = ", ".join(dict.fromkeys(paths))
    message = f"no inputs were found with which `{rule.name}` fires on {calls}"
    notes = [Note(f"the last attempt: {reason}")]
    if untyped:
        listed = ", ".join(f"`{name}`" for name in untyped)
        notes.insert(0, Note(f"nothing says what the type of {listed} is"))
    if len(missing) > 1:
        notes.append(Note(f"nor on {len(missing) - 1} other combinations"))
    hint = "add a test that it matches, or guards such as `where x: f32[$N, $C]`"
    span = _span(subject, untyped)
    return Diagnostic("W601", message, span, rule.source, tuple(notes), hint)


def no_instance(rule: Rule) -> Diagnostic:
    """That a rule matches nothing at all."""
    message = f"`{rule.name}` matches nothing: its guards exclude every instance of it"
    return Diagnostic("W601", message, rule.name_span, rule.source)


def _inputs(instance: Instance) -> list[str]:
    return [str(n.target) for n in instance.left.find_nodes(op="placeholder")]


def _is_typed(subject: Subject, name: str) -> bool:
    if subject.role(name) != "value" or name in subject.types:
        return True
    return any(name in example.types for example in subject.examples)


def _span(subject: Subject, names: list[str]) -> Span:
    """Where the first of the names stands, or the rule's own name."""
    rule = subject.rule
    for binding in rule.bindings:
        for term in terms_in(binding.term):
            if isinstance(term, Variable) and term.name in names:
                return term.span
    return rule.name_span
