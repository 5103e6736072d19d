"""Decoder layers as they are exported: casts to the dtype that is there, checks of it,
slices from end to end stand between the calls that rules look for.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from rewrite_engine import RuleSet, engine, load, loads

RULES = loads(
    """
    ## Root-mean-square norm, as decoders write it.
    rule fuse_rms_norm inexact 1e-5 {
      n = mul(x, rsqrt(mean(pow(x, 2), [-1], true) + $eps))
      z = mul(w, n)
    =>
      z' = rms_norm(x, [size(x, -1)], w, eps=$eps)
    }

    ## Attention, as decoders write it.
    rule fuse_attention inexact 1e-5 {
      s = matmul(q, transpose(k, 2, 3)) * $scale
      y = matmul(softmax(s + mask, -1, ..), v)
    =>
      a = scaled_dot_product_attention(q, k, v, mask, 0.0, false, scale=$scale)
      y' = contiguous(a)
    }
    """
)


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * wide.to(x.dtype)


class Layer(nn.Module):
    """One head for each of two groups of 8 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = Norm(16)
        self.q, self.k, self.v = (nn.Linear(16, 16, bias=False) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        h = self.norm(x)
        q, k, v = (
            layer(h).view(batch, length, 2, 8).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        mask = torch.full((length, length), -1e9).triu(1)[None, None, :, :length]
        scores = q @ k.transpose(2, 3) * 8**-0.5 + mask
        weights = nn.functional.softmax(scores, -1, dtype=torch.float32).to(q.dtype)
        weights = nn.functional.dropout(weights, 0.1, self.training)
        return x + (weights @ v).transpose(1, 2).reshape(batch, length, 16)


@pytest.fixture
def exported() -> ExportedProgram:
    torch.manual_seed(0)
    model = nn.Sequential(Layer(), Layer(), Norm(16)).eval()
    shapes = ({0: Dim.STATIC, 1: Dim("length", min=2, max=64)},)
    return torch.export.export(model, (torch.randn(2, 7, 16),), dynamic_shapes=shapes)


def matches(program: ExportedProgram, rules: RuleSet) -> dict[str, int]:
    report = engine.apply(program, rules).report
    return {rule.name: rule.matches for rule in report.rules if rule.matches}


def test_no_rule_matches_across_what_export_leaves(exported: ExportedProgram) -> None:
    assert matches(exported, RULES) == {}


def test_rules_match_once_it_is_cleaned_up(exported: ExportedProgram) -> None:
    x = torch.randn(2, 11, 16)
    expected = exported.module()(x)
    cleaned = matches(exported, load("cleanup"))
    assert cleaned == {
        "drop_cast": 8,
        "drop_check": 8,
        "drop_dropout": 2,
        "drop_view": 2,
    }
    assert torch.equal(exported.module()(x), expected)
    assert matches(exported, RULES) == {"fuse_rms_norm": 3, "fuse_attention": 2}
    torch.testing.assert_close(exported.module()(x), expected)
    assert not engine.apply(exported, load("cleanup")).modified
