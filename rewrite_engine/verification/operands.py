"""Shapes for the operands of operators whose operands must fit each other.

An operator that is not listed is taken to be elementwise: one shape fits all operands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeAlias

import attrs
import torch
from torch import fx

Content: TypeAlias = Literal[
    "any",
    "positive",
    "index",
    "mask",
    "zero point",
    "int8",
    "running mean",
    "running variance",
    "minimum",
    "maximum",
    "fraction",
]
"""What the elements of an operand may be. An index counts from 0 to 1."""


@attrs.frozen
class Sizes:
    """The sizes that shapes are made of; `rank` is that of elementwise operands."""

    rank: int = 4
    batch: int = 3
    channels: int = 4
    outputs: int = 6
    spatial: int = 5
    kernel: int = 2

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an operand that is free."""
        full = (self.batch, self.channels, self.spatial, self.spatial, self.spatial)
        return full[: self.rank]


@attrs.frozen
class Operand:
    """What a free operand is made as."""

    shape: tuple[int, ...]
    content: Content = "any"

    @property
    def is_buffer(self) -> bool:
        """Whether models keep it as a buffer, of which there is no gradient."""
        return self.content in ("running mean", "running variance")


Arguments: TypeAlias = Mapping[str, Any]
"""The arguments of a call by parameter name, those that are known so far."""

Names: TypeAlias = Mapping[fx.Node, tuple[str, Arguments]]
"""The operators of calls, and their arguments by parameter name."""

_Rule: TypeAlias = Callable[[Arguments, Sizes], Mapping[str, Operand]]


def operands_of(operator: str, given: Arguments, sizes: Sizes) -> Mapping[str, Operand]:
    """Operands that fit those given, by parameter name, for a known operator.

    `operator` is its name without namespace and overload (`conv2d`). May raise
    whatever wrong arguments make it raise; the call itself would be wrong, too.
    """
    rule = _RULES.get(operator)
    return {} if rule is None else rule(given, sizes)


def is_known(operator: str) -> bool:
    """Whether an operator is listed here."""
    return operator in _RULES


def observed(name: str, value: Any) -> Operand:
    """What an observer may hold under a name where it now has this value."""
    shape = tuple(value.shape) if isinstance(value, torch.Tensor) else ()
    return Operand(shape, _OBSERVED.get(name, "any"))


def channel_axis(node: fx.Node, names: Names) -> int:
    """The axis of the channels in a value for the layers that read it, from its end."""
    ranks = _ranks(node, names)
    return -1 - ranks[0] if ranks else -1


def is_ambiguous(graph: fx.Graph, names: Names) -> bool:
    """Whether convolutions of several ranks read one value: its channels then lie along
    different axes, and hardly any value is right for all of them.
    """
    return any(len(set(_ranks(node, names))) > 1 for node in graph.nodes)


def _ranks(node: fx.Node, names: Names) -> list[int]:
    """The spatial ranks of the convolutions that read a value."""
    operators = (names.get(reader, ("", {}))[0] for reader in node.users)
    found = (re.fullmatch(r"conv(?:_transpose)?(\d)d", name) for name in operators)
    return [int(match[1]) for match in found if match is not None]


def elementwise(given: Arguments, sizes: Sizes) -> Operand:
    """An operand that is as large as the largest one that is given."""
    tensors = [v for v in given.values() if isinstance(v, torch.Tensor)]
    if not tensors:
        return Operand(sizes.shape)
    return Operand(tuple(max(tensors, key=torch.Tensor.dim).shape))


def _first(given: Arguments, *names: str) -> torch.Tensor | None:
    found = (given.get(name) for name in names)
    return next((value for value in found if isinstance(value, torch.Tensor)), None)


