"""Python functions that a caller grants to rule files, for what is no formula."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_type_hints

import torch

from rewrite_engine.signatures import REQUIRED, Parameter, Signature

Hook = Callable[..., torch.Tensor]
Hooks = Mapping[str, Mapping[str, Hook]]
"""Hooks by name, by the dotted name that files use them under (`"acme.hooks"`)."""

_TYPES = {
    torch.Tensor: "Tensor",
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
}


def hook_signatures(hooks: Hooks) -> dict[str, list[Signature]]:
    """The signatures of hooks by their path, from their annotations.

    Raises: TypeError, if one takes any number of arguments or returns no tensor.
    """
    return {
        f"{module}.{name}": [_signature(f"{module}.{name}", hook)]
        for module, named in hooks.items()
        for name, hook in named.items()
    }


def _signature(path: str, hook: Hook) -> Signature:
    hints = get_type_hints(hook)
    if hints.get("return") is not torch.Tensor:
        raise TypeError(f"the hook `{path}` is not annotated to return a torch.Tensor")
    parameters = inspect.signature(hook).parameters.values()
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise TypeError(f"the hook `{path}` takes any number of arguments")
    found = tuple(_parameter(p, hints.get(p.name)) for p in parameters)
    return Signature(path, "hook", found, granted=hook)


def _parameter(parameter: inspect.Parameter, annotation: Any) -> Parameter:
    default = REQUIRED if parameter.default is parameter.empty else parameter.default
    keyword_only = parameter.kind is parameter.KEYWORD_ONLY
    return Parameter(parameter.name, _type(annotation), default, keyword_only)


def _type(annotation: Any) -> str:
    if annotation in _TYPES:
        return _TYPES[annotation]
    rest = [a for a in get_args(annotation) if a is not type(None)]
    if len(rest) == 1 and rest[0] in _TYPES:
        return f"{_TYPES[rest[0]]}?"
    return ""
