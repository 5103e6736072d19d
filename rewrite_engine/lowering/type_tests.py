"""Type tests of guards: `x: f32[$B, *S]`."""

from __future__ import annotations

from typing import Any

from rewrite_engine import torch_ops
from rewrite_engine.dsl import nodes
from rewrite_engine.lowering.functions import tensor_type_of
from rewrite_engine.lowering.literals import literals_equal
from rewrite_engine.lowering.scope import Evaluate, Scope


def compile_type_test(name: str, type: nodes.TensorType) -> Evaluate:
    dtypes = frozenset(torch_ops.dtype_of(dtype) for dtype in type.dtypes)

    def evaluate(scope: Scope) -> bool:
        known = tensor_type_of(scope, scope.value(name))
        if dtypes and known.dtype not in dtypes:
            return False
        return type.shape is None or _shape_fits(scope, type.shape, known.shape)

    return evaluate


def _shape_fits(
    scope: Scope, dims: tuple[nodes.Expr, ...], shape: tuple[Any, ...]
) -> bool:
    star = next((i for i, d in enumerate(dims) if isinstance(d, nodes.Star)), None)
    if star is None:
        return len(dims) == len(shape) and _dims_fit(scope, dims, shape)
    after = len(dims) - star - 1
    if len(shape) < star + after:
        return False
    middle = list(shape[star : len(shape) - after])
    name = dims[star]
    assert isinstance(name, nodes.Star)
    return (
        _dims_fit(scope, dims[:star], shape[:star])
        and _dims_fit(scope, dims[star + 1 :], shape[len(shape) - after :])
        and _dim_fits(scope, nodes.LiteralName(name.id), middle)
    )


def _dims_fit(
    scope: Scope, dims: tuple[nodes.Expr, ...], shape: tuple[Any, ...]
) -> bool:
    return all(_dim_fits(scope, d, s) for d, s in zip(dims, shape, strict=True))


def _dim_fits(scope: Scope, dim: nodes.Expr, size: Any) -> bool:
    match dim:
        case nodes.Wildcard():
            return True
        case nodes.Constant(value):
            return _is_static(size) and literals_equal(size, value)
    assert isinstance(dim, nodes.LiteralName), f"the resolver let {dim!r} through"
    known = scope.value(dim.id)
    if known is None:
        scope.bind(dim.id, size)
        return True
    return _sizes_equal(known, size)


def _is_static(size: Any) -> bool:
    return isinstance(size, int)


def _sizes_equal(left: Any, right: Any) -> bool:
    if isinstance(left, list):
        return len(left) == len(right) and all(map(_sizes_equal, left, right))
    if _is_static(left) and _is_static(right):
        return bool(left == right)
    # Comparing symbolic sizes must not add a guard to the program: only sizes that
    # are the same expression are known to be equal.
    return str(left) == str(right)
