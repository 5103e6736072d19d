"""Turns what the observers have seen into scales, by the rules of a library."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator

import torch
from torch import fx

from rewrite_engine.engine import apply, load
from rewrite_engine.equalize.observers import (
    InputEqualizationObserver,
    UncalibratedWarning,
)
from rewrite_engine.ruleset import RuleSet


class RefusedWarning(UserWarning):
    """A layer was left as it is; the message says why."""


def convert(
    model: fx.GraphModule,
    rules: RuleSet | str = "equalize",
    *,
    inplace: bool = False,
) -> fx.GraphModule:
    """A copy of a calibrated `model`, equalized, without equalization observers.

    It computes what `model` computes. Layers that cannot be equalized safely stay as
    they are, with a RefusedWarning. A model without equalization observers is returned
    unchanged, so converting twice is converting once.
    """
    module = model if inplace else copy.deepcopy(model)
    for name, observer in _observers(module):
        if not observer.is_calibrated:
            message = f"'{name}' has seen no data: it is equalized by ones"
            warnings.warn(message, UncalibratedWarning, stacklevel=2)
            _settle(observer)
    report = apply(module, load(rules) if isinstance(rules, str) else rules).report
    for refusal in report.refusals:
        message = f"'{refusal.node}' is not equalized: {refusal.reason}"
        warnings.warn(message, RefusedWarning, stacklevel=2)
    _remove_observers(module)
    return module


def _observers(
    module: fx.GraphModule,
) -> Iterator[tuple[str, InputEqualizationObserver]]:
    for name, part in module.named_children():
        if isinstance(part, InputEqualizationObserver):
            yield name, part


def _settle(observer: InputEqualizationObserver) -> None:
    """Let the observer have seen a constant, for which the scale is 1."""
    constant = torch.zeros([1] * -observer.axis)
    observer.record(constant, constant)


def _remove_observers(module: fx.GraphModule) -> None:
    names = {name for name, _ in _observers(module)}
    for node in list(module.graph.nodes):
        if node.op == "call_module" and node.target in names:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    for name in names:
        module.delete_submodule(name)
    module.recompile()
