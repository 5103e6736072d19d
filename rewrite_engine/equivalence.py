"""Whether two models do the same: outputs, gradients, state, and their inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from math import inf
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import attrs
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from rewrite_engine.value_text import Symbols, type_text

Model: TypeAlias = Callable[..., Any] | ExportedProgram

# Not a seed people use: output gradients equal to the inputs hide differences.
_SEED = 0x5EED
TOLERANCES: Final[Mapping[torch.dtype, float]] = {
    torch.float64: 1e-10,
    torch.complex128: 1e-10,
    torch.float32: 1e-5,
    torch.complex64: 1e-5,
    torch.bfloat16: 1.6e-2,
    torch.float16: 2e-3,
}
"""By default allowed, relative to the largest magnitude of a tensor."""


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
    gradients of inputs and parameters, where these are numbers, for random gradients of
    the outputs. Parameters and buffers are compared by name where both models have
    them; a buffer that `before` changes must be in both.

    `rtol` is relative to the largest magnitude of the tensor, of all gradients for a
    gradient; by default 1e-10 for f64, 1e-5 for f32, 1.6e-2 for bf16, 2e-3 for f16.
    Other dtypes must be equal, NaN and infinities must be in the same places. With 0,
    values are compared bit by bit: a zero keeps its sign.

    Raises AssertionError, which lists every difference.
    """
    expected = run(before, inputs, check_gradients=check_gradients)
    actual = run(after, inputs, check_gradients=check_gradients)
    found = differences(
        expected, actual, rtol=rtol, gradient_rtol=rtol, check_state=check_state
    )
    if found:
        raise AssertionError("\n".join(["the models differ:", *found]))


@attrs.frozen
class Run:
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


def run(
    model: Model,
    inputs: Sequence[Any],
    *,
    check_gradients: bool,
    in_place: bool = False,
    is_nudged: bool = False,
) -> Run:
    """Run a model on copies of its inputs, always from the same seed.

    It is a copy that runs unless `in_place`, which leaves buffers and gradients of the
    model changed. `is_nudged` changes the gradients of the outputs in the last digit.
    """
    called = model if in_place else _copy(model)
    leaves = _leaves(inputs, requires_grad=check_gradients)
    # A model may write its inputs in place, which autograd forbids on leaves.
    given = pytree.tree_map_only(torch.Tensor, torch.clone, leaves)
    before = {name: buffer.clone() for name, buffer in _buffers(called).items()}
    with torch.random.fork_rng(), torch.set_grad_enabled(check_gradients):
        _seed()
        outputs = called(*given)
        if check_gradients:
            _backward(outputs, is_nudged=is_nudged)
    after = {name: buffer.clone() for name, buffer in _buffers(called).items()}
    changed = (n for n, buffer in before.items() if not _identical(buffer, after[n]))
    return Run(
        outputs=_named("outputs", outputs),
        inputs=_named("inputs", given),
        state=after,
        changed=frozenset(changed),
        gradients=dict(_gradients(called, leaves)) if check_gradients else {},
    )


def differences(
    expected: Run,
    actual: Run,
    *,
    rtol: float | None,
    gradient_rtol: float | None,
    check_state: bool = True,
    slack: Mapping[str, float] = MappingProxyType({}),
) -> list[str]:
    """A line for each value in which two runs differ; see `assert_equivalent`.

    `slack` allows an absolute error beside the tolerance, by the name of the value.
    """
    found = list(_compare(expected.outputs, actual.outputs, rtol, slack))
    if check_state:
        found += _compare(expected.inputs, actual.inputs, rtol, slack)
        names = (expected.state.keys() & actual.state.keys()) | expected.changed
        state = _only(expected.state, names), _only(actual.state, names)
        found += _compare(*state, rtol, slack)
    names = expected.gradients.keys() & actual.gradients.keys()
    gradients = _only(expected.gradients, names), _only(actual.gradients, names)
    scale = max(map(_magnitude, expected.gradients.values()), default=0.0)
    found += _compare(*gradients, gradient_rtol, slack, scale)
    return found


def _seed() -> None:
    if torch.cuda.is_available():
        torch.manual_seed(_SEED)
    else:  # seeding all kinds of devices takes milliseconds
        torch.default_generator.manual_seed(_SEED)


