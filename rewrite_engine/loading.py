"""From a rule file or a text to a rule set, with what the caller grants to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rewrite_engine.dsl import loader
from rewrite_engine.dsl.catalog import Catalog, default_catalog
from rewrite_engine.dsl.checked import RuleFile
from rewrite_engine.hooks import Hooks, hook_signatures
from rewrite_engine.module_forms import ModuleClass, granted_signature
from rewrite_engine.rule_files import rule_file
from rewrite_engine.ruleset import RuleSet

Modules = Mapping[str, ModuleClass]
"""Module classes under the dotted names (`"acme.Linear"`) that rule files give them."""


def from_file(
    source: str | Path, modules: Modules | None, hooks: Hooks | None
) -> RuleSet:
    """See `engine.load`."""
    path = rule_file(source)
    return _checked(path.stem, loader.load_file(path, _catalog(modules, hooks)))


def from_text(
    text: str, name: str, modules: Modules | None, hooks: Hooks | None
) -> RuleSet:
    """See `engine.loads`."""
    if not isinstance(text, str):
        raise TypeError(f"expected the text of rules, got {type(text).__name__}")
    return _checked(name, loader.load_text(text, name, _catalog(modules, hooks)))


def _catalog(modules: Modules | None, hooks: Hooks | None) -> Catalog:
    known = default_catalog()
    if not modules and not hooks:
        return known
    granted = {
        path: [granted_signature(path, each, known)]
        for path, each in (modules or {}).items()
    }
    return Catalog(granted | hook_signatures(hooks or {}))


def _checked(name: str, file: RuleFile) -> RuleSet:
    rules = RuleSet(name, file)
    rules.check()
    return rules
