"""The pipeline of a file: which of its rules run, in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.checked import Phase
from rewrite_engine.dsl.scopes import Scope, spans_of_names
from rewrite_engine.errors import Note


def resolve_pipeline(
    scope: Scope, pipelines: Sequence[nodes.PipelineDef]
) -> tuple[Phase, ...]:
    """The phases of the one pipeline that a file may have; none if it has none.

    What is wrong is reported: a second pipeline, a rule that there is not.
    """
    for second in pipelines[1:]:
        notes = (Note("the first one is here", pipelines[0].span),)
        message = "a file has one pipeline"
        scope.report("E204", message, second.span, notes=notes)
    if not pipelines:
        return ()
    return tuple(_phase(scope, phase) for phase in pipelines[0].phases)


def _phase(scope: Scope, phase: nodes.Phase) -> Phase:
    names = (rule for name in phase.rules for rule in _rules(scope, phase, name))
    return Phase(phase.strategy == "once", tuple(dict.fromkeys(names)))


def _rules(scope: Scope, phase: nodes.Phase, name: str) -> Iterator[str]:
    if name.endswith(".*"):
        found = [
            rule
            for rule, definition in scope.rules.items()
            if PurePath(definition.scope.source.name).stem == name[:-2]
        ]
    else:
        found = [name] if name in scope.rules else []
    if not found:
        span = spans_of_names(scope.source, phase.span).get(name, phase.span)
        hint = scope.did_you_mean(name, scope.rules)
        scope.report("E202", f"there is no rule `{name}`", span, hint=hint)
    yield from found
