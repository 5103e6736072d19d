"""`rewrite-engine bisect`, `apply --bisect-limit` and `apply --trace`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from rewrite_engine.model_files import load_program

RULES = """\
rule relus { z = relu(relu(x)) => z' = relu(x) }
rule negations { z = neg(neg(x)) => z' = tanh(x) }
"""
# Good as long as the model computes no hyperbolic tangent.
CHECK = """\
import sys, zipfile
archive = zipfile.ZipFile(sys.argv[1])
sys.exit(any(b"aten.tanh" in archive.read(name) for name in archive.namelist()))
"""


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = torch.relu(torch.relu(x)) * 2
        x = torch.neg(torch.neg(x)) * 3
        return torch.relu(torch.relu(x))


@pytest.fixture
def chain(here) -> Path:
    program = torch.export.export(Model(), (torch.randn(2),))
    torch.export.save(program, "chain.pt2")
    Path("chain.rules").write_text(RULES)
    Path("check.py").write_text(CHECK)
    return Path("chain.pt2")


def test_the_first_bad_rewrite_is_found(chain, run):
    status, out, _ = run(
        "bisect", chain, "chain.rules", "--check", f"{sys.executable} check.py {{}}"
    )
    assert status == 1
    assert "rewrite 4 of 5 breaks the check: negations at neg_1\n" in out
    assert "chain.rules:2\n" in out
    assert "--bisect-limit 4" in out
    assert "0 rewrites: passes\n5 rewrites: fails\n" in out


@pytest.mark.parametrize(
    ("command", "message"),
    [("false", "fails on the model as it is"), ("true", "passes with all 5")],
)
def test_a_check_that_tells_nothing(chain, run, command, message):
    status, _, err = run("bisect", chain, "chain.rules", "--check", command)
    assert status == 2
    assert message in err


@pytest.mark.parametrize("limit", [0, 2, 4, 9])
def test_a_limit_makes_the_first_rewrites_only(chain, run, limit):
    out = run(
        *("apply", chain, "chain.rules", "-o", "out.pt2", "--bisect-limit", limit)
    )[1]
    made = min(limit, 5)
    assert f"{made} rewrite{'s' * (made != 1)} in" in out
    assert "beyond" not in out
    targets = [str(node.target) for node in load_program("out.pt2").graph.nodes]
    assert ("aten.tanh.default" in targets) is (limit >= 4)


def test_the_limit_counts_over_several_rule_sets(chain, run):
    Path("a.rules").write_text(RULES.splitlines()[0])
    Path("b.rules").write_text(RULES.splitlines()[1])
    arguments = ("apply", chain, "a.rules", "b.rules", "--dry-run")
    assert "5 rewrites" in run(*arguments, "--bisect-limit", 5)[1]
    out = run(*arguments, "--bisect-limit", 4)[1]
    assert "4 rewrites" in out


def test_a_trace_lists_every_rewrite(chain, run):
    run("apply", chain, "chain.rules", "--dry-run", "--trace", "out.json")
    (traced,) = json.loads(Path("out.json").read_text())
    assert traced["file"] == "chain.rules"
    assert [r["rule"] for r in traced["rewrites"]] == [
        *["relus"] * 3,
        "negations",
        "relus",
    ]
    assert traced["rewrites"][3]["removed"] == ["neg", "neg_1"]
    assert traced["rewrites"][3]["created"] == ["tanh"]
    assert [rule["rewrites"] for rule in traced["rules"]] == [4, 1]


def test_a_limit_leaves_no_record(chain, run):
    arguments = ("apply", chain, "chain.rules", "--dry-run", "--bisect-limit", "1")
    assert run(*arguments, "--trace", "out.json")[0] == 2
