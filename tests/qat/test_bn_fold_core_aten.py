"""`bn_fold` on decomposed programs, against eager models in double precision."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch._decomp import core_aten_decompositions
from torch.export import Dim, ExportedProgram

from benches.models import randomise_batch_norms
from rewrite_engine import engine, load

RULES = load("bn_fold")
TABLES: dict[str, Mapping[Any, Any] | None] = {
    "default": None,
    "core": core_aten_decompositions(),
    "empty": {},  # layers stay what they are, and BatchNorms do not
}
PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
SIDES = {1: (9,), 2: (6, 5), 3: (4, 5, 3)}
FORMS: tuple[dict[str, Any], ...] = (
    {},
    {"stride": 2, "padding": 1},
    {"padding": 2, "dilation": 2},
    {"stride": 2},
)


class Branches(nn.Module):
    """Several models of one input."""

    def __init__(self, branches: list[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        randomise_batch_norms(self).eval()

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [branch(x) for branch in self.branches]


def convolutions(rank: int, kinds: tuple[dict[int, Any], ...]) -> Branches:
    """Bias or none, one group or two, affine or not, in turns with the forms."""
    found = []
    grid = itertools.product(kinds, (True, False), (1, 2))
    for i, (kind, bias, groups) in enumerate(grid):
        form = dict(FORMS[i % len(FORMS)])
        if kind is TRANSPOSED and form.get("stride") == 2:
            form["output_padding"] = 1
        conv = kind[rank](4, 8, 2 + i % 2, bias=bias, groups=groups, **form)
        norm = NORMS[rank](8, eps=10**-i, affine=i % 3 != 1)
        found.append(nn.Sequential(conv, norm))
    return Branches(found)


def linears() -> Branches:
    grid = itertools.product((True, False), (True, False))
    return Branches(
        [
            nn.Sequential(nn.Linear(4, 6, bias=bias), nn.BatchNorm1d(6, affine=affine))
            for bias, affine in grid
        ]
    )


def decomposed(model: nn.Module, x: torch.Tensor, table: str) -> ExportedProgram:
    """With a batch of any size."""
    program = torch.export.export(model, (x,), dynamic_shapes=({0: Dim.DYNAMIC},))
    return program.run_decompositions(TABLES[table])


def operators(program: ExportedProgram) -> set[str]:
    calls = (node for node in program.graph.nodes if node.op == "call_function")
    return {str(node.target) for node in calls}


def precisions(program: ExportedProgram) -> set[torch.dtype]:
    state = program.state_dict.values()
    return {value.dtype for value in state if value.is_floating_point()}


def assert_folded(
    program: ExportedProgram, model: Branches, x: torch.Tensor, tolerance: float
) -> None:
    """Every BatchNorm goes, and nothing but core ATen comes."""
    before = operators(program)
    report = engine.apply(program, RULES).report
    assert report.matches == len(model.branches) and not report.refusals
    program.validate()
    assert not any("norm" in name for name in operators(program))
    assert operators(program) <= {*before, "aten.addmm.default"}
    assert not any(name.endswith("running_var") for name in program.state_dict)
    truth = copy.deepcopy(model).double()
    for batch in (x, torch.cat([x, x + 1, x * 2])):
        expected = truth(batch.double())
        for found, wanted in zip(program.module()(batch), expected, strict=True):
            scale = wanted.abs().max().item()
            assert found.dtype == x.dtype
            assert (found.double() - wanted).abs().max().item() <= tolerance * scale


@pytest.mark.parametrize("rank, table", enumerate(TABLES, 1))
def test_convolutions(rank: int, table: str) -> None:
    model = convolutions(rank, (PLAIN, TRANSPOSED)).double()
    x = torch.randn(2, 4, *SIDES[rank], dtype=torch.float64)
    assert_folded(decomposed(model, x, table), model, x, 1e-12)


@pytest.mark.parametrize("table", TABLES)
def test_linear_layers(table: str) -> None:
    model, x = linears().double(), torch.randn(3, 4, dtype=torch.float64)
    assert_folded(decomposed(model, x, table), model, x, 1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)]
)
def test_other_precisions_and_memory_formats(
    dtype: torch.dtype, tolerance: float
) -> None:
    model = convolutions(2, (PLAIN,)).to(dtype)
    model = model.to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, *SIDES[2], dtype=dtype)
    x = x.to(memory_format=torch.channels_last)
    program = decomposed(model, x, "default")
    assert_folded(program, model, x, tolerance)
    weights = [w for w in program.state_dict.values() if w.dim() == 4]
    assert len(weights) == len(model.branches)
    for weight in weights:
        assert weight.is_contiguous(memory_format=torch.channels_last)
    assert precisions(program) == {dtype}


def test_padding_of_its_own_and_statistics_in_another_precision() -> None:
    conv = nn.Conv2d(4, 6, (2, 3), padding="same", bias=False).bfloat16()
    model, x = (
        Branches([nn.Sequential(conv, nn.BatchNorm2d(6))]),
        torch.randn(2, 4, 5, 5),
    )
    program = decomposed(model, x.bfloat16(), "default")
    assert_folded(program, model, x.bfloat16(), 3e-2)
    assert precisions(program) == {torch.bfloat16}


def test_a_layer_that_is_called_twice_keeps_its_weight_for_the_other_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv1d(4, 4, 1), nn.Linear(5, 5)
            self.norm, self.last = nn.BatchNorm1d(4), nn.BatchNorm1d(20)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            y = self.norm(self.conv(x)) + self.conv(x)
            y = y.flatten(1) @ torch.ones(20, 5)
            return self.fc(y), self.last(torch.cat([self.fc(y)] * 4, 1))

    model, x = randomise_batch_norms(Twice()).eval(), torch.randn(3, 4, 5)
    program = torch.export.export(model, (x,)).run_decompositions()
    assert engine.apply(program, RULES).report.matches == 1  # the other is of a cat
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-5)
    assert torch.equal(program.state_dict["conv.weight"], model.conv.weight)


# --- what is left alone, and why ---


def refused(program: ExportedProgram) -> list[tuple[str, str]]:
    report = engine.apply(program, RULES).report
    assert report.matches == 0
    return [(each.rule, each.reason) for each in report.refusals]


@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
def test_a_weight_that_is_computed_is_refused_once(transposed: bool) -> None:
    class Standardized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = (TRANSPOSED if transposed else PLAIN)[2](4, 4, 3)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            function = nn.functional.conv_transpose2d if transposed else torch.conv2d
            weight = self.conv.weight - self.conv.weight.mean()
            return self.norm(function(x, weight, self.conv.bias))

    x = torch.randn(2, 4, 6, 6)
    program = torch.export.export(Standardized().eval(), (x,)).run_decompositions()
    rule = "fold_batch_norm_transposed" if transposed else "fold_batch_norm"
    ((name, reason),) = refused(program)
    assert name == rule and "the weight is computed" in reason


def test_a_batch_norm_over_another_axis() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(5)).eval()
    program = torch.export.export(model, (torch.randn(2, 5, 4),))
    ((name, reason),) = refused(program.run_decompositions({}))
    assert name == "fold_batch_norm" and "another axis" in reason
    assert refused(program.run_decompositions()) == []  # a view stands between them


def test_other_results_of_the_batch_norm_are_read() -> None:
    class Saved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 3, 1)
            self.register_buffer("ones", torch.ones(3))

        def forward(self, x: torch.Tensor) -> Any:
            normalize = torch.ops.aten._native_batch_norm_legit_no_training.default
            return normalize(self.conv(x), *[self.ones] * 4, 0.1, 1e-5)

    program = torch.export.export(Saved(), (torch.randn(2, 4, 5),))
    ((_, reason),) = refused(program)
    assert "_native_batch_norm_legit_no_training" in reason and "read" in reason
