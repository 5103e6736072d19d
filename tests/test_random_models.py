"""Random whole models, exported, rewritten and unflattened, do what they did before."""

from __future__ import annotations

import io
import random
import warnings

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from rewrite_engine import engine, load
from rewrite_engine.equalize import convert, prepare
from rewrite_engine.testing import assert_equivalent
from tests.random_models import random_model

LIBRARIES = {name: load(name) for name in ("bn_fold", "qat_fuse", "cross_layer")}
TOLERANCE = 1e-8


def check(seed: int) -> int:
    """Rewrite one model in one of its forms; how often rules fired."""
    rng = random.Random(seed)
    model, x = random_model(seed)
    is_training = rng.random() < 0.4
    model.train(is_training)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and rng.random() < 0.2:
            module.eval()
    program = torch.export.export(model, (x,), strict=rng.random() < 0.2)
    if rng.random() < 0.3:
        program = program.run_decompositions({})
    subject = program.module() if rng.random() < 0.4 else program
    matches = 0
    for name in ("bn_fold", "qat_fuse" if is_training else "cross_layer"):
        matches += engine.apply(subject, LIBRARIES[name]).report.matches
        assert_equivalent(model, subject, (x,), rtol=TOLERANCE)
    assert not engine.apply(subject, LIBRARIES["bn_fold"]).modified
    if isinstance(subject, ExportedProgram):
        assert_equivalent(model, saved(subject), (x,), rtol=TOLERANCE)
        check_unflattened(subject, x)
        subject = subject.module()
    if not is_training:
        check_equalized(subject, model, x, rng.choice(["equalize", "smoothquant"]))
    return matches


def saved(program: ExportedProgram) -> ExportedProgram:
    program.validate()
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


def check_unflattened(program: ExportedProgram, x: torch.Tensor) -> None:
    made = saved(program).module(), torch.export.unflatten(saved(program))
    found = []
    for module in made:
        torch.manual_seed(0)
        found.append(module(x.clone()))
    torch.testing.assert_close(*found, rtol=TOLERANCE, atol=TOLERANCE)


def check_equalized(
    subject: torch.fx.GraphModule, model: nn.Module, x: torch.Tensor, rules: str
) -> None:
    prepared = prepare(subject)
    with torch.no_grad():
        prepared(x.clone())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_equivalent(model, convert(prepared, rules), (x,), rtol=TOLERANCE)


def test_random_models_do_the_same() -> None:
    assert sum(map(check, range(8))) > 0


@pytest.mark.long
def test_many_random_models_do_the_same() -> None:
    assert sum(map(check, range(8, 300))) > 200
