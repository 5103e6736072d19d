"""Hooks: functions of the caller's that a file may name, and must say that it does."""

from __future__ import annotations

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.scopes import Definition, Scope, spans_of_names


def use_hooks(use: nodes.UseHooks, scope: Scope) -> None:
    """Give the names of granted hooks a meaning; report those that are not granted."""
    spans = spans_of_names(scope.source, use.span)
    for name in use.names:
        path, span = f"{use.module}.{name}", spans.get(name, use.span)
        if not any(s.kind == "hook" for s in scope.catalog.lookup(path)):
            message = f"the caller grants no hook `{path}`"
            hint = f'`load(…, hooks={{"{use.module}": {{"{name}": function}}}})` does'
            scope.report("E212", message, span, hint=hint)
            continue
        spelling = nodes.Name(path, span=span)
        scope.define(Definition(nodes.OpDef(name, (spelling,), span=use.span), scope))
