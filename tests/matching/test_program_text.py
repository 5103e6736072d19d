"""The matching program in words and as code."""

from __future__ import annotations

import pytest

from rewrite_engine import cli, loads
from rewrite_engine.matching.program_text import program_text

RULES = loads(
    """
    rule first  { z = aten.relu.default(aten.add.Tensor(aten.neg.default(x), y))
                  => z' = relu(x) }
    rule second { z = aten.relu.default(aten.add.Tensor(x, 2.0)) => z' = relu(x) }
    rule other  { z = aten.neg.default(aten.neg.default(x)) => z' = relu(x) }
    """
)


def test_rules_share_the_tests_with_which_they_begin() -> None:
    words, code = program_text(RULES.program, "second").split("\n\n", 1)
    assert words.splitlines() == [
        "at aten.relu.default:",
        "  if argument 0 is aten.add.Tensor:",
        "    if argument 0.0 is aten.neg.default:",
        "      try first",
        "    if argument 0.1 is 2.0:",
        "      try second",
    ]
    assert code.startswith("def select(nodes, hits):\n    for n in nodes:\n")
    compile(code, "<shown>", "exec")


def test_code_that_goes_on_in_other_functions_is_shown_with_them() -> None:
    rules = loads(
        """
        rule a { z = relu(aten.add.Tensor(neg(x), y)) => z' = x }
        rule b { z = relu(aten.mul.Tensor(neg(x), sin(y))) => z' = x }
        rule c { z = relu(aten.sub.Tensor(neg(x), sin(y))) => z' = x }
        """
    )
    first, *others = program_text(rules.program, "a").split("\n\n")[1:-1]
    assert first.startswith("def select(nodes, hits):") and "go_on(n, hits" in first
    assert len(others) == len(set(others)) == 2
    assert all(text.startswith("def branch(n, hits, ") for text in others)


def test_a_rule_that_is_not_there_is_no_program() -> None:
    with pytest.raises(KeyError):
        program_text(RULES.program, "third")


def test_the_command_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "fold_conv_bn", "qat_fold", "--program"]) == 0
    shown = capsys.readouterr().out
    assert "try fold_conv_bn" in shown
    assert "def select(nodes, hits):" in shown


def test_what_is_done_where_a_rule_is_tried_is_shown() -> None:
    *_, shown = program_text(RULES.program, "second").split("\n\n")
    title, *lines = shown.splitlines()
    assert title == "# to try second:"
    assert lines[:3] == [
        "# C0: aten.relu.default",
        "# C1: aten.add.Tensor",
        "# C2: 2.0",
    ]
    assert "    found = C0.only(v0, machine.facts)" in lines
    assert "UNBOUND" not in shown  # what is certainly there is not asked for
    compile("\n".join(lines), "<shown>", "exec")
