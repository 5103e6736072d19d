"""`rewrite-engine explain`: what it prints and how it ends."""

from __future__ import annotations

import pytest


def test_explain_shows_the_rule_the_graph_and_the_model(model, run):
    status, out, err = run("explain", model, "qat_fuse", "--rule", "fuse_conv_bn")
    assert (status, err) == (0, "")
    assert "rewrites 1 place (%batch_norm); 1 other place:" in out
    assert "refused at %batch_norm_1: 5 of 6 steps hold" in out
    assert "`$training == true` does not hold: `$training` is False" in out
    assert "where $training == true else" in out
    assert "graph  %batch_norm_1: f32[2, 4, 6, 6] = aten.batch_norm.default(" in out
    assert "in 5 (BatchNorm2d)" in out


def test_explain_shows_every_rule_by_default(model, run):
    out = run("explain", model, "qat_fuse")[1]
    assert "\nfuse_grouped_conv_transpose_bn  " in out


def test_explain_of_a_node_speaks_of_that_node(model, run):
    out = run("explain", model, "qat_fuse", "--node", "conv2d_1")[1]
    assert "at %batch_norm_1" in out
    assert "at %batch_norm:" not in out


def test_explain_leaves_the_model_alone(model, program_bytes, run):
    run("explain", model, "qat_fuse")
    assert model.read_bytes() == program_bytes


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--rule", "fuse"], 2, "no rule `fuse` in"),
        (["--node", "batch_nor_1"], 3, "no node `batch_nor_1`; did you mean"),
    ],
    ids=["rule", "node"],
)
def test_explain_of_what_is_not_there(model, run, arguments, status, message):
    found, out, err = run("explain", model, "qat_fuse", *arguments)
    assert (found, out) == (status, "")
    assert message in err


def test_show_takes_one_side_and_graphviz(here, run):
    status, out, _ = run("show", "fuse_conv_bn", "--before")
    assert status == 0
    assert "batch_norm" in out
    assert "where.ScalarOther" not in out
    out = run("show", "fuse_conv_bn", "--after", "--instance", "0")[1]
    assert "aten.where.ScalarOther" in out
    status, out, _ = run("show", "fuse_conv_bn", "--before", "--dot")
    assert status == 0
    assert out.startswith('digraph "matcher" {')
    assert '"y" -> "z"' in out
