"""Helpers for tests of rewrites: snapshots of graphs, and equivalence of two models.

Needs syrupy (`pip install 'rewrite-engine[test]'`). The fixture `graph_snapshot` of
the pytest plugin compares a graph with the text file stored beside the test:

    def test_my_pass(graph_snapshot):
        assert my_pass(model) == graph_snapshot
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from math import inf
from typing import Any, TypeAlias

import attrs
import torch
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode
from torch import fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from rewrite_engine.graph_text import graph_text
from rewrite_engine.value_text import Symbols, type_text

Model: TypeAlias = Callable[..., Any] | ExportedProgram

# Not a seed people use: output gradients equal to the inputs hide differences.
_SEED = 0x5EED
_TOLERANCES = {
    torch.float64: 1e-10,
    torch.complex128: 1e-10,
    torch.float32: 1e-5,
    torch.complex64: 1e-5,
    torch.bfloat16: 1.6e-2,
    torch.float16: 2e-3,
}


class GraphSnapshotExtension(SingleFileSnapshotExtension):
    """Stores each snapshot as one text file; graphs are stored as `graph_text`."""

    _write_mode = WriteMode.TEXT
    file_extension = "txt"

    def serialize(self, data: Any, **options: Any) -> str:
        """The text of a GraphModule or ExportedProgram; text is taken as it is."""
        is_graph = isinstance(data, fx.GraphModule | ExportedProgram)
        return graph_text(data) if is_graph else str(data)


def assert_equivalent(
    before: Model,
    after: Model,
    inputs: Sequence[Any],
    *,
    rtol: float | None = None,
    check_gradients: bool = False,
    check_state: bool = True,
) -> None:
    """Assert that two models do the same to the same inputs.

    Both are copied and run from the same random seed on clones of `inputs`, a sequence
    of positional arguments. Neither the models nor the inputs are changed.

    Outputs are compared leaf by leaf: structure, dtype, shape, values. `check_state`
    adds the buffers and what the models did to their inputs; `check_gradients` adds the
    gradients of inputs and parameters for random gradients of the outputs. Parameters
    and buffers are compared by name where both models have them; a buffer that `before`
    changes must be in both.

    `rtol` is relative to the largest magnitude of the tensor, of all gradients for a
    gradient; by default 1e-10 for f64, 1e-5 for f32, 1.6e-2 for bf16, 2e-3 for f16.
    Other dtypes must be equal, NaN and infinities must be in the same places.

    Raises AssertionError, which lists every difference.
    """
    expected = _run(before, inputs, check_gradients=check_gradients)
    actual = _run(after, inputs, check_gradients=check_gradients)
    differences = list(_compare(expected.outputs, actual.outputs, rtol))
    if check_state:
        differences += _compare(expected.inputs, actual.inputs, rtol)
        names = (expected.state.keys() & actual.state.keys()) | expected.changed
        state = _only(expected.state, names), _only(actual.state, names)
        differences += _compare(*state, rtol)
    if check_gradients:
        names = expected.gradients.keys() & actual.gradients.keys()
        gradients = _only(expected.gradients, names), _only(actual.gradients, names)
        scale = max(map(_magnitude, expected.gradients.values()), default=0.0)
        differences += _compare(*gradients, rtol, scale)
    if differences:
        raise AssertionError("\n".join(["the models differ:", *differences]))


@attrs.frozen
class _Run:
    """What one run of a model left behind, each value under a readable name."""

    outputs: dict[str, Any]
    inputs: dict[str, Any]
    """The inputs after the run."""
    state: dict[str, torch.Tensor]
    """The buffers after the run."""
    changed: frozenset[str]
    """The buffers that the run wrote."""
    gradients: dict[str, torch.Tensor]
    """Of inputs and parameters, zero where the outputs do not depend on them."""


def _run(model: Model, inputs: Sequence[Any], *, check_gradients: bool) -> _Run:
    called = _copy(model)
    leaves = _leaves(inputs, requires_grad=check_gradients)
    # A model may write its inputs in place, which autograd forbids on leaves.
    given = pytree.tree_map_only(torch.Tensor, torch.clone, leaves)
    before = {name: buffer.clone() for name, buffer in _buffers(called).items()}
    with torch.random.fork_rng(), torch.set_grad_enabled(check_gradients):
        torch.manual_seed(_SEED)
        outputs = called(*given)
        if check_gradients:
            _backward(outputs)
    after = _buffers(called)
    changed = (n for n, buffer in before.items() if not _identical(buffer, after[n]))
    return _Run(
        outputs=_named("outputs", outputs),
        inputs=_named("inputs", given),
        state=after,
        changed=frozenset(changed),
        gradients=dict(_gradients(called, leaves)),
    )


def _copy(model: Model) -> Callable[..., Any]:
    if isinstance(model, ExportedProgram):
        model = model.module()
    return copy.deepcopy(model)


def _leaves(inputs: Sequence[Any], *, requires_grad: bool) -> list[Any]:
    def leaf(tensor: torch.Tensor) -> torch.Tensor:
        copied = tensor.detach().clone()
        return copied.requires_grad_(requires_grad and _is_differentiable(tensor))

    return pytree.tree_map_only(torch.Tensor, leaf, list(inputs))


def _backward(outputs: Any) -> None:
    """Backward from all outputs, with gradients that do not cancel out.

    The sum of a normalised output, for one, has no gradient at all.
    """
    leaves = pytree.tree_leaves(outputs)
    roots = [x for x in leaves if isinstance(x, torch.Tensor) and x.requires_grad]
    if not roots:
        return
    torch.manual_seed(_SEED)
    torch.autograd.backward(roots, [torch.randn_like(root) for root in roots])


def _gradients(
    model: Callable[..., Any], leaves: list[Any]
) -> Iterator[tuple[str, torch.Tensor]]:
    named = _named("gradient of inputs", leaves)
    if isinstance(model, nn.Module):
        parameters = model.named_parameters(remove_duplicate=False)
        named |= {f"gradient of {name}": parameter for name, parameter in parameters}
    for name, tensor in named.items():
        if isinstance(tensor, torch.Tensor) and _is_differentiable(tensor):
            yield name, torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def _buffers(model: Callable[..., Any]) -> dict[str, torch.Tensor]:
    if not isinstance(model, nn.Module):
        return {}
    buffers = model.named_buffers(remove_duplicate=False)
    return {f"buffer {name}": buffer for name, buffer in buffers}


def _named(prefix: str, tree: Any) -> dict[str, Any]:
    leaves = pytree.tree_leaves_with_path(tree)
    return {prefix + pytree.keystr(path): leaf for path, leaf in leaves}


def _only(values: Mapping[str, Any], names: Set[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names}


def _is_differentiable(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _compare(
    expected: Mapping[str, Any],
    actual: Mapping[str, Any],
    rtol: float | None,
    scale: float | None = None,
) -> Iterator[str]:
    """A line for each value that differs or that only one side has."""
    for name in {**expected, **actual}:
        if name not in actual:
            yield f"{name} is missing after"
        elif name not in expected:
            yield f"{name} is new after"
        elif found := _difference(expected[name], actual[name], rtol, scale):
            yield f"{name}: {found}"


def _difference(
    expected: Any, actual: Any, rtol: float | None, scale: float | None
) -> str | None:
    kinds = _kind(expected), _kind(actual)
    if kinds[0] != kinds[1]:
        return f"{kinds[0]} became {kinds[1]}"
    if isinstance(expected, torch.Tensor):
        return _tensor_difference(expected.detach(), actual.detach(), rtol, scale)
    both_nan = expected != expected and actual != actual
    if expected == actual or both_nan:
        return None
    return f"{expected!r} became {actual!r}"


def _kind(value: Any) -> str:
    text = type_text(value, Symbols())
    return f"{text} on {value.device}" if isinstance(value, torch.Tensor) else text


def _tensor_difference(
    expected: torch.Tensor,
    actual: torch.Tensor,
    rtol: float | None,
    scale: float | None,
) -> str | None:
    """Where two tensors of one type differ by more than the tolerance, if they do."""
    tolerance = _tolerance(expected.dtype, rtol)
    scale = _magnitude(expected) if scale is None else scale
    x, y = _widened(expected), _widened(actual)
    same = (x == y) | ((x != x) & (y != y))
    error = _gap(x, y).abs().nan_to_num(nan=inf, posinf=inf).masked_fill(same, 0)
    wrong = ~same & ((error > tolerance * scale) | (tolerance == 0))
    if not wrong.any():
        return None
    worst = error.argmax() if error.any() else wrong.int().argmax()
    place = [int(i) for i in torch.unravel_index(worst, error.shape)]
    values = f"{x.flatten()[worst].item()} became {y.flatten()[worst].item()}"
    return (
        f"{int(wrong.sum())} of {wrong.numel()} elements differ, most at {place}: "
        f"{values}, by {error.max().item():.3g}; allowed {tolerance * scale:.3g} "
        f"({tolerance:g} of {scale:.3g})"
    )


def _tolerance(dtype: torch.dtype, rtol: float | None) -> float:
    if rtol is None or not (dtype.is_floating_point or dtype.is_complex):
        return _TOLERANCES.get(dtype, 0.0)
    return rtol


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def _gap(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x - y if x.is_complex() else x.double() - y.double()


def _magnitude(tensor: torch.Tensor) -> float:
    """The largest finite magnitude in a tensor."""
    sizes = _widened(tensor.detach()).abs() if tensor.dtype != torch.bool else tensor
    finite = sizes[sizes.isfinite()]
    return float(finite.max()) if finite.numel() else 0.0


def _identical(a: torch.Tensor, b: torch.Tensor) -> bool:
    return _kind(a) == _kind(b) and bool(((a == b) | ((a != a) & (b != b))).all())
