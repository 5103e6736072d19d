"""What is done with a rewritten model afterwards works as with any other."""

from __future__ import annotations

import copy
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import fx, nn

from rewrite_engine import engine, load

FUSE = load("qat_fuse")

MODELS = {
    "conv1d": (nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)), (2, 3, 9)),
    "conv2d": (
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
        (2, 3, 8, 8),
    ),
    "transposed": (
        nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)),
        (2, 4, 5, 5),
    ),
}


@pytest.fixture(params=MODELS.values(), ids=MODELS.keys())
def model(request: pytest.FixtureRequest) -> tuple[nn.Module, torch.Tensor]:
    module, shape = request.param
    return copy.deepcopy(module).double().train(), torch.randn(shape).double()


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
import torch
from torch import nn
from rewrite_engine import engine, load
from rewrite_engine.graph_text import graph_text
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
gm = torch.export.export(model.train(), (torch.randn(2, 3, 8, 8),)).module()
result = engine.apply(gm, load("qat_fuse"))
print(graph_text(gm), gm.code)
print([(r.name, r.candidates, r.matches, r.refusals) for r in result.report.rules])
"""


def test_hash_seeds_change_nothing() -> None:
    texts = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[1],
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1 and b"batch_norm" in texts.pop()
