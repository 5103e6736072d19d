"""Turns what the observers have seen into scales, by the rules of a library."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Container, Iterator

import torch
from torch import fx

from rewrite_engine.engine import apply, load, loads
from rewrite_engine.equalize.observers import (
    InputEqualizationObserver,
    UncalibratedWarning,
)
from rewrite_engine.equalize.partition import part
from rewrite_engine.equalize.prepare import bypass, copy_of, free_name
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
    module = model if inplace else copy_of(model)
    observers = dict(_observers(module))
    if not observers:
        return module
    for name, observer in observers.items():
        if not observer.is_calibrated:
            message = f"'{name}' has seen no data: it is equalized by ones"
            warnings.warn(message, UncalibratedWarning, stacklevel=2)
            _settle(observer)
    folding = {rule.name for rule in _library("fold_scales")}
    taken = {name for name, _ in module.named_buffers()}
    rules = _library(rules) if isinstance(rules, str) else rules
    calls = [
        node
        for node in module.graph.find_nodes(op="call_module")
        if node.target in observers
    ]
    spared = {name for name, _ in module.named_modules()} - _called(module)
    partition = part(module, calls)
    for refusal in apply(module, rules).report.refusals:
        if refusal.rule not in folding:
            message = f"'{refusal.node}' is not equalized: {refusal.reason}"
            warnings.warn(message, RefusedWarning, stacklevel=2)
    partition.join()
    bypass(module, InputEqualizationObserver)
    apply(module, _exact_ranges())
    for name in dict(_observers(module)):
        module.delete_submodule(name)
    _name_scales(module, taken)
    _drop_uncalled(module, spared)
    return module


@functools.cache
def _library(name: str) -> RuleSet:
    return load(name)


@functools.cache
def _exact_ranges() -> RuleSet:
    """The range in front of a function that can be inverted, from the exact one after
    it: it was widened when a scale went past. Where nothing did, nothing changes.
    """
    return loads(
        """
        use "fold_scales.rules" (range_observer)

        rule before_dropout once {
          p = range_observer(v, min_val=lo, max_val=hi, ..)
          q = range_observer(dropout(p, train=false, ..), min_val=low, max_val=high, ..)
        =>
          own lo <- low
          own hi <- high
          keep p, q
        }

        rule before_leaky_relu once {
          p = range_observer(v, min_val=lo, max_val=hi, ..)
          y = leaky_relu(p, negative_slope=$slope, ..)
          q = range_observer(y, min_val=low, max_val=high, ..)
          where $slope > 0, $slope <= 1
        =>
          own lo <- minimum(low, low / $slope)
          own hi <- minimum(high, high / $slope)
          keep p, q
        }
        """,
        "convert",
    )


def _observers(
    module: fx.GraphModule,
) -> Iterator[tuple[str, InputEqualizationObserver]]:
    for name, child in module.named_children():
        if isinstance(child, InputEqualizationObserver):
            yield name, child


def _called(module: fx.GraphModule) -> set[str]:
    return {str(node.target) for node in module.graph.find_nodes(op="call_module")}


def _drop_uncalled(module: fx.GraphModule, spared: Container[str]) -> None:
    """Remove modules that a copy has taken the place of, and whatever is not `spared`
    and neither called, nor part of what is, nor holds what the graph reads.
    """
    called = _called(module)
    used = {str(node.target) for node in module.graph.find_nodes(op="get_attr")}
    for name in [name for name, _ in module.named_modules()]:
        inside = any(name == each or name.startswith(f"{each}.") for each in called)
        holds = any(each.startswith(f"{name}.") for each in called | used)
        if name not in spared and not inside and not holds:
            module.delete_submodule(name)


def _settle(observer: InputEqualizationObserver) -> None:
    """Give the observer the extremes of no values, for which the scale is 1."""
    shape = [1] * -observer.axis
    infinity = torch.full(shape, torch.inf, device=observer.min_val.device)
    observer.record(infinity, -infinity)


def _name_scales(module: fx.GraphModule, taken: set[str]) -> None:
    """Call each new scale after the value that it scales: `x_equalization_scale0`."""
    for node in module.graph.find_nodes(op="get_attr"):
        target = str(node.target)
        if target in taken or not target.endswith("_equalization_scale"):
            continue
        (user,) = node.users
        (value,) = (operand for operand in user.all_input_nodes if operand is not node)
        name = free_name(module, f"{value.name}_equalization_scale")
        module.register_buffer(name, module.get_buffer(target))
        delattr(module, target)
        node.target = name
        node._rename(name)
    module.recompile()
