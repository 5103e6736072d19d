"""The shipped rule files: formatted, free of findings, and their own tests pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from rewrite_engine import engine, load, loads
from rewrite_engine.assets import rules_directory
from rewrite_engine.dsl import loader, nodes
from rewrite_engine.dsl.printer import format_source
from rewrite_engine.rule_tests import run_tests
from rewrite_engine.source import Source

FILES = sorted(rules_directory().glob("*.rules"))
LIBRARIES = [path for path in FILES if path.stem != "prelude"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_there_are_no_findings(path: Path) -> None:
    assert loader.check_file(path) == ()


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_files_are_formatted(path: Path) -> None:
    text = path.read_text()
    assert format_source(Source(path.name, text)) == text


@pytest.mark.parametrize("path", LIBRARIES, ids=lambda p: p.stem)
def test_their_own_tests_pass(path: Path) -> None:
    outcomes = run_tests(load(path))
    assert outcomes and all(outcome.passed for outcome in outcomes), outcomes


ON_OBSERVED_GRAPHS = {"equalize", "smoothquant", "fold_scales"}
"""Libraries whose rules match calls of observers, or scales that are positive, which a
test block cannot build; the tests in `tests/equalize` make them fire."""


@pytest.mark.parametrize("path", LIBRARIES, ids=lambda p: p.stem)
def test_every_rule_fires_in_one_test_and_not_in_another(path: Path) -> None:
    rules = load(path)
    counts = [
        expected
        for test in rules.tests
        for expected in test.expect
        if isinstance(expected, nodes.ExpectCount)
    ]
    for rule in rules:
        mine = {expected.count for expected in counts if expected.rule == rule.name}
        assert 0 in mine, rule.name
        assert mine - {0} or path.stem in ON_OBSERVED_GRAPHS, rule.name


def test_the_readme_counts_the_lines_of_the_qat_rules() -> None:
    files = [path for path in LIBRARIES if path.stem in ("qat_fuse", "qat_fold")]
    rules = [path.read_text().partition("\ntest ")[0] for path in files]
    lines = [line for text in rules for line in text.splitlines()]
    code = [line for line in lines if line.strip() and not line.startswith("#")]
    readme = (rules_directory().parent / "README.md").read_text()
    assert f"the two files have {len(code)} lines" in readme


def test_a_failing_test_says_what_happened() -> None:
    rules = loads(
        """
        rule wrong { z = relu(x) => z' = neg(x) }
        test "not the same" {
          given (x: f32[4]) { return relu(x) }
          expect wrong * 2, equal, refused wrong "no reason"
        }
        """
    )
    (outcome,) = run_tests(rules)
    assert not outcome.passed
    assert "expected wrong * 2, found 1" in outcome.message
    assert "output 0 differs" in outcome.message
    assert "refused with 'no reason'" in outcome.message


def test_a_failing_test_says_what_kept_the_rule_from_matching() -> None:
    rules = loads(
        """
        rule six { z = mul(relu(x), 6.0) => z' = relu(x) }
        test "seven" {
          given (x: f32[4]) { return mul(relu(x), 7.0) }
          expect six * 1
        }
        """,
        name="six.rules",
    )
    (outcome,) = run_tests(rules)
    assert outcome.message == (
        "expected six * 1, found 0 (nearest at 'mul_tensor': `6.0` is expected, "
        "`other` of `%mul_tensor` is `7.0`, six.rules:2:37)"
    )
    assert outcome.place == "six.rules:3:9"


def test_a_failing_test_names_the_other_rules_that_fired() -> None:
    rules = loads(
        """
        rule right { z = relu(relu(x)) => z' = relu(x) }
        rule wrong once { z = neg(x) => z' = sigmoid(x) }
        test "both" {
          given (x: f32[4]) { return neg(relu(relu(x))) }
          expect right * 1, equal
        }
        """
    )
    (outcome,) = run_tests(rules)
    assert outcome.message.endswith("(also fired: wrong * 1)")


def test_a_test_whose_graph_does_not_run_fails_alone() -> None:
    rules = loads(
        """
        rule r { z = relu(relu(x)) => z' = relu(x) }
        test "impossible" {
          given (x: f32[4, 3], y: f32[5]) { return relu(relu(x)) + y }
          expect r * 1
        }
        test "possible" { given (x: f32[4]) { return relu(relu(x)) } expect r * 1 }
        """
    )
    impossible, possible = run_tests(rules)
    assert impossible.message.startswith("its graph does not run: ")
    assert possible.passed
    (verified,) = engine.verify(rules, trials=10).rules
    assert verified.fired > 0


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("aten.index_select(x, 0, aten.arange(9))", "its graph does not run: index"),
        ("check(x, [2, 4])", "its graph does not run: Tensor sizes mismatch"),
        ("aten._assert_async(aten.sum.default(x))", "passed"),
        ("aten.split(relu(x), 1)", "passed"),
    ],
)
def test_what_the_graph_of_a_test_may_return(result: str, message: str) -> None:
    rules = loads(
        f"""
        op check = aten._assert_tensor_metadata.default
        rule r {{ z = neg(neg(x)) => z' = x }}
        test "one" {{ given (x: f32[2, 3]) {{ return {result} }} expect r * 0, equal }}
        """
    )
    (outcome,) = run_tests(rules)
    assert outcome.message.startswith(message)


def test_what_else_is_wrong_is_told_if_the_rewritten_graph_does_not_run() -> None:
    rules = loads(
        """
        rule r {
          z = neg(neg(x))
        =>
          z' = aten.index_select(x, 0, add(aten.arange(2), 7))
        }
        test "one" { given (x: f32[2]) { return neg(neg(x)) } expect r * 2, equal }
        """
    )
    (outcome,) = run_tests(rules)
    count, reason = outcome.message.split("; ")
    assert count.startswith("expected r * 2, found 1 ")
    assert reason.startswith("the rewritten graph does not run: ")


@pytest.mark.parametrize("given", ["param i64[3]", f"f32[{2**63 - 1}, 2]"])
def test_what_torch_does_not_hold_fails_alone(given: str) -> None:
    rules = loads(
        f"""
        rule r {{ z = neg(neg(x)) => z' = x }}
        test "impossible" {{ given (x: {given}) {{ return neg(x) }} expect r * 0 }}
        test "possible" {{ given (x: f32[3]) {{ return neg(x) }} expect r * 0 }}
        """
    )
    impossible, possible = run_tests(rules)
    assert impossible.message.startswith("its graph does not run: ")
    assert possible.passed


@pytest.mark.parametrize("path", LIBRARIES, ids=lambda path: path.stem)
def test_every_rule_has_documentation(path: Path) -> None:
    assert [rule.name for rule in load(path) if not rule.doc] == []