def _convolution(rank: int, *, transposed: bool) -> _Rule:
    def rule(given: Arguments, sizes: Sizes) -> Mapping[str, Operand]:
        groups = given.get("groups", 1)
        x, w = _first(given, "input", "self"), _first(given, "weight")
        channels = sizes.channels
        if x is not None:
            channels = x.shape[1]
        elif w is not None:
            channels = w.shape[0] if transposed else w.shape[1] * groups
        first, second = sizes.outputs, channels // groups
        if transposed:
            first, second = channels, sizes.outputs // groups
        weight = (first, second, *[sizes.kernel] * rank)
        weight = weight if w is None else tuple(w.shape)
        outputs = weight[1] * groups if transposed else weight[0]
        return {
            "input": Operand((sizes.batch, channels, *[sizes.spatial] * rank)),
            "weight": Operand(weight),
            "bias": Operand((outputs,)),
        }

    return rule


def _convolution_of_any_rank(given: Arguments, sizes: Sizes) -> Mapping[str, Operand]:
    known = _first(given, "input", "weight")
    rank = (sizes.rank if known is None else known.dim()) - 2
    transposed = given.get("transposed") is True
    return _convolution(rank, transposed=transposed)(given, sizes)


def _linear(given: Arguments, sizes: Sizes) -> Mapping[str, Operand]:
    x, w = _first(given, "input"), _first(given, "weight")
    inputs = sizes.channels
    if x is not None:
        inputs = x.shape[-1]
    elif w is not None:
        inputs = w.shape[-1]
    outputs = sizes.outputs if w is None else w.shape[0]
    leading = sizes.shape[:-1] or (sizes.batch,)
    return {
        "input": Operand((*leading, inputs)),
        "weight": Operand((outputs, inputs)),
        "bias": Operand((outputs,)),
    }


def _channelwise(given: Arguments, sizes: Sizes) -> Mapping[str, Operand]:
    """A normalization with a value a channel."""
    x = _first(given, "input")
    shape = sizes.shape if x is None else tuple(x.shape)
    # What is normalized is mostly what a layer puts out.
    channels = (sizes.outputs if x is None else shape[1],)
    return {
        "input": Operand(shape),
        **dict.fromkeys(("weight", "bias"), Operand(channels)),
        "running_mean": Operand(channels, "running mean"),
        "running_var": Operand(channels, "running variance"),
    }


def _channelwise_in_eval(given: Arguments, sizes: Sizes) -> Mapping[str, Operand]:
    x = _first(given, "input")
    if x is not None and x.numel() == 0:
        # Its backward divides by a size, in whole numbers: torch ends the process.
        raise ValueError("of an empty batch, this has no gradient")
    return _channelwise(given, sizes)


def _prelu(given: Arguments, sizes: Sizes) -> Mapping[str, Operand]:
    x = _first(given, "input", "self")
    shape = sizes.shape if x is None else tuple(x.shape)
    weight = Operand(shape[1:2] or (1,))
    return {**dict.fromkeys(("input", "self"), Operand(shape)), "weight": weight}


def _layer_norm(given: Arguments, sizes: Sizes) -> Mapping[str, Operand]:
    normalized = tuple(given["normalized_shape"])
    return {
        "input": Operand((sizes.batch, sizes.spatial, *normalized)),
        **dict.fromkeys(("weight", "bias"), Operand(normalized)),
    }


def _product(batch: int) -> _Rule:
    """A matrix product with so many batch dimensions."""

    def rule(given: Arguments, sizes: Sizes) -> Mapping[str, Operand]:
        left = _first(given, "self", "input", "mat1", "a")
        right = _first(given, "mat2", "other", "tensor2", "b")
        leading = (sizes.batch,) * batch
        inner = sizes.channels
        if left is not None:
            inner, leading = left.shape[-1], tuple(left.shape[:-2])
        elif right is not None:
            inner, leading = right.shape[-2], tuple(right.shape[:-2])
        one = Operand((*leading, sizes.spatial, inner))
        other = Operand((*leading, inner, sizes.outputs))
        lefts = dict.fromkeys(("self", "input", "mat1", "a"), one)
        return {**lefts, **dict.fromkeys(("mat2", "other", "tensor2", "b"), other)}

    return rule


