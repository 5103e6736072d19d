"""Literals of a graph: Python values that are arguments of calls."""

from __future__ import annotations

from typing import Any

from torch import fx

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
