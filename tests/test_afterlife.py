"""What is done with a rewritten model afterwards works as with any other."""

from __future__ import annotations

import copy
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn

from rewrite_engine import engine, load

FUSE = load("qat_fuse")


def convolution(rank: int, **options: Any) -> nn.Module:
    kind, norm = CONVOLUTIONS[rank], NORMS[rank]
    return nn.Sequential(kind(4, 6, 3, **options), norm(6, eps=1e-3), nn.ReLU())


CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.relu(self.norm(self.conv(x)) + x)
        return y, y.mean((2, 3))


class Scripted(nn.Module):
    """One rule fires outside of the branches of a condition, and none within."""

    def __init__(self) -> None:
        super().__init__()
        self.body = convolution(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        return torch.cond(x.sum() > 0, torch.sin, torch.cos, (y,))


MODELS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv1d": (convolution(1), (2, 4, 9)),
    "conv2d": (convolution(2), (2, 4, 8, 8)),
    "conv3d": (convolution(3), (2, 4, 5, 5, 5)),
    "no bias": (convolution(2, bias=False), (2, 4, 8, 8)),
    "groups": (convolution(2, groups=2), (2, 4, 8, 8)),
    "depthwise, dilated": (convolution(2, groups=2, dilation=2), (2, 4, 8, 8)),
    "padding same": (convolution(2, padding="same"), (2, 4, 8, 8)),
    "reflected": (convolution(2, padding=1, padding_mode="reflect"), (2, 4, 8, 8)),
    "transposed": (
        nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)),
        (2, 4, 5, 5),
    ),
    "linear": (
        nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.GELU(), nn.Linear(6, 2)),
        (5, 4),
    ),
    "residual": (Residual(), (2, 4, 6, 6)),
    "beside a condition": (Scripted(), (2, 4, 9)),
}


@pytest.fixture(params=MODELS.values(), ids=MODELS.keys())
def model(request: pytest.FixtureRequest) -> tuple[nn.Module, torch.Tensor]:
    module, shape = request.param
    return copy.deepcopy(module).double().train(), torch.randn(shape).double()


@pytest.mark.figure("R17")
def test_a_rewritten_program_goes_on(model: tuple[nn.Module, torch.Tensor]) -> None:
    module, x = model
    expected = copy.deepcopy(module)(x)
    program = torch.export.export(module, (x,))
    assert engine.apply(program, FUSE).report.matches == 1
    program.validate()
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file)
    for other in (copy.deepcopy(program), loaded, program.run_decompositions()):
        torch.testing.assert_close(other.module()(x), expected)


@pytest.mark.figure("R17")
def test_a_rewritten_module_goes_on(model: tuple[nn.Module, torch.Tensor]) -> None:
    module, x = model
    expected = copy.deepcopy(module)(x)
    gm = torch.export.export(module, (x,)).module()
    assert engine.apply(gm, FUSE).report.matches == 1
    compiled = torch.compile(copy.deepcopy(gm), backend="aot_eager")
    interpreter = fx.Interpreter(copy.deepcopy(gm))
    for run in (copy.deepcopy(gm), compiled, interpreter.run):
        torch.testing.assert_close(run(x), expected)


PROGRAM = """
import re
import torch
from torch import nn
from rewrite_engine import engine, load
from rewrite_engine.graph_dot import dot_text
from rewrite_engine.graph_text import graph_text
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
gm = torch.export.export(model.train(), (torch.randn(2, 3, 8, 8),)).module()
result = engine.apply(gm, load("qat_fuse"), record=True)
print(graph_text(gm), gm.code, dot_text(gm.graph, "after"))
print([(r.name, r.candidates, r.matches, r.refusals) for r in result.report.rules])
print(engine.explain(gm, load("qat_fuse")))
milliseconds = r"[0-9]+\\.[0-9]|[0-9]+</b> ms"
print(re.sub(milliseconds, "", result.report.to_html()))
for library in ("qat_fuse", "bn_fold", "cross_layer"):
    print(load(library).content_hash, load(library).rules)
"""


@pytest.mark.figure("R18")
def test_hash_seeds_change_nothing() -> None:
    texts = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[1],
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert texts[0] == texts[1] and "batch_norm" in texts[0]
