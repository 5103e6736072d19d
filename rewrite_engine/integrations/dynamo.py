"""Rules in front of a backend of `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from torch import fx
from torch._dynamo.backends.registry import lookup_backend

from rewrite_engine import engine
from rewrite_engine.ruleset import RuleSet

Backend: TypeAlias = Callable[..., Callable[..., Any]]


def backend(rules: RuleSet | str | Path, inner: str | Backend = "inductor") -> Backend:
    """A backend that applies rules to the graphs of dynamo and hands them on.

    `rules` may be a library or a path, `inner` a name that `torch.compile` knows:

        torch.compile(model, backend=rewrite_engine.backend(rules, inner="inductor"))
    """
    loaded = rules if isinstance(rules, RuleSet) else engine.load(rules)
    compile_graph = lookup_backend(inner)

    def rewriting(
        module: fx.GraphModule, inputs: Sequence[Any], **options: Any
    ) -> Callable[..., Any]:
        loaded.apply(module)
        return compile_graph(module, inputs, **options)

    return rewriting


def rewrite_engine(
    module: fx.GraphModule, inputs: Sequence[Any], *, options: Mapping[str, Any]
) -> Callable[..., Any]:
    """The backend of the entry point, which takes its settings as options:

    torch.compile(model, backend="rewrite_engine", options={"rules": "qat_fuse"})

    `inner` names the backend that compiles, by default inductor; other options are
    handed on to it.

    Raises: KeyError, if there are no `rules` among the options.
    """
    own = {key: options[key] for key in ("rules", "inner") if key in options}
    rest = {key: value for key, value in options.items() if key not in own}
    chosen = backend(own["rules"], own.get("inner", "inductor"))
    return chosen(module, inputs, **({"options": rest} if rest else {}))
