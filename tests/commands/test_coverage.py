"""`rewrite-engine coverage`: what no model exercises is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

RULES = """\
family Norm(op) = aten.layer_norm.default | aten.rms_norm.default

rule normed for norm in Norm {
  y = linear(x, w, b?)
  z = norm(relu?(y), [4], ..)
  u = mul(z, 2.0) | add(z, z)
  where x: f32, w is const
=>
  u' = neg(y)
}
"""


class Model(nn.Module):
    def __init__(self, *, bias: bool, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, bias=bias, dtype=dtype)
        self.norm = nn.LayerNorm(4, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(torch.relu(self.linear(x))) * 2.0


@pytest.fixture
def corpus(here) -> list[str]:
    Path("normed.rules").write_text(RULES)
    for name, dtype in (("a", torch.float32), ("b", torch.float64)):
        model = Model(bias=True, dtype=dtype)
        program = torch.export.export(model, (torch.randn(2, 4, dtype=dtype),))
        torch.export.save(program, f"{name}.pt2")
    return ["a.pt2", "b.pt2"]


def test_what_is_never_taken_is_named(corpus, run):
    status, out, err = run("coverage", "normed.rules", *corpus)
    assert (status, err) == (0, "")
    assert "2 models\n" in out
    assert [
        part.strip() for part in out.partition("never in normed:\n")[2].splitlines()
    ] == [
        "row aten.rms_norm.default",
        "`b` absent",
        "alternative `add(z, z)` of line 6",
        "guard `w is const` fails",
    ]


def test_one_model_takes_less(corpus, run):
    out = run("coverage", "normed.rules", corpus[0])[1]
    assert "guard `x: f32` fails" in out
