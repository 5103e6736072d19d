"""Programs that were saved and loaded, whose dynamic sizes torch has frozen."""

from __future__ import annotations

import copy
import io
import logging

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from rewrite_engine import GraphError, engine, load, loads


class Gate(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)


def loaded(model: nn.Module) -> ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=64)
    inputs = (torch.randn(3, 4),)
    program = torch.export.export(model, inputs, dynamic_shapes=({0: batch},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


@pytest.mark.parametrize("activation", ["silu", "gelu", "hardswish"])
def test_operators_that_ask_about_sizes_are_built(activation: str) -> None:
    program = loaded(Gate())
    rules = loads(f"rule r {{ z = mul(x, sigmoid(x)) => z' = {activation}(x) }}")
    assert engine.apply(program, rules).report.matches == 1
    program.validate()
    for batch in (1, 5):
        x = torch.randn(batch, 4)
        expected = getattr(nn.functional, activation)(x)
        torch.testing.assert_close(program.module()(x), expected)


def test_a_size_that_only_the_example_has_is_refused_without_a_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rules = loads("""
    rule r {
      z = mul(x, sigmoid(x))
    =>
      z' = add(x, full_like(reshape(x, [3, 4]), 1.0))
    }
    """)
    program = loaded(Gate())
    with caplog.at_level(logging.WARNING):
        report = engine.apply(program, rules).report
    assert report.matches == 0 and "cannot be derived" in report.refusals[0].reason
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_a_function_is_not_built_into_an_exported_program() -> None:
    rules = loads("rule r { z = mul(x, sigmoid(x)) => z' = F.silu(x) }")
    program = torch.export.export(Gate(), (torch.ones(2),))
    (refusal,) = engine.apply(program, rules).report.refusals
    assert "calls operators by their overloads, and 'F.silu' is" in refusal.reason
    assert engine.explain(program, rules).near_misses[0].first.hint is not None
    assert engine.apply(program.module(), rules).report.matches == 1


def test_a_program_whose_signature_is_wrong_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    program = torch.export.export(model, (torch.randn(2, 3, 8, 8),))
    assert "input" in program.graph_signature.user_inputs
    with pytest.raises(GraphError, match=r"deepcopy.*export the model again"):
        engine.apply(copy.deepcopy(program), load("bn_fold"))
