"""A static check that needs torch: can the right side have the type of the left?

A rule whose guards give the dtypes and shapes of all its inputs is run on fake tensors,
left and right, for every instance. Named dimensions get different prime sizes, so two
shapes are equal only if they are equal for all sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import Any

import attrs
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from rewrite_engine import torch_ops
from rewrite_engine.dsl import checked, nodes
from rewrite_engine.errors import Diagnostic, first_line
from rewrite_engine.lowering.instances import Instance
from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.lowering.scope import Unknown

_MOST = 64
"""Combinations of dtypes that are tried."""

_SAME_TYPE = "a replacement has the dtype and the shape of what it replaces"
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29)


def check_result_types(
    rule: checked.Rule, compiled: CompiledRule
) -> Iterator[Diagnostic]:
    """At most one finding: the first dtypes for which a result has another type.

    A rule that leaves the type of an input open is not checked here; the engine
    compares the types of every single match.
    """
    if compiled.matcher_graph.find_nodes(op="placeholder") and not _tests(rule):
        return  # before instances are built: nothing says what their inputs are
    sizes = _sizes(rule)
    for types in islice(_assignments(rule), _MOST):
        for instance in compiled.instances():
            fault = _fault(instance, types, sizes)
            if fault is not None:
                message, hint = fault
                span = rule.creates[-1].span
                yield Diagnostic("E408", message, span, rule.source, hint=hint)
                return


def _tests(rule: checked.Rule) -> Mapping[str, nodes.TensorType]:
    guards = (guard.expr for guard in rule.guards)
    return {g.id: g.type for g in guards if isinstance(g, nodes.HasType)}


def _sizes(rule: checked.Rule) -> Mapping[str, int]:
    """A size for every named dimension."""
    dims = (dim for type in _tests(rule).values() for dim in type.shape or ())
    names = dict.fromkeys(d.id for d in dims if isinstance(d, nodes.LiteralName))
    return dict(zip(names, _PRIMES, strict=False))


def _assignments(rule: checked.Rule) -> Iterator[Mapping[str, nodes.TensorType]]:
    """The input types with one dtype each, for every combination of dtypes."""
    tests = _tests(rule)
    for dtypes in product(*(type.dtypes for type in tests.values())):
        pairs = zip(tests.items(), dtypes, strict=True)
        yield {name: attrs.evolve(t, dtypes=(dtype,)) for (name, t), dtype in pairs}


def _fault(
    instance: Instance,
    types: Mapping[str, nodes.TensorType],
    sizes: Mapping[str, int],
) -> tuple[str, str | None] | None:
    """What is wrong with an instance for inputs of these types, and a hint."""
    with FakeTensorMode():
        inputs = _inputs(instance.matcher, types, sizes)
        if inputs is None:
            return None
        try:
            # It may read sizes, which are no inputs of the left side.
            others = _inputs(instance.replacement, types, sizes)
        except Unknown:
            return None  # the types in a graph decide what is built
        assert others is not None, "both sides have the same inputs, and sizes"
        left = _results(instance.matcher, inputs)
        right = _results(instance.replacement, others)
    if isinstance(left, str) or left == right:
        return None
    given = ", ".join(f"{name}: {type.dtypes[0]}" for name, type in types.items())
    if isinstance(right, str):
        return f"for {given} the right side cannot be computed: {right}", None
    sides = f"the left side is {_text(left)}, the right {_text(right)}"
    return f"for {given} {sides}", _SAME_TYPE


def _inputs(
    side: fx.GraphModule,
    types: Mapping[str, nodes.TensorType],
    sizes: Mapping[str, int],
) -> list[Any] | None:
    """What to run a side on; None if nothing says what an input is."""
    names = [str(node.target) for node in side.graph.find_nodes(op="placeholder")]
    found = [_input(name, types, sizes) for name in names]
    return None if any(value is None for value in found) else found


def _input(
    name: str, types: Mapping[str, nodes.TensorType], sizes: Mapping[str, int]
) -> Any:
    """A fake tensor or a dimension; None if nothing says what an input is."""
    if name in sizes:
        return sizes[name]
    type = types.get(name)
    if type is None or type.shape is None:
        return None
    shape = [_size(dim, sizes) for dim in type.shape]
    if any(size is None for size in shape):
        return None
    return torch.empty(shape, dtype=torch_ops.dtype_of(type.dtypes[0]))


def _size(dim: nodes.Expr, sizes: Mapping[str, int]) -> int | None:
    if isinstance(dim, nodes.LiteralName):
        return sizes.get(dim.id)
    return dim.value if isinstance(dim, nodes.Constant) else None  # type: ignore[return-value]  # the resolver checks dimensions


def _results(module: fx.GraphModule, inputs: list[Any]) -> list[Any] | str:
    """Dtype and shape of every result, or why these inputs do not fit."""
    try:
        results = module(*inputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        return first_line(error)
    return [(result.dtype, tuple(result.shape)) for result in results]


def _text(results: list[Any]) -> str:
    parts = (f"{torch_ops.dtype_name(d)}{list(shape)}" for d, shape in results)
    return " and ".join(parts)
