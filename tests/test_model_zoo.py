"""The script that runs the shipped rules on models of others, on one of ours."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests import model_zoo


@pytest.fixture(autouse=True)
def one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(),
        nn.Conv2d(4, 2, 1),
    )
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    monkeypatch.setattr(
        model_zoo, "model_and_images", lambda _: (model.double(), images)
    )


def test_results_are_compared_in_every_library(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert model_zoo.main(["ours:small"]) == 0
    printed = [part.split(" (")[0] for part in capsys.readouterr().out.split("  ")]
    done = ["cleanup 1", "bn_fold 1", "cross_layer 1", "fold_scales 0", "qat_fuse 1"]
    assert printed == ["ours:small", *done]


def test_a_difference_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_zoo, "apart", lambda *_: 1e-6)
    assert model_zoo.main(["ours:small"]) == 1
