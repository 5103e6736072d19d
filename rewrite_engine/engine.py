"""Table of contents: what can be done with rules, in the order in which it is done.

Each function imports the stages that it runs: importing this module takes no time, and
a program that only loads rules never imports what rewrites.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewrite_engine.collector import paused_gc

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import fx

    from rewrite_engine.explaining.explanation import Explanation
    from rewrite_engine.extracting.pair import extract_pair
    from rewrite_engine.extracting.selection import extract
    from rewrite_engine.graph_text import Model
    from rewrite_engine.hooks import Hook, Hooks
    from rewrite_engine.loading import Modules, Operators
    from rewrite_engine.matching.machine import Judge
    from rewrite_engine.matching.match import Match
    from rewrite_engine.module_forms import ModuleClass
    from rewrite_engine.rewriting.driver import Limits
    from rewrite_engine.rewriting.run import Recompile, Result
    from rewrite_engine.ruleset import RuleSet
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
    "Operators",
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

# Where to find what else can be asked for under the name of this module.
_HOMES = {
    "Explanation": "rewrite_engine.explaining.explanation",
    "Hook": "rewrite_engine.hooks",
    "Hooks": "rewrite_engine.hooks",
    "Limits": "rewrite_engine.rewriting.driver",
    "Match": "rewrite_engine.matching.match",
    "Model": "rewrite_engine.rewriting.run",
    "ModuleClass": "rewrite_engine.module_forms",
    "Modules": "rewrite_engine.loading",
    "Operators": "rewrite_engine.loading",
    "Result": "rewrite_engine.rewriting.run",
    "Verification": "rewrite_engine.verification.report",
    "extract": "rewrite_engine.extracting.selection",
    "extract_pair": "rewrite_engine.extracting.pair",
    "verify": "rewrite_engine.verification.verify",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rewrite_engine.engine' has no attribute '{name}'")


@paused_gc()
def load(
    source: str | Path,
    *,
    operators: Operators = (),
    modules: Modules | None = None,
    hooks: Hooks | None = None,
    cache: bool = True,
) -> RuleSet:
    """A rule set from a shipped library (`"qat_fuse"`), from an installed pack
    (`"acme/fusions"`), or from the path of a file.

    `operators`, `modules` and `hooks` grant operators of other libraries, classes and
    functions of the caller's to the file, which imports nothing itself. With `cache`, a
    file of many rules that was loaded before by any process is read as far as it is
    needed, which changes nothing that it does.

    Raises: RuleError with every finding; FileNotFoundError.
    """
    from rewrite_engine import loading

    grants = loading.Grants(modules, hooks, operators)
    return loading.from_file(source, grants, cache=cache)


@paused_gc()
def loads(
    text: str,
    name: str = "<text>",
    *,
    operators: Operators = (),
    modules: Modules | None = None,
    hooks: Hooks | None = None,
) -> RuleSet:
    """A rule set from text; `name` is what messages call it.

    Raises: RuleError with every finding.
    """
    from rewrite_engine import loading

    return loading.from_text(text, name, loading.Grants(modules, hooks, operators))


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
    rules = _rule_set(rules)
    applied: Callable[..., Result] = type(rules).apply
    if record:
        from rewrite_engine.reporting.recorded import recorded as applied
    return applied(
        rules,
        model,
        recurse=recurse,
        guard=guard,
        limits=limits,
        recompile=recompile,
    )


def find(model: Model, rules: RuleSet, *, recurse: bool = False) -> tuple[Match, ...]:
    """Every match that `apply` could rewrite in the graph as it is; changes nothing."""
    from rewrite_engine.rewriting import run

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
    from rewrite_engine.explaining import explain as explaining

    rules = _rule_set(rules)
    asked = rules.rules if rule is None else (rules[rule],)
    return explaining.explain(rules.program, asked, model, node, recurse=recurse)


def _rule_set(rules: object) -> RuleSet:
    from rewrite_engine.ruleset import RuleSet

    if isinstance(rules, RuleSet):
        return rules
    got = type(rules).__name__
    raise TypeError(f"expected a RuleSet, as `load` and `loads` give, got {got}")
