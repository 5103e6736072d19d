"""Rewritten programs can be unflattened: the nodes of a module follow each other."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from rewrite_engine import engine, load, loads

IMAGE = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0)).double()
ROWS = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).double()


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
        self.norm, self.act = nn.BatchNorm2d(outputs), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(self.conv(x)))


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Block(3, 3), Block(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(self.b(self.a(x)))


class SharedLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.conv(self.first(self.conv(x))))


class Branches(nn.Module):
    """The layers of both branches run before their norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 1))
        self.conv = nn.Conv2d(3, 3, 1)
        self.left, self.right = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, z = self.stem(x), self.conv(x)
        return torch.relu(self.left(y) + self.right(z))


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.q, self.k = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.ff = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        self.last, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.before(x)
        return self.norm(self.last(x + self.q(h) * self.k(h))) + self.ff(x)


def nested() -> nn.Module:
    return nn.Sequential(
        nn.Sequential(Block(3, 4), Block(4, 4, bias=False)), Block(4, 3)
    )


def sequence() -> nn.Module:
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-2), nn.ReLU6()
    return nn.Sequential(
        *layers, nn.ConvTranspose2d(4, 4, 2, groups=2), nn.BatchNorm2d(4)
    )


MODELS: list[tuple[Callable[[], nn.Module], torch.Tensor, int]] = [
    (nested, IMAGE, 3),
    (sequence, IMAGE, 2),
    (Shared, IMAGE, 3),
    (SharedLayer, IMAGE, 2),
    (Branches, IMAGE, 2),
    (Gate, ROWS, 1),
]


def export(model: nn.Module, x: torch.Tensor) -> ExportedProgram:
    return torch.export.export(model, (x,))


def assert_unflattens(program: ExportedProgram, x: torch.Tensor) -> None:
    program.validate()
    made = torch.export.unflatten(copy.deepcopy(program))
    torch.testing.assert_close(made(x), copy.deepcopy(program).module()(x))


@pytest.mark.parametrize(("make", "x", "pairs"), MODELS)
def test_programs_that_train_are_unflattened(
    make: Callable[[], nn.Module], x: torch.Tensor, pairs: int
) -> None:
    torch.manual_seed(0)
    model = make().double()
    program = export(copy.deepcopy(model), x)
    assert engine.apply(program, load("qat_fuse")).report.matches == pairs
    assert_unflattens(program, x)
    torch.testing.assert_close(copy.deepcopy(program).module()(x), model(x))
    engine.apply(program, load("qat_fold"))
    assert_unflattens(program, x)


@pytest.mark.parametrize(("make", "x", "pairs"), MODELS)
def test_programs_in_eval_mode_are_unflattened(
    make: Callable[[], nn.Module], x: torch.Tensor, pairs: int
) -> None:
    torch.manual_seed(0)
    model = make().double().eval()
    program = export(model, x)
    assert engine.apply(program, load("bn_fold")).report.matches == pairs
    for library in ("cross_layer", "fold_scales", "equalize", "smoothquant"):
        engine.apply(program, load(library))
    assert_unflattens(program, x)
    torch.testing.assert_close(program.module()(x), model(x))


class First(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu()


class Second(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("w", torch.ones(8, dtype=torch.float64))

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        self.w[:4].add_(1)
        return y * self.w


PRODUCT = """
rule product {
  z = aten.mul.Tensor(relu(x), w)
=>
  t = aten.mul.Tensor(x, w)
  z' = aten.where.ScalarOther(aten.gt.Scalar(x, 0), t, 0)
}
"""


def test_new_nodes_do_not_move_past_a_write_of_what_they_read() -> None:
    model = nn.Sequential(First(), Second())
    program = export(copy.deepcopy(model), ROWS)
    assert engine.apply(program, loads(PRODUCT)).report.matches == 1
    module = program.module()
    for _ in range(2):
        torch.testing.assert_close(module(ROWS), model(ROWS))


class Shifted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.ones(8, dtype=torch.float64))

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        shift = self.shift.sin()
        return y.neg() + shift


def test_equal_matches_are_unflattened() -> None:
    model = nn.Sequential(*(m for _ in range(4) for m in (First(), Shifted())))
    program = export(model, ROWS)
    rule = "rule r { z = neg(relu(x)) => z' = neg(aten.clamp_min.default(x, 0)) }"
    assert engine.apply(program, loads(rule)).report.matches == 4
    assert_unflattens(program, ROWS)
    torch.testing.assert_close(program.module()(ROWS), model(ROWS))


class Rectified(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sin().relu()


class Negative(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.neg()


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.other = Rectified(), Negative()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) + self.other(x)


def test_equal_matches_of_several_modules_are_unflattened() -> None:
    model = nn.Sequential(*(Sum() for _ in range(3)))
    program = export(model, ROWS)
    rule = "rule r { y = add(N@relu(a), M@neg(b)) => y' = sub(M(b), neg(N(a))) }"
    assert engine.apply(program, loads(rule)).report.matches == 3
    assert_unflattens(program, ROWS)
    torch.testing.assert_close(program.module()(ROWS), model(ROWS))


class Between(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.other = First(), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return y * self.other(x)


def test_new_nodes_stay_behind_what_they_read() -> None:
    model = Between().double()
    program = export(model, ROWS)
    assert engine.apply(program, loads(PRODUCT)).report.matches == 1
    assert_unflattens(program, ROWS)
    torch.testing.assert_close(program.module()(ROWS), model(ROWS))


class Noise(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.rand_like(x)


class Draws(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.noise = First(), Noise()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return self.noise(x) + y.neg()


def test_random_calls_stay_in_their_order() -> None:
    program = export(Draws(), ROWS)
    rule = "rule r { z = neg(relu(x)) => z' = neg(aten.rand_like.default(x)) }"
    assert engine.apply(program, loads(rule)).report.matches == 1
    torch.manual_seed(0)
    ran = program.module()(ROWS)
    torch.manual_seed(0)
    torch.testing.assert_close(ran, torch.rand_like(ROWS) - torch.rand_like(ROWS))
