"""Literals of a graph: Python values that are arguments of calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from rewrite_engine.dsl.operand_kinds import Kind
from rewrite_engine.signatures import REQUIRED


def literals_equal(left: Any, right: Any) -> bool:
    """Equality of literals: lists equal tuples, 1 equals 1.0, `true` only itself."""
    if isinstance(left, (list, tuple)):
        return (
            isinstance(right, (list, tuple))
            and len(left) == len(right)
            and all(map(literals_equal, left, right))
        )
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if left is None or right is None or left is REQUIRED:
        return left is right
    if isinstance(left, fx.Node) or isinstance(right, fx.Node):
        return False
    return bool(left == right)


def is_literal(value: Any) -> bool:
    """Whether a call's argument holds no graph value."""
    if isinstance(value, (list, tuple)):
        return all(map(is_literal, value))
    if isinstance(value, dict):
        return all(map(is_literal, value.values()))
    return not isinstance(value, (fx.Node, slice)) and value is not REQUIRED


def argument_kind(argument: Any) -> Kind:
    """What an argument is to a schema; a node of unknown type is a tensor."""
    if isinstance(argument, fx.Node):
        known = argument.meta.get("val")
        return "tensor" if known is None or isinstance(known, torch.Tensor) else "value"
    if isinstance(argument, (list, tuple)):
        return tuple(map(argument_kind, argument))
    return "none" if argument is None else _KINDS.get(type(argument), "any")


_KINDS: Mapping[type, Kind] = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    torch.device: "str",
    torch.dtype: "ScalarType",
    torch.layout: "Layout",
    torch.memory_format: "MemoryFormat",
}
