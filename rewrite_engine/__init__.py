"""Declarative pattern rewriting for torch.fx and torch.export graphs.

Importing the package imports neither torch nor its own stages: the functions of
`engine` import what they run.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rewrite_engine.errors import Diagnostic, GraphError, RewriteError, RuleError

if TYPE_CHECKING:
    from rewrite_engine import engine
    from rewrite_engine.batch import apply_many
    from rewrite_engine.engine import apply, explain, find, load, loads, verify
    from rewrite_engine.integrations.dynamo import backend
    from rewrite_engine.ruleset import RuleSet

__all__ = [
    "Diagnostic",
    "GraphError",
    "RewriteError",
    "RuleError",
    "RuleSet",
    "apply",
    "apply_many",
    "backend",
    "engine",
    "explain",
    "find",
    "load",
    "loads",
    "verify",
]

_HOMES = {
    "RuleSet": "rewrite_engine.ruleset",
    "apply": "rewrite_engine.engine",
    "apply_many": "rewrite_engine.batch",
    "backend": "rewrite_engine.integrations.dynamo",
    "explain": "rewrite_engine.engine",
    "find": "rewrite_engine.engine",
    "load": "rewrite_engine.engine",
    "loads": "rewrite_engine.engine",
    "verify": "rewrite_engine.engine",
}


def __getattr__(name: str) -> Any:
    if name == "engine":
        return import_module("rewrite_engine.engine")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rewrite_engine' has no attribute '{name}'")
