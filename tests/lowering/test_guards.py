"""What guards say of a call: those that ask what is not known, or not there, fail."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram, export

from rewrite_engine import engine, loads
from rewrite_engine.lowering import markers


class Model(nn.Module):
    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 5, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


@pytest.fixture(scope="module", params=[False, True], ids=["no_bias", "bias"])
def program(request: pytest.FixtureRequest) -> ExportedProgram:
    inputs = (torch.ones(6, 3, 4),)
    shapes = {"x": {0: Dim("batch", min=2, max=64)}}
    return export(Model(bias=request.param), inputs, dynamic_shapes=shapes)


def holds(guard: str, program: ExportedProgram) -> bool:
    rules = loads(f"rule r {{ y = linear(x, w, b?) where {guard} => y' = neg(x) }}")
    return bool(list(engine.find(program, rules)))


@pytest.mark.parametrize(
    "guard",
    [
        "x: [_, 3, 4]",
        "x: f32|f64[*S]",
        "x: [*S, 4]",
        "x: [$N, *S], len($S) == 2, $S == [3, 4]",
        "x: [*S, $K], y: [*S, 5], w: [5, $K]",
        "x: [_, 3, *S, 4], len($S) == 0",
        "rank(x) == 3, size(x, -1) == 4",
        "size(x, 0) > 1",
        "not size(x, 0) > 64",
        'device(x) == "cpu", not "meta" == device(x)',
        'dtype(x) == "f32", "torch.float32" == dtype(x), not dtype(x) == "f64"',
        "dtype(x) == dtype(w), dtype(x) == torch.float32",
        "shape(w) == [5, 4], shape(w) == shape(w), not shape(w) == [5]",
        "along(7, 1, rank(x)) == [1, 7, 1]",
        "max(min(size(w, 0), 9), 2) == 5, abs(-2) == 2, prod(shape(w)) == 20",
        "numel(w) == 20, is_contiguous(w)",
        'state_name(w) == "weight", sibling_uses(w, "weight") == 1',
        "w is const, not x is const",
        "b or not b",
        "-size(w, 0) == -5, 2 * 3 - 1 == 10 // 2, 7 % 4 == 3, 1 / 2 == 0.5",
    ],
)
def test_guards_that_hold(guard: str, program: ExportedProgram) -> None:
    assert holds(guard, program)


@pytest.mark.parametrize(
    "guard",
    [
        "x: f64[*S]",
        "x: [*S, 5]",
        "x: [_, _]",
        "x: [_, _, _, *S, _]",
        "x: [$N, $N, _]",
        "x: [6, _, _]",
        "size(x, 3) == 4",
        "size(x, 0) == 6",
        "not size(x, 0) == 6",
        "along(1, 0, 65) == [1]",
        "along(1, 5, 3) == [1]",
        "1 // (rank(x) - 3) == 1",
        'state_name(x) == "x"',
        'sibling_uses(w, "running_mean") > -1',
        "positive(x)",
        'rank(x) < "3"',
    ],
)
def test_guards_that_ask_what_is_not_known_fail(
    guard: str, program: ExportedProgram
) -> None:
    assert not holds(guard, program)


def test_the_number_of_readers_of_what_is_absent_is_not_known() -> None:
    def count(bias: bool) -> int:
        program = export(Model(bias=bias), (torch.ones(2, 4),))
        rules = loads(
            "rule r { y = linear(x, w, b?) where uses(b) == 1 => y' = neg(x) }"
        )
        return len(list(engine.find(program, rules)))

    assert (count(True), count(False)) == (1, 0)


FORMS = [name for name, form in vars(markers).items() if inspect.isfunction(form)]


@pytest.mark.parametrize("name", [name for name in FORMS if not name.startswith("_")])
def test_the_forms_of_a_pattern_do_not_run(name: str) -> None:
    form = getattr(markers, name)
    kinds = [p.kind for p in inspect.signature(form).parameters.values()]
    operands = [
        None for kind in kinds if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    with pytest.raises(TypeError, match=r"run one of the rule's instances"):
        form(*operands)
