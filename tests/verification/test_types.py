"""Types of names, against those that torch computes."""

from __future__ import annotations

from rewrite_engine import load, loads
from rewrite_engine.verification.types import types_in_rule, types_in_test

WIDEN = """
rule widen {
  y = linear(x, w, b?)
  z = mul(y, $k)
=>
  s = reshape(sum(w, [0, 1]), [1, 1])
  z' = mul(add(y, mul(s, 0.0)), $k)
  keep y
}
"""

TEST = """
test "a row of three" {
  given (x: f64[5, 3], w: param f64[2, 3]) {
    y = linear(x, w)
    total = sum(y, [0, 1])
    return mul(y, 3), total
  }
  expect widen * 1
}
"""


def test_the_test_beside_a_rule_gives_the_types() -> None:
    rules = loads(WIDEN + TEST)
    assert types_in_rule(rules.file.rules[0], rules.tests) == {
        "x": "f64[5, 3]",
        "w": "f64[2, 3]",
        "y": "f64[5, 2]",
        "z": "f64[5, 2]",
        "s": "f64[1, 1]",
        "z'": "f64[5, 2]",
        "k": "3",
    }


def test_without_a_test_an_example_is_made_up() -> None:
    rules = loads(WIDEN)
    found = types_in_rule(rules.file.rules[0], rules.tests)
    rows, features = found["w"].removeprefix("f32[").removesuffix("]").split(", ")
    assert found["x"].startswith("f32[") and found["x"].endswith(f", {features}]")
    assert found["y"].endswith(f", {rows}]")
    assert found["s"] == "f32[1, 1]"


def test_what_is_computed_while_rewriting_has_a_type() -> None:
    rules = load("bn_fold")
    found = types_in_rule(rules.file.rules[0], rules.tests)
    assert found["r"] == found["gamma"]


def test_names_of_a_test_have_types() -> None:
    (test,) = loads(WIDEN + TEST).tests
    found = types_in_test(test)
    assert (found["x"], found["w"]) == ("f64[5, 3]", "f64[2, 3]")
    assert (found["y"], found["total"]) == ("f64[5, 2]", "f64[]")


def test_a_rule_that_never_fires_has_no_types() -> None:
    rules = loads('rule never { y = relu(x) where x is const else "no" => y\' = x }')
    found = types_in_rule(rules.file.rules[0], ())
    assert "y" in found  # a constant is made for it
    rules = loads("rule deep { y = relu(x) where rank(x) == 9 => y' = x }")
    assert types_in_rule(rules.file.rules[0], ()) == {}
