from __future__ import annotations

import copy
from functools import reduce

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx.passes.infra.pass_manager import PassManager

from rewrite_engine import load, loads
from rewrite_engine.graph_text import graph_text
from rewrite_engine.report import Report

SILU = loads("rule silu { z = mul(x, sigmoid(x)) => z' = silu(x) }")
FLIP = loads("rule flip { z = neg(neg(x)) => z' = x }")


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(x)
        return y * torch.sigmoid(y)


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, other = (lambda v: v * torch.sigmoid(v)), (lambda v: v.cos())
        return torch.cond(x.sum() > 0, gate, other, (x,))


def exported(model: nn.Module) -> ExportedProgram:
    return torch.export.export(model, (torch.ones(2, 4),))


def texts(program: ExportedProgram) -> list[str]:
    return [
        graph_text(module)
        for module in program.graph_module.modules()
        if isinstance(module, torch.fx.GraphModule)
    ]


@pytest.mark.parametrize(("model", "recurse"), [(Gate, False), (Branches, True)])
def test_the_pass_returns_another_program(
    model: type[nn.Module], recurse: bool
) -> None:
    program = exported(model())
    before, state = texts(program), dict(program.state_dict)
    rewritten = SILU.as_exported_program_pass(recurse=recurse)(program)
    assert texts(program) == before
    assert texts(rewritten) != before
    assert all(rewritten.state_dict[name] is each for name, each in state.items())
    x = torch.ones(2, 4)
    torch.testing.assert_close(rewritten.module()(x), program.module()(x))


def test_a_program_without_a_match_is_returned_itself() -> None:
    program = exported(Gate())
    assert FLIP.as_exported_program_pass()(program) is program


def test_new_parameters_belong_to_the_new_program_only() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    x = torch.randn(2, 3, 8, 8)
    program = torch.export.export(model, (x,))
    names = set(program.state_dict)
    folded = load("bn_fold").as_exported_program_pass()(program)
    assert set(program.state_dict) == names
    assert set(folded.state_dict) != names
    torch.testing.assert_close(folded.module()(x), model(x), rtol=1e-4, atol=1e-5)


def test_passes_compose_and_report() -> None:
    reports: list[Report] = []
    passes = [
        rules.as_exported_program_pass(on_report=reports.append)
        for rules in (SILU, FLIP)
    ]
    reduce(lambda program, each: each(program), passes, exported(Gate()))
    assert [report.matches for report in reports] == [1, 0]


def test_a_graph_module_is_refused() -> None:
    with pytest.raises(TypeError, match="expected an ExportedProgram, got GraphModule"):
        SILU.as_exported_program_pass()(exported(Gate()).module())


def test_rules_are_passes_where_results_are_read() -> None:
    result = SILU(program := exported(Gate()))
    assert result.exported_program is program
    assert result.modified


def test_rules_are_passes_of_pass_managers() -> None:
    program, gm = exported(Gate()), exported(Gate()).module()
    copied = copy.deepcopy(gm)
    assert "silu" in program._transform_do_not_use(SILU).graph_module.code
    assert PassManager([SILU, FLIP], run_checks_after_each_pass=True)(copied).modified
    torch.testing.assert_close(copied(x := torch.ones(2, 4)), gm(x))
