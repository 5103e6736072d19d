"""Seeded models for benchmarks and tests; none needs a download.

Every builder returns `(module, example_inputs)` with the module in training mode and
with batch-norm parameters and statistics away from their defaults, so that a wrong
rewrite shows in the numbers.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import ParamSpec

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Model = tuple[nn.Module, tuple[torch.Tensor, ...]]
_P = ParamSpec("_P")


def capture(
    module: nn.Module, inputs: tuple[torch.Tensor, ...]
) -> torch.fx.GraphModule:
    """Export `module` in the mode it is in, and return the unlifted graph module."""
    return torch.export.export(module, inputs).module()


def chained(gm: torch.fx.GraphModule, times: int) -> torch.fx.GraphModule:
    """A graph that runs `gm` on its own result, `times` in all, each with state of its
    own. It must map one tensor to one of the same type.

    Exporting thousands of layers takes torch many minutes.
    """
    root = nn.ModuleDict({str(i): copy.deepcopy(gm) for i in range(times)})
    graph = torch.fx.Graph()
    value = None
    for number in range(times):
        value = _appended(graph, gm.graph, f"{number}.", value)
    graph.output((value,))
    return torch.fx.GraphModule(root, graph)


def _appended(
    graph: torch.fx.Graph,
    block: torch.fx.Graph,
    prefix: str,
    value: torch.fx.Node | None,
) -> torch.fx.Node:
    copies: dict[torch.fx.Node, torch.fx.Node] = {}
    for node in block.nodes:
        if node.op == "placeholder" and value is not None:
            copies[node] = value
        elif node.op == "output":
            return copies[node.all_input_nodes[0]]
        elif node.op != "call_module":  # export's check of the inputs
            copies[node] = graph.node_copy(node, copies.__getitem__)
            if node.op == "get_attr":
                copies[node].target = prefix + str(node.target)
    raise ValueError("the graph has no output")


def randomise_batch_norms(module: nn.Module) -> nn.Module:
    """Move every batch-norm of `module` off its initial ones and zeros, in place."""
    for norm in module.modules():
        if not isinstance(norm, _BatchNorm):
            continue
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
        if norm.running_var is not None:
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return module


def _seeded(build: Callable[_P, Model]) -> Callable[_P, Model]:
    """Make `build` give the same parameters and inputs at every call."""

    @functools.wraps(build)
    def seeded(*args: _P.args, **kwargs: _P.kwargs) -> Model:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module, inputs = build(*args, **kwargs)
            return randomise_batch_norms(module).train(), inputs

    return seeded


class ConvBn(nn.Module):
    """A convolution, a batch-norm and an optional activation."""

    def __init__(
        self, conv: nn.Module, norm: nn.Module, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv = conv
        self.bn = norm
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`activation(bn(conv(x)))`"""
        y = self.bn(self.conv(x))
        return y if self.activation is None else self.activation(y)


class Residual(nn.Module):
    """`body(x) + shortcut(x)`, with an optional activation after the sum."""

    def __init__(
        self,
        body: nn.Module,
        shortcut: nn.Module | None = None,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut or nn.Identity()
        self.activation = activation or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`activation(body(x) + shortcut(x))`"""
        return self.activation(self.body(x) + self.shortcut(x))


# --- chains of pairs ---


@_seeded
def conv_bn_pairs(n: int, channels: int = 8) -> Model:
    """A chain of `n` 3x3 convolutions, each followed by a batch-norm and a ReLU."""
    pairs = (
        ConvBn(
            nn.Conv2d(
                3 if i == 0 else channels, channels, 3, padding=1, bias=i % 2 == 0
            ),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        for i in range(n)
    )
    return nn.Sequential(*pairs), (torch.randn(2, 3, 8, 8),)


# --- ResNet-50 ---


def _pair(inputs: int, outputs: int, kernel: int, *, relu: bool = True) -> ConvBn:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return ConvBn(conv, nn.BatchNorm2d(outputs), nn.ReLU() if relu else None)


def _bottleneck(inputs: int, outputs: int) -> Residual:
    """Three pairs, and a fourth on the shortcut where the width changes."""
    inner = outputs // 4
    body = nn.Sequential(
        _pair(inputs, inner, 1),
        _pair(inner, inner, 3),
        _pair(inner, outputs, 1, relu=False),
    )
    project = None if inputs == outputs else _pair(inputs, outputs, 1, relu=False)
    return Residual(body, project, nn.ReLU())


def _bottlenecks(pairs: int, width: int) -> Iterator[nn.Module]:
    """Blocks that hold exactly `pairs` conv-bn pairs; every fourth one widens."""
    blocks = 0
    while pairs >= 4:
        wider = width * 2 if blocks % 4 == 0 else width
        yield _bottleneck(width, wider)
        pairs -= 3 if wider == width else 4
        width, blocks = wider, blocks + 1
    for _ in range(pairs):
        yield _pair(width, width, 1)


@_seeded
def resnet_like(pairs: int = 50, width: int = 16) -> Model:
    """Bottleneck blocks with residual sums, as in ResNet-50: `pairs` conv-bn pairs."""
    stem = _pair(3, width, 3)
    body = nn.Sequential(stem, nn.MaxPool2d(2), *_bottlenecks(pairs - 1, width))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(10))
    model = nn.Sequential(body, head)
    inputs = (torch.randn(2, 3, 16, 16),)
    model(*inputs)  # gives the lazy classifier its width
    return model, inputs


# --- MobileNetV2 ---


class _MobileNet:
    """Builds the layers of one MobileNet; holds the batch-norm's constants."""

    def __init__(self, eps: float, momentum: float) -> None:
        self.eps = eps
        self.momentum = momentum

    def pair(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        activation: nn.Module | None = None,
    ) -> ConvBn:
        conv = nn.Conv2d(
            inputs,
            outputs,
            kernel,
            stride=stride,
            padding=kernel // 2,
            groups=groups,
            bias=bias,
        )
        norm = nn.BatchNorm2d(outputs, eps=self.eps, momentum=self.momentum)
        return ConvBn(conv, norm, activation)

    def inverted_residual(
        self, inputs: int, outputs: int, *, stride: int, bias: bool
    ) -> nn.Module:
        """Expand, depthwise, project; a residual sum where shapes allow."""
        hidden = inputs * 2
        body = nn.Sequential(
            self.pair(inputs, hidden, bias=bias, activation=nn.ReLU6()),
            self.pair(
                hidden,
                hidden,
                3,
                stride=stride,
                groups=hidden,
                bias=bias,
                activation=nn.ReLU6(),
            ),
            self.pair(hidden, outputs),
        )
        return Residual(body) if stride == 1 and inputs == outputs else body


@_seeded
def mobilenet_like(
    eps: float = 1e-3, momentum: float = 0.01, blocks: int = 8, width: int = 8
) -> Model:
    """Inverted residuals with depthwise convolutions, as in MobileNetV2.

    Every third block has biases before its batch-norms. Holds `3 * blocks + 2` pairs.
    """
    net = _MobileNet(eps, momentum)
    layers: list[nn.Module] = [net.pair(3, width, 3, stride=2, activation=nn.ReLU6())]
    channels = width
    for i in range(blocks):
        wider = channels * 2 if i % 3 == 2 else channels
        stride = 2 if i == 2 else 1
        bias = i % 3 == 1
        layers.append(net.inverted_residual(channels, wider, stride=stride, bias=bias))
        channels = wider
    layers.append(net.pair(channels, 2 * channels, activation=nn.ReLU6()))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * channels, 10))
    return nn.Sequential(*layers, *head), (torch.randn(2, 3, 16, 16),)


