"""Pages of a run on a model like ResNet."""

from __future__ import annotations

import pytest
import torch

from benches.models import resnet_like
from rewrite_engine import engine, load
from rewrite_engine.rewriting.run import Result


@pytest.fixture(scope="package")
def result() -> Result:
    model, inputs = resnet_like(pairs=20)
    program = torch.export.export(model, inputs)
    return engine.apply(program, load("qat_fuse"), record=True)


@pytest.fixture(scope="package")
def page(result: Result) -> str:
    return result.report.to_html()
