"""Hooks: functions of the caller's that a file may name, and must say that it does."""

from __future__ import annotations

import re
from typing import Final

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.catalog import AssumingCatalog
from rewrite_engine.dsl.scopes import Definition, Scope, spans_of_names

_KEYWORD: Final = re.compile(r"(\w+)\s*=(?![=>])")


def use_hooks(use: nodes.UseHooks, scope: Scope) -> None:
    """Give the names of granted hooks a meaning; report those that are not granted."""
    spans = spans_of_names(scope.source, use.span)
    if isinstance(scope.catalog, AssumingCatalog):
        keywords = dict.fromkeys(_KEYWORD.findall(scope.source.text))
        for name in use.names:
            scope.catalog.assume(f"{use.module}.{name}", keywords)
    for name in use.names:
        path, span = f"{use.module}.{name}", spans.get(name, use.span)
        if not any(s.kind == "hook" for s in scope.catalog.lookup(path)):
            message = f"the caller grants no hook `{path}`"
            hint = f'`load(…, hooks={{"{use.module}": {{"{name}": function}}}})` does'
            scope.report("E212", message, span, hint=hint)
            continue
        spelling = nodes.Name(path, span=span)
        scope.define(Definition(nodes.OpDef(name, (spelling,), span=use.span), scope))
