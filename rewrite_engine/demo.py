"""A run of `qat_fuse` on a small model like MobileNet, and what it changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import attrs
import torch
from torch import fx, nn

from rewrite_engine import engine
from rewrite_engine.graph_text import graph_text
from rewrite_engine.report import Report

_INPUT_SHAPE = (4, 3, 32, 32)


@attrs.frozen
class Differences:
    """The largest differences to the original model after one training step.

    Each is relative to the largest magnitude of its kind in the original.
    """

    outputs: float
    gradients: float
    statistics: float


@attrs.frozen
class Demo:
    """What was done; `before` and `after` are the text of one match."""

    nodes_before: int
    nodes_after: int
    report: Report
    differences: Differences
    before: tuple[str, ...]
    after: tuple[str, ...]


def run_demo() -> Demo:
    """Export the model, fuse a copy of it, and train both for one step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, inputs = build_model(), torch.randn(_INPUT_SHAPE)
        original = torch.export.export(model, (inputs,)).module()
    fused = copy.deepcopy(original)
    rules = engine.load("qat_fuse")
    matches = engine.find(fused, rules)
    # The first convolution with a bias shows most of the rule.
    index = next(i for i, m in enumerate(matches) if m.bindings["b"] is not None)
    before = _lines_of(fused, [node.name for node in matches[index].calls])
    report = engine.apply(fused, rules).report
    created = _created(original, fused)[index]
    return Demo(
        nodes_before=len(original.graph.nodes),
        nodes_after=len(fused.graph.nodes),
        report=report,
        differences=compare_step(original, fused, inputs),
        before=before,
        after=_lines_of(fused, created),
    )


# --- the model ---


def build_model() -> nn.Module:
    """A model in training mode with all that makes fusing hard, at a small size.

    Its BatchNorms have other settings than the defaults; a gamma is all zero, as at the
    end of a residual branch; a BatchNorm is frozen; a convolution is read twice.
    """
    model = nn.Sequential(
        *_conv_bn(3, 16, stride=2),
        _Block(16),
        *_conv_bn(16, 24, stride=2),
        _Block(24),
        _ReadTwice(24),
        *_conv_bn(24, 32, kernel=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    ).train()
    frozen = model[-5]
    frozen.eval()
    return model


def _conv_bn(
    inputs: int,
    outputs: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> tuple[nn.Module, ...]:
    padding = kernel // 2
    return (
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=bias),
        nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01),
        nn.ReLU6(),
    )


class _Block(nn.Module):
    """An inverted residual: expand, filter each channel, project, add."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        project, norm, _ = _conv_bn(wide, channels, kernel=1)
        nn.init.zeros_(norm.weight)
        self.branch = nn.Sequential(
            *_conv_bn(channels, wide, kernel=1),
            *_conv_bn(wide, wide, groups=wide, bias=True),
            project,
            norm,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)


class _ReadTwice(nn.Module):
    """A convolution whose result is needed as it is, too."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm, self.activation = _conv_bn(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.activation(self.norm(y)) + y


# --- one training step of both ---


def compare_step(
    original: fx.GraphModule, fused: fx.GraphModule, inputs: torch.Tensor
) -> Differences:
    """How far two models are apart after a step; both are changed by it."""
    expected, found = _step(original, inputs), _step(fused, inputs)
    return Differences(*map(_relative_difference, expected, found))


_Tensors = Mapping[str, torch.Tensor]


def _step(module: fx.GraphModule, inputs: torch.Tensor) -> tuple[_Tensors, ...]:
    """Outputs, gradients and running statistics."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    outputs = module(inputs)
    labels = torch.arange(len(outputs))
    nn.functional.cross_entropy(outputs, labels).backward()
    optimizer.step()
    gradients = {name: p.grad for name, p in module.named_parameters()}
    statistics = {k: v for k, v in module.named_buffers() if "running_" in k}
    return {"output": outputs.detach()}, gradients, statistics


def _relative_difference(expected: _Tensors, found: _Tensors) -> float:
    """NaN if a value is NaN in one of them."""
    pairs = [(expected[name], found[name]) for name in expected]
    difference = torch.stack([(a - b).abs().max() for a, b in pairs]).max()
    magnitude = torch.stack([a.abs().max() for a, _ in pairs]).max()
    return float(difference / magnitude)


# --- the text of one match ---


def _created(original: fx.GraphModule, fused: fx.GraphModule) -> list[list[str]]:
    """The names of the new nodes, match by match: each ends with its BatchNorm."""
    known = {node.name for node in original.graph.nodes}
    created: list[list[str]] = [[]]
    for node in fused.graph.nodes:
        if node.name in known:
            continue
        created[-1].append(node.name)
        if node.target is torch.ops.aten.batch_norm.default:
            created.append([])
    return created


def _lines_of(module: fx.GraphModule, names: list[str]) -> tuple[str, ...]:
    """The lines that define nodes, in graph order."""
    heads = tuple(f"%{name}: " for name in names)
    lines = (line.strip() for line in graph_text(module).splitlines())
    return tuple(line for line in lines if line.startswith(heads))