# --- EfficientNet ---


class SqueezeExcite(nn.Module):
    """Channels weighted by gates that are computed from their means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.gates = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.SiLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x * gates(x)`"""
        return x * self.gates(x)


def _same_pair(
    inputs: int, outputs: int, kernel: int, *, groups: int = 1, silu: bool = True
) -> ConvBn:
    """A pair with `padding="same"` and EfficientNet's batch-norm constants."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding="same", groups=groups, bias=False)
    norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)
    return ConvBn(conv, norm, nn.SiLU() if silu else None)


def _mbconv(inputs: int, outputs: int, kernel: int) -> nn.Module:
    """Expand, depthwise, squeeze and excite, project."""
    hidden = inputs * 2
    body = nn.Sequential(
        _same_pair(inputs, hidden, 1),
        _same_pair(hidden, hidden, kernel, groups=hidden),
        SqueezeExcite(hidden, inputs // 2),
        _same_pair(hidden, outputs, 1, silu=False),
    )
    return Residual(body) if inputs == outputs else body


@_seeded
def efficientnet_like(blocks: int = 3, width: int = 8) -> Model:
    """MBConv blocks as in EfficientNet: string padding, SiLU, squeeze and excitation.

    Holds `3 * blocks + 2` pairs; the convolutions inside the gates have no batch-norm.
    """
    layers: list[nn.Module] = [_same_pair(3, width, 3), nn.MaxPool2d(2)]
    channels = width
    for i in range(blocks):
        wider = channels * 2 if i % 2 == 1 else channels
        layers.append(_mbconv(channels, wider, 5 if i % 2 else 3))
        channels = wider
    layers.append(_same_pair(channels, 2 * channels, 1))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * channels, 10))
    return nn.Sequential(*layers, *head), (torch.randn(2, 3, 16, 16),)


# --- models with other operators ---


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and a two-layer perceptron."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def _attend(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        split = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.project(y.transpose(1, 2).reshape(batch, length, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` is [batch, length, width], and so is the result."""
        x = x + self._attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))


@_seeded
def transformer_like(blocks: int = 2, width: int = 32, heads: int = 4) -> Model:
    """Transformer blocks: no convolution, so nothing in it matches `qat_fuse`."""
    layers = (TransformerBlock(width, heads) for _ in range(blocks))
    return nn.Sequential(*layers), (torch.randn(2, 6, width),)


@_seeded
def decoder_like(stages: int = 3, width: int = 32) -> Model:
    """Transposed convolutions that double the size; the last one is grouped."""
    layers = []
    for i in range(stages):
        conv = nn.ConvTranspose2d(
            width,
            width // 2,
            3,
            stride=2,
            padding=1,
            output_padding=1,
            groups=2 if i == stages - 1 else 1,
            bias=i % 2 == 0,
        )
        layers.append(ConvBn(conv, nn.BatchNorm2d(width // 2), nn.ReLU()))
        width //= 2
    head = nn.Conv2d(width, 3, 1)
    return nn.Sequential(*layers, head), (torch.randn(2, width << stages, 4, 4),)
