"""Input-weight equalization: observe the inputs of layers, then balance the ranges.

prepared = prepare(gm)      # gm: a graph of torch.fx or of an exported program
prepared(data)              # calibrate
equalized = convert(prepared)
"""

from __future__ import annotations

from rewrite_engine.equalize.config import EqualizationConfig
from rewrite_engine.equalize.convert import RefusedWarning, convert
from rewrite_engine.equalize.observers import (
    InputEqualizationObserver,
    UncalibratedWarning,
    WeightEqualizationObserver,
    calculate_equalization_scale,
)
from rewrite_engine.equalize.prepare import prepare
from rewrite_engine.equalize.sqnr import layer_sqnr, sqnr, worst_layers

__all__ = [
    "EqualizationConfig",
    "InputEqualizationObserver",
    "RefusedWarning",
    "UncalibratedWarning",
    "WeightEqualizationObserver",
    "calculate_equalization_scale",
    "convert",
    "layer_sqnr",
    "prepare",
    "sqnr",
    "worst_layers",
]
