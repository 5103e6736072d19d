"""How far values may be off because of rounding alone, by their names in a `Run`."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from rewrite_engine.equivalence import Run


def sensitivity(expected: Run, nudged: Run, factor: float) -> dict[str, float]:
    """How much each value changed from one run to a nudged one, times a factor.

    No formula can be held to more than what the last digit of its inputs changes.
    """
    slack = {}
    for part in ("outputs", "inputs", "state", "gradients"):
        old, new = getattr(expected, part), getattr(nudged, part)
        for name in old.keys() & new.keys():
            slack[name] = factor * _gap(old[name], new[name])
    return slack


def larger(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    names = one.keys() | other.keys()
    return {name: max(one.get(name, 0.0), other.get(name, 0.0)) for name in names}


def _gap(old: object, new: object) -> float:
    for value in (old, new):
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return 0.0
    assert isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor)
    if old.numel() == 0 or old.shape != new.shape:
        return 0.0
    gap = (old.detach().double() - new.detach().double()).abs().nan_to_num(nan=0.0)
    return float(gap.max())
