"""The literals that a parameter of an operator may take, typical ones first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch

from rewrite_engine.signatures import Parameter

_BY_NAME: Final[Mapping[str, tuple[Any, ...]]] = {
    "groups": (1, 2),
    "eps": (1e-5, 1e-3),
    "momentum": (0.1, 0.3),
    "p": (0.5, 0.0),
    "dropout_p": (0.0,),
    "dim": (1, 0, -1),
    "axis": (0, 1),
    "dim0": (0, 1),
    "dim1": (1, -1),
    "start_dim": (0, 1),
    "end_dim": (-1, 1),
    "alpha": (1, 2),
    "dtype": (torch.int8, torch.float32, torch.float64),
    "scale": (0.5, 0.1),
    "zero_point": (0, 3),
    "quant_min": (-128, -127),
    "quant_max": (127,),
    "num_groups": (2, 1),
    "negative_slope": (0.01, 0.0, 0.5),
    "approximate": ("none", "tanh"),
    "rounding_mode": ("floor", "trunc"),
    "ceil_mode": (False, True),
    "enable_gqa": (False,),
    "cudnn_enabled": (False,),
}
_BY_TYPE: Final[Mapping[str, tuple[Any, ...]]] = {
    "bool": (False, True),
    "float": (0.5, 1.0, 0.0, -2.0),
    "int": (1, 2, 0, -1),
    "SymInt": (1, 2, 0, -1),
    "Scalar": (2.0, 3, 0.5, -1.0, 1, 0),
    "ScalarType": (torch.float32, torch.float64, torch.int8),
}
_SIZES: Final[Mapping[str, tuple[int, ...]]] = {
    "stride": (1, 2),
    "padding": (0, 1),
    "dilation": (1, 2),
    "kernel_size": (2, 1),
    "output_size": (1, 2),
    "output_padding": (0,),
}


def literals_of(parameter: Parameter) -> tuple[Any, ...]:
    """Values worth trying for a parameter; empty if none is known for its type."""
    kind = parameter.type.removesuffix("?")
    if kind in ("", "Tensor"):  # a number in the place of a tensor
        kind = "Scalar"
    base, _, size = kind.partition("[")
    if size:
        return _lists(parameter.name, base, size.rstrip("]"))
    if parameter.name == "padding" and kind == "str":
        return "same", "valid"
    if parameter.name in _BY_NAME:
        return _BY_NAME[parameter.name]
    return _BY_TYPE.get(kind, ())


def _lists(name: str, base: str, size: str) -> tuple[Any, ...]:
    if name == "normalized_shape":
        return [4], [5]
    if name in ("size", "shape"):
        return [-1], [2, -1]
    if name in ("dim", "dims"):
        return [1], [0], [-1], [0, 1], [1, 0]
    if base not in ("int", "SymInt"):
        return ()
    return tuple([value] * int(size or 1) for value in _SIZES.get(name, (1, 2)))