def _addmm(given: Arguments, sizes: Sizes) -> Mapping[str, Operand]:
    matrices = {k: v for k, v in given.items() if k in ("mat1", "mat2")}
    product = _product(0)(matrices, sizes)
    right = _first(given, "mat2")
    outputs = sizes.outputs if right is None else right.shape[-1]
    added = Operand((outputs,))
    return {**product, "self": added, "input": added}


def _embedding(given: Arguments, sizes: Sizes) -> Mapping[str, Operand]:
    return {
        "weight": Operand((sizes.outputs, sizes.channels)),
        "indices": Operand((sizes.batch, sizes.spatial), "index"),
        "input": Operand((sizes.batch, sizes.spatial), "index"),
    }


def _selection(given: Arguments, sizes: Sizes) -> Mapping[str, Operand]:
    return {"condition": attrs.evolve(elementwise(given, sizes), content="mask")}


def _attention(given: Arguments, sizes: Sizes) -> Mapping[str, Operand]:
    heads = Operand((sizes.batch, 2, sizes.spatial, sizes.channels))
    return dict.fromkeys(("query", "key", "value"), heads)


def _image(given: Arguments, sizes: Sizes) -> Mapping[str, Operand]:
    image = Operand((sizes.batch, sizes.channels, sizes.spatial, sizes.spatial))
    return dict.fromkeys(("self", "input"), image)


def _per_tensor(*, integers: bool) -> _Rule:
    def rule(given: Arguments, sizes: Sizes) -> Mapping[str, Operand]:
        return {
            "input": Operand(sizes.shape, "int8" if integers else "any"),
            "scale": Operand((), "positive"),
            "zero_point": Operand((), "zero point"),
        }

    return rule


def _per_channel(*, integers: bool) -> _Rule:
    def rule(given: Arguments, sizes: Sizes) -> Mapping[str, Operand]:
        x = _first(given, "input")
        shape = sizes.shape if x is None else tuple(x.shape)
        channels = (shape[given.get("axis", 0)],)
        return {
            "input": Operand(shape, "int8" if integers else "any"),
            "scales": Operand(channels, "positive"),
            "zero_points": Operand(channels, "zero point"),
        }

    return rule


_RULES: Final[Mapping[str, _Rule]] = {
    "conv1d": _convolution(1, transposed=False),
    "conv2d": _convolution(2, transposed=False),
    "conv3d": _convolution(3, transposed=False),
    "conv_transpose1d": _convolution(1, transposed=True),
    "conv_transpose2d": _convolution(2, transposed=True),
    "conv_transpose3d": _convolution(3, transposed=True),
    "convolution": _convolution_of_any_rank,
    "linear": _linear,
    "batch_norm": _channelwise,
    "_native_batch_norm_legit_no_training": _channelwise_in_eval,
    "instance_norm": _channelwise,
    "group_norm": _channelwise,
    "prelu": _prelu,
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "matmul": _product(0),
    "mm": _product(0),
    "bmm": _product(1),
    "addmm": _addmm,
    "embedding": _embedding,
    "where": _selection,
    "masked_fill": lambda given, sizes: {
        "mask": attrs.evolve(elementwise(given, sizes), content="mask")
    },
    "scaled_dot_product_attention": _attention,
    "max_pool2d": _image,
    "avg_pool2d": _image,
    "adaptive_avg_pool2d": _image,
    "quantize_per_tensor": _per_tensor(integers=False),
    "dequantize_per_tensor": _per_tensor(integers=True),
    "quantize_per_channel": _per_channel(integers=False),
    "dequantize_per_channel": _per_channel(integers=True),
}

_OBSERVED: Final[Mapping[str, Content]] = {
    "min_val": "minimum",
    "max_val": "maximum",
    "alpha": "fraction",
}
