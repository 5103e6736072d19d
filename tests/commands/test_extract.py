"""`rewrite-engine extract`: what it prints and how it ends."""

from __future__ import annotations

from pathlib import Path

FUNCTIONS = """\
import torch

def pattern(x, y):
    return torch.relu(x + y * 2)

def replacement(x, y):
    return torch.clamp(torch.add(x, y, alpha=2), min=0)
"""


def test_a_part_of_a_model_becomes_a_rule_that_applies_to_it(model, run):
    status, out, err = run("extract", model, "relu", "relu_1", "--name", "twice")
    assert (status, err) == (0, "")
    assert "rule twice once {" in out
    Path("twice.rules").write_text(out)
    assert "1 rewrite in" in run("apply", model, "twice.rules", "--dry-run")[1]


def test_two_functions_become_a_rule(here, run):
    Path("functions.py").write_text(FUNCTIONS)
    status, out, _ = run("extract", "functions.py", "pattern", "replacement")
    assert status == 0
    assert "mul(y, 2)" in out
    assert "alpha=2" in out
    out = run("extract", "functions.py", "pattern", "replacement", "--capture")[1]
    assert "mul(y, $other)" in out


def test_what_is_not_there(model, run):
    Path("functions.py").write_text(FUNCTIONS)
    assert run("extract", model, "conv") == (
        3,
        "",
        "error: the graph has no node `conv`\n",
    )
    assert run("extract", "functions.py", "pattern", "other")[2] == (
        "error: functions.py defines no function `other`\n"
    )
    assert run("extract", "functions.py", "pattern")[0] == 2
    assert run("extract", "none.py", "a", "b")[0] == 2