def _copy(model: Model) -> Callable[..., Any]:
    if isinstance(model, ExportedProgram):
        model = model.module()
    return copy.deepcopy(model)


def _leaves(inputs: Sequence[Any], *, requires_grad: bool) -> list[Any]:
    def leaf(tensor: torch.Tensor) -> torch.Tensor:
        copied = tensor.detach().clone()
        return copied.requires_grad_(requires_grad and _is_differentiable(tensor))

    return pytree.tree_map_only(torch.Tensor, leaf, list(inputs))


def _backward(outputs: Any, *, is_nudged: bool) -> None:
    """Backward from all outputs, with gradients that do not cancel out.

    The sum of a normalised output, for one, has no gradient at all.
    """
    leaves = pytree.tree_leaves(outputs)
    roots = [x for x in leaves if isinstance(x, torch.Tensor) and x.requires_grad]
    if not roots:
        return
    _seed()
    gradients = [torch.randn_like(root) for root in roots]
    if is_nudged:
        gradients = [nudged(gradient) for gradient in gradients]
    torch.autograd.backward(roots, gradients)


def nudged(tensor: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Every value changed in its last digit, up or down at random."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return tensor
    generator = torch.Generator().manual_seed(_SEED + seed)
    signs = torch.randint(0, 2, tensor.shape, generator=generator) * 2 - 1
    return tensor + tensor * signs.to(tensor) * torch.finfo(tensor.dtype).eps


def _gradients(
    model: Callable[..., Any], leaves: list[Any]
) -> Iterator[tuple[str, torch.Tensor]]:
    named = _named("gradient of inputs", leaves)
    if isinstance(model, nn.Module):
        parameters = model.named_parameters(remove_duplicate=False)
        named |= {f"gradient of {name}": parameter for name, parameter in parameters}
    for name, tensor in named.items():
        if isinstance(tensor, torch.Tensor) and _is_differentiable(tensor):
            found = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            # Where a function is given no number, it has no derivative either.
            yield name, found.masked_fill(tensor.isnan(), 0)


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
    slack: Mapping[str, float],
    scale: float | None = None,
) -> Iterator[str]:
    """A line for each value that differs or that only one side has."""
    for name in {**expected, **actual}:
        if name not in actual:
            yield f"{name} is missing after"
            continue
        if name not in expected:
            yield f"{name} is new after"
            continue
        old, new = expected[name], actual[name]
        found = _difference(old, new, rtol, slack.get(name, 0.0), scale)
        if found is not None:
            yield f"{name}: {found}"


def _difference(
    expected: Any, actual: Any, rtol: float | None, slack: float, scale: float | None
) -> str | None:
    kinds = _kind(expected), _kind(actual)
    if kinds[0] != kinds[1]:
        return f"{kinds[0]} became {kinds[1]}"
    if isinstance(expected, torch.Tensor):
        old, new = expected.detach(), actual.detach()
        return _tensor_difference(old, new, rtol, slack, scale)
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
    slack: float,
    scale: float | None,
) -> str | None:
    """Where two tensors of one type differ by more than the tolerance, if they do."""
    tolerance = _tolerance(expected.dtype, rtol)
    scale = _magnitude(expected) if scale is None else scale
    x, y = _widened(expected), _widened(actual)
    same = (x == y) | ((x != x) & (y != y))
    if tolerance == 0 and x.is_floating_point():
        same &= (x.signbit() == y.signbit()) | (x != x)  # bit by bit
    error = _gap(x, y).abs().nan_to_num(nan=inf, posinf=inf).masked_fill(same, 0)
    allowed = tolerance * scale + slack
    wrong = ~same & ((error > allowed) | (allowed == 0))
    if not wrong.any():
        return None
    worst = error.argmax() if error.any() else wrong.int().argmax()
    place = [int(i) for i in torch.unravel_index(worst, error.shape)]
    values = f"{x.flatten()[worst].item()} became {y.flatten()[worst].item()}"
    return (
        f"{int(wrong.sum())} of {wrong.numel()} elements differ, most at {place}: "
        f"{values}, by {error.max().item():.3g}; allowed {allowed:.3g} "
        f"({tolerance:g} of {scale:.3g})"
    )


def _tolerance(dtype: torch.dtype, rtol: float | None) -> float:
    if rtol is None or not (dtype.is_floating_point or dtype.is_complex):
        return TOLERANCES.get(dtype, 0.0)
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
