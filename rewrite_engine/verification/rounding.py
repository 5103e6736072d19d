"""By how much rounding to the steps of a quantizer lets two sides differ.

A value that lies between two steps comes out as one or the other, depending on its last
digit. So where a left side quantizes, an inexact rule is held to what one step makes of
the results, and to nothing where a value lies beyond the range of its quantizer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal, TypeAlias

import attrs
import torch
from torch import fx
from torch._ops import OpOverload

from rewrite_engine.equivalence import Run
from rewrite_engine.verification.slack import larger, sensitivity

Direction: TypeAlias = Literal["up", "down", "either"]

_QUANTIZERS: Final = frozenset(
    {
        *("quantize_per_tensor", "quantize_per_channel", "quantize_affine"),
        "convert_element_type",
    }
)


def quantizes(graph: fx.Graph) -> bool:
    """Whether a graph rounds values to steps."""
    return any(True for _ in _quantizers(graph))


def step_slack(
    module: fx.GraphModule, expected: Run, run: Callable[[fx.GraphModule], Run]
) -> dict[str, float]:
    """How much one step of its quantizers changes each value that a module gives."""
    slack: dict[str, float] = {}
    for moved in _stepped(module):
        slack = larger(slack, sensitivity(expected, run(moved), 1.0))
    return slack


def saturates(module: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> bool:
    """Whether a value is at the end of its quantizer's range, or beyond."""
    if not quantizes(module.graph):
        return False
    seen = _Limits()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        _with(module, seen)(*(tensor.clone() for tensor in inputs))
    return seen.reached


def _stepped(module: fx.GraphModule) -> Iterator[fx.GraphModule]:
    """The module with all quantized values one step higher, lower, and either."""
    if quantizes(module.graph):
        directions: tuple[Direction, ...] = ("up", "down", "either")
        for direction in directions:
            yield _with(module, _Step(direction))


def _quantizers(graph: fx.Graph) -> Iterator[fx.Node]:
    for node in graph.nodes:
        if isinstance(node.target, OpOverload):
            name = node.target._schema.name.partition("::")[2]
            if name in _QUANTIZERS:
                yield node


def _with(module: fx.GraphModule, function: Callable[..., Any]) -> fx.GraphModule:
    """The module with a function of every quantized value, on the same state."""
    graph = copy.deepcopy(module.graph)
    for node in list(_quantizers(graph)):
        readers = list(node.users)
        with graph.inserting_after(node):
            changed = graph.call_function(function, (node, *_range(node)))
        for reader in readers:
            reader.replace_input_with(node, changed)
    return fx.GraphModule(module, graph)


def _range(node: fx.Node) -> tuple[Any, Any]:
    """The least and the greatest value that a quantizer gives, as it is told."""
    assert isinstance(node.target, OpOverload)
    names = [argument.name for argument in node.target._schema.arguments]
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    return given.get("quant_min"), given.get("quant_max")


def _ends(value: torch.Tensor, low: Any, high: Any) -> tuple[float, float]:
    if value.dtype.is_floating_point:
        return -torch.finfo(value.dtype).max, torch.finfo(value.dtype).max
    limits = torch.iinfo(value.dtype)
    ends = limits.min if low is None else low, limits.max if high is None else high
    return float(ends[0]), float(ends[1])


@attrs.frozen(eq=False)
class _Step:
    """One step in a direction, within the range."""

    direction: Direction
    __name__: str = "step"

    def __call__(self, value: torch.Tensor, low: Any, high: Any) -> torch.Tensor:
        step = torch.full(value.shape, -1 if self.direction == "down" else 1)
        if self.direction == "either":
            chosen = torch.Generator().manual_seed(0)  # calls may draw, too
            step = torch.randint(0, 2, value.shape, generator=chosen) * 2 - 1
        if value.dtype.is_floating_point:
            return value + value * step.to(value) * torch.finfo(value.dtype).eps
        moved = value.double() + step
        return moved.clamp(*_ends(value, low, high)).to(value.dtype)


@attrs.define(eq=False)
class _Limits:
    """Notes whether a value is at an end of its range."""

    reached: bool = False
    __name__: str = "limits"

    def __call__(self, value: torch.Tensor, low: Any, high: Any) -> torch.Tensor:
        low, high = _ends(value, low, high)
        wide = value.double()
        self.reached |= bool(((wide <= low) | (wide >= high)).any())
        return value
