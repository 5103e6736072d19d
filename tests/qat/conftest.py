"""What the QAT tests share: the rules, and how a fused graph is judged."""

from __future__ import annotations

import copy
from collections.abc import Callable

import attrs
import pytest
import torch

from rewrite_engine import engine, load

Tensors = dict[str, torch.Tensor]


@attrs.frozen(eq=False)
class Training:
    """What a few training steps show of a model, by name."""

    outputs: Tensors
    """Of the last step; named by position."""
    gradients: Tensors
    """Of the first step; in low precision those of later steps are mostly noise."""
    state: Tensors
    """Parameters and buffers after the last step: what all the gradients did."""


def _loss(outputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """A weighted sum: the plain sum of a batch-norm's output has no gradient."""
    generator = torch.Generator().manual_seed(1)
    terms = []
    for y in outputs:
        weights = torch.randn(y.shape, generator=generator).to(y.dtype)
        terms.append((y * weights).sum() / y.numel() ** 0.5)
    return torch.stack(terms).sum()


def _as_tuple(outputs: object) -> tuple[torch.Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _gradients(gm: torch.fx.GraphModule) -> Tensors:
    return {
        name: parameter.grad.clone()
        for name, parameter in gm.named_parameters()
        if parameter.grad is not None
    }


def _train(
    gm: torch.fx.GraphModule, inputs: tuple[torch.Tensor, ...], steps: int
) -> Training:
    optimizer = torch.optim.SGD(gm.parameters(), lr=1e-2)
    gradients: Tensors = {}
    for _ in range(steps):
        optimizer.zero_grad()
        outputs = _as_tuple(gm(*inputs))
        _loss(outputs).backward()
        gradients = gradients or _gradients(gm)
        optimizer.step()
    named = {str(i): y.detach() for i, y in enumerate(outputs)}
    return Training(named, gradients, dict(gm.state_dict()))


@pytest.fixture(scope="session")
def rules():
    return load("qat_fuse")


@pytest.fixture(scope="session")
def fuse(rules):
    """A fused deep copy of a graph module, with its report."""

    def apply(gm: torch.fx.GraphModule):
        return engine.apply(copy.deepcopy(gm), rules)

    return apply


@pytest.fixture(scope="session")
def train() -> Callable[..., Training]:
    """Take some steps of SGD on a deep copy."""
    return lambda gm, inputs, steps=1: _train(copy.deepcopy(gm), inputs, steps)
