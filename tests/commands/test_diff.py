"""`rewrite-engine diff`: what it prints and how it ends."""

from __future__ import annotations

import pytest


@pytest.fixture
def fused(model, run):
    run("apply", model, "qat_fuse", "-o", "out.pt2")
    return "out.pt2"


def test_equal_programs(model, run):
    assert run("diff", model, model) == (0, "the programs are the same\n", "")


def test_what_differs_is_shown_with_signs(model, fused, run):
    status, out, err = run("diff", model, fused)
    assert (status, err) == (1, "")
    lines = out.splitlines()
    assert any(
        line.startswith("-   %batch_norm: f32[2, 4, 6, 6] = aten.batch_norm.default(")
        for line in lines
    )
    assert any(
        line.startswith("+   %sqrt: f32[4] = aten.sqrt.default") for line in lines
    )
    removed = sum(line.startswith("- ") for line in lines)
    added = sum(line.startswith("+ ") for line in lines)
    assert lines[-1] == f"{removed} lines only in {model}, {added} only in {fused}"


def test_context_is_as_long_as_asked_for(model, fused, run):
    shorter = run("diff", model, fused, "--context", "0")[1].splitlines()
    assert not any(line.startswith("  ") for line in shorter)


def test_structure_ignores_names(model, fused, run):
    out = run("diff", model, fused, "--structure")[1]
    assert "%batch_norm" not in out
    assert "aten.sqrt.default" in out
