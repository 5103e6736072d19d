"""What `qat_fuse` must not touch, and why it says so; what is shared stays right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.fx import GraphModule, Node

from benches.models import ConvBn, capture, randomise_batch_norms
from tests.qat.models import Two

aten = torch.ops.aten
DTYPE = torch.float64


def _pair(conv: nn.Module | None = None, **norm) -> ConvBn:
    return ConvBn(conv or nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, **norm)).train()


def _capture(module: nn.Module) -> GraphModule:
    torch.manual_seed(0)
    return capture(randomise_batch_norms(module).to(DTYPE), _inputs())


def _inputs() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    return (torch.randn(2, 4, 6, 6, generator=generator, dtype=DTYPE),)


def _node(gm: GraphModule, target: object) -> Node:
    (node,) = gm.graph.find_nodes(op="call_function", target=target)
    return node


def _reasons(result) -> list[str]:
    return [refusal.reason for rule in result.report.rules for refusal in rule.refusals]


def _assert_trains_equally(gm: GraphModule, fused: GraphModule, train) -> None:
    # Inputs anew for each: some of these models write them.
    expected, actual = train(gm, _inputs(), 2), train(fused, _inputs(), 2)
    for tensors in ("outputs", "gradients", "state"):
        torch.testing.assert_close(
            getattr(actual, tensors),
            getattr(expected, tensors),
            rtol=1e-10,
            atol=1e-10,
        )


# --- refused, with the cause ---


class AlsoReturned(ConvBn):
    """The convolution's output is an output of the model, too."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.conv(x)
        return self.bn(y), y


class AlsoAdded(ConvBn):
    """The convolution's output is read after the batch-norm."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.bn(y) + y


def _frozen() -> nn.Module:
    module = _pair()
    module.bn.eval()
    return module


REFUSED = {
    "also returned": (
        lambda: AlsoReturned(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)).train(),
        "also read by",
    ),
    "also added": (
        lambda: AlsoAdded(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)).train(),
        "also read by",
    ),
    "eval mode": (_frozen, "eval mode"),
    "no statistics": (lambda: _pair(track_running_stats=False), "running statistics"),
    "eval mode, groups": (
        lambda: _pair(nn.ConvTranspose2d(4, 6, 3, groups=2)).apply(_freeze),
        "eval mode",
    ),
    "no statistics, groups": (
        lambda: _pair(nn.ConvTranspose2d(4, 6, 3, groups=2), track_running_stats=False),
        "running statistics",
    ),
}


def _freeze(module: nn.Module) -> None:
    if isinstance(module, nn.BatchNorm2d):
        module.eval()


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_cause(case, fuse, train):
    build, cause = REFUSED[case]
    gm = _capture(build())
    result = fuse(gm)
    assert not result.modified
    assert [r for r in _reasons(result) if cause in r], _reasons(result)
    assert result.graph_module.code == gm.code
    _assert_trains_equally(gm, result.graph_module, train)


# --- a mutation in between ---


def _placeholder(gm: GraphModule) -> Node:
    (node,) = gm.graph.find_nodes(op="placeholder")
    return node


WRITTEN: dict[str, Callable[[GraphModule], Node]] = {
    "output": lambda gm: _node(gm, aten.conv2d.default),
    "input": _placeholder,
    "weight": lambda gm: _node(gm, aten.conv2d.default).args[1],
    "bias": lambda gm: _node(gm, aten.conv2d.default).args[2],
    "gamma": lambda gm: _node(gm, aten.batch_norm.default).args[1],
    "variance": lambda gm: _node(gm, aten.batch_norm.default).args[4],
}


def _write_in_between(written: str) -> GraphModule:
    """A pair whose `written` value is doubled in place after the convolution."""
    gm = _capture(_pair())
    conv = _node(gm, aten.conv2d.default)
    with gm.graph.inserting_after(conv):
        alias = gm.graph.call_function(aten.detach.default, (WRITTEN[written](gm),))
    with gm.graph.inserting_after(alias):
        gm.graph.call_function(aten.mul_.Tensor, (alias, 2.0))
    gm.recompile()
    return gm


@pytest.mark.parametrize("written", WRITTEN)
def test_a_write_in_between_changes_no_number(written, fuse):
    gm = _write_in_between(written)
    result = fuse(gm)
    assert result.modified or _reasons(result)
    # The forward pass alone: a parameter written in between has no right gradient.
    (x,), fused = _inputs(), result.graph_module
    torch.testing.assert_close(fused(x.clone()), gm(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(fused.state_dict(), gm.state_dict())


@pytest.mark.parametrize("written", ["output", "input", "weight"])
def test_a_write_that_cannot_be_crossed_is_named(written, fuse):
    result = fuse(_write_in_between(written))
    assert not result.modified
    cause = "also read by" if written == "output" else "mul_"
    assert any(cause in reason for reason in _reasons(result)), _reasons(result)


# --- shared weights and batch-norms ---


def _tied_weight() -> nn.Module:
    module = Two(_pair(), _pair())
    module.second.conv.weight = module.first.conv.weight
    return module


def _one_norm() -> nn.Module:
    module = Two(_pair(), _pair())
    module.second.bn = module.first.bn
    return module


def _one_pair() -> nn.Module:
    module = Two(_pair(), _pair())
    module.second = module.first
    return module


class AlsoUnfused(ConvBn):
    """The weight is read by a convolution without batch-norm, too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)).sum() + nn.functional.conv2d(
            x, self.conv.weight, stride=3
        )


SHARED = {
    "tied weight": (_tied_weight, 2),
    "one batch-norm": (_one_norm, 2),
    "one pair called twice": (_one_pair, 2),
    "weight of an unfused convolution": (
        lambda: AlsoUnfused(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)).train(),
        1,
    ),
}


@pytest.mark.parametrize("case", SHARED)
def test_shared_tensors_stay_right(case, fuse, train):
    build, pairs = SHARED[case]
    gm = _capture(build())
    result = fuse(gm)
    matches = sum(rule.matches for rule in result.report.rules)
    assert matches == pairs
    _assert_trains_equally(gm, result.graph_module, train)
    unchanged = dict(gm.named_parameters())
    torch.testing.assert_close(dict(result.graph_module.named_parameters()), unchanged)
