"""Table of contents: what can be done with rules, in the order in which it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import fx

from rewrite_engine.collector import paused_gc
from rewrite_engine.dsl import loader
from rewrite_engine.dsl.catalog import Catalog, default_catalog
from rewrite_engine.hooks import Hook, Hooks, hook_signatures
from rewrite_engine.matching.match import Match
from rewrite_engine.matching.matcher import Judge
from rewrite_engine.module_forms import ModuleClass, granted_signature
from rewrite_engine.rewriting import run
from rewrite_engine.rewriting.driver import Limits
from rewrite_engine.rewriting.run import Model, Recompile, Result
from rewrite_engine.rule_files import rule_file
from rewrite_engine.ruleset import RuleSet

if TYPE_CHECKING:
    from rewrite_engine.explaining.explanation import Explanation
    from rewrite_engine.extracting.pair import extract_pair
    from rewrite_engine.extracting.selection import extract
    from rewrite_engine.verification.report import Verification
    from rewrite_engine.verification.verify import verify

__all__ = [
    "Explanation",
    "Hook",
    "Hooks",
    "Limits",
    "Match",
    "Model",
    "ModuleClass",
    "Modules",
    "Result",
    "Verification",
    "apply",
    "explain",
    "extract",
    "extract_pair",
    "find",
    "load",
    "loads",
    "verify",
]

# What a program that only applies rules never needs is imported when it is asked for.
_HOMES = {
    "Explanation": "rewrite_engine.explaining.explanation",
    "Verification": "rewrite_engine.verification.report",
    "extract": "rewrite_engine.extracting.selection",
    "extract_pair": "rewrite_engine.extracting.pair",
    "verify": "rewrite_engine.verification.verify",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rewrite_engine.engine' has no attribute '{name}'")


Modules = Mapping[str, ModuleClass]
"""Module classes under the dotted names (`"acme.Linear"`) that rule files give them."""


@paused_gc()
def load(
    source: str | Path, *, modules: Modules | None = None, hooks: Hooks | None = None
) -> RuleSet:
    """A rule set from a shipped library (`"qat_fuse"`), from an installed pack
    (`"acme/fusions"`), or from the path of a file.

    `modules` and `hooks` grant classes and functions of the caller's to the file, which
    imports nothing itself.

    Raises: RuleError with every finding; FileNotFoundError.
    """
    path = rule_file(source)
    return _checked(
        RuleSet(path.stem, loader.load_file(path, _catalog(modules, hooks)))
    )


@paused_gc()
def loads(
    text: str,
    name: str = "<text>",
    *,
    modules: Modules | None = None,
    hooks: Hooks | None = None,
) -> RuleSet:
    """A rule set from text; `name` is what messages call it.

    Raises: RuleError with every finding.
    """
    if not isinstance(text, str):
        raise TypeError(f"expected the text of rules, got {type(text).__name__}")
    return _checked(
        RuleSet(name, loader.load_text(text, name, _catalog(modules, hooks)))
    )


def _catalog(modules: Modules | None, hooks: Hooks | None) -> Catalog:
    known = default_catalog()
    if not modules and not hooks:
        return known
    granted = {
        path: [granted_signature(path, each, known)]
        for path, each in (modules or {}).items()
    }
    return Catalog(granted | hook_signatures(hooks or {}))


def _rule_set(rules: object) -> RuleSet:
    if isinstance(rules, RuleSet):
        return rules
    got = type(rules).__name__
    raise TypeError(f"expected a RuleSet, as `load` and `loads` give, got {got}")


def _checked(rules: RuleSet) -> RuleSet:
    rules.check()
    return rules


def apply(
    model: Model,
    rules: RuleSet,
    *,
    recurse: bool = False,
    guard: Judge | None = None,
    limits: Limits | None = None,
    record: bool = False,
    recompile: Recompile = "eager",
) -> Result:
    """Rewrite a graph in place: everything that matches and is safe, or nothing.

    `recurse` also rewrites the graphs of submodules, such as the branches of `cond`.
    `guard` is asked about every match and gives the reason to refuse it, or None; what
    it refuses is reported like the refusals of the rules. `record` keeps what
    `result.report.to_html()` shows. With `recompile="lazy"` a changed module gets its
    code when that is first needed: when it is called, copied, or its code is read.

    Raises: RewriteError if the rules run past their `limits`. Whatever is raised, the
    model is as it was before.
    """
    applied: Callable[..., Result] = RuleSet.apply
    if record:
        from rewrite_engine.reporting.recorded import recorded as applied
    return applied(
        _rule_set(rules),
        model,
        recurse=recurse,
        guard=guard,
        limits=limits,
        recompile=recompile,
    )


def find(model: Model, rules: RuleSet, *, recurse: bool = False) -> tuple[Match, ...]:
    """Every match that `apply` could rewrite in the graph as it is; changes nothing."""
    return run.find(_rule_set(rules).program, model, recurse=recurse)


def explain(
    model: Model,
    rules: RuleSet,
    *,
    node: str | fx.Node | None = None,
    rule: str | None = None,
    recurse: bool = False,
) -> Explanation:
    """Why rules did not rewrite what they might have; changes nothing.

    Of every rule, or of the one called `rule`: the places where it came nearest, the
    first step that failed there, and what was refused. `node` asks about one place;
    `recurse` looks into the graphs of submodules, too (`node="true_graph_0.mul"`).

    Raises: KeyError, if there is no such rule; GraphError, if there is no such node.
    """
    rules = _rule_set(rules)
    asked = rules.rules if rule is None else (rules[rule],)
    from rewrite_engine.explaining import explain as explaining

    return explaining.explain(rules.program, asked, model, node, recurse=recurse)
