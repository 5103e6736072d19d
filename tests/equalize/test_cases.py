"""Every case, on graphs of fx and export: equal to eager, or refused with a reason."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import fx

from benches.equalize_cases import CASES, Case
from rewrite_engine.equalize import EqualizationConfig, convert, prepare

TOLERANCE = {
    torch.float64: 1e-10,
    torch.float32: 1e-4,
    torch.float16: 2e-3,
    torch.bfloat16: 2e-2,
}


def outputs(result):
    return result if isinstance(result, tuple) else (result,)


def capture(case: Case, frontend: str) -> fx.GraphModule:
    if frontend == "fx":
        return fx.symbolic_trace(case.model())
    return torch.export.export(case.model(), (case.input(),)).module()


def equalized(case: Case, gm: fx.GraphModule) -> fx.GraphModule:
    prepared = prepare(gm, EqualizationConfig(case.layers))
    if case.calibrated:
        for seed in (1, 2):
            prepared(case.input(seed))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        converted = convert(prepared)
    assert all(str(w.message) for w in caught)
    return converted


def assert_equal(case: Case, gm: fx.GraphModule) -> None:
    x = case.input(3)
    for want, got in zip(
        outputs(case.model()(x.clone())), outputs(gm(x.clone())), strict=True
    ):
        assert got.dtype == want.dtype == case.dtype
        finite = want.isfinite()
        assert torch.equal(finite, got.isfinite())
        scale = want[finite].abs().max() if finite.any() else 1
        error = (got[finite].double() - want[finite].double()).abs()
        assert not error.numel() or error.max() <= TOLERANCE[case.dtype] * scale


BOTH = [(name, frontend) for name in CASES for frontend in ("fx", "export")]


@pytest.mark.parametrize(("name", "frontend"), BOTH, ids=map(" on ".join, BOTH))
@torch.no_grad()
def test_the_output_is_that_of_eager(name, frontend):
    case = CASES[name]
    gm = capture(case, frontend)
    before, state = gm.code, copy.deepcopy(gm.state_dict())
    converted = equalized(case, gm)
    assert_equal(case, converted)
    assert gm.code == before
    assert all(torch.equal(gm.state_dict()[key], state[key]) for key in state)
