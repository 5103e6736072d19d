"""Turns what the observers have seen into scales, by the rules of a library."""

from __future__ import annotations

import copy
import warnings

from torch import fx

from rewrite_engine.engine import apply, load
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
    rules = load(rules) if isinstance(rules, str) else rules
    for refusal in apply(module, rules).report.refusals:
        message = f"'{refusal.node}' is not equalized: {refusal.reason}"
        warnings.warn(message, RefusedWarning, stacklevel=2)
    return module
