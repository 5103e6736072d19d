"""Rules that end, rules that may not; rules that cover or meet each other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rewrite_engine import loads
from rewrite_engine.dsl import loader
from rewrite_engine.rule_tests import run_test


def found(text: str) -> list[tuple[str, str]]:
    """The codes of warnings, and what they are about."""
    diagnostics = loader.check_text(text)
    return [(d.code, d.source.text[d.span.start : d.span.end]) for d in diagnostics]


ENDS = {
    "fewer calls": "rule r { z = relu(relu(x)) => z' = relu(x) }",
    "as many, of another kind": "rule r { z = relu(x) => z' = sigmoid(x) }",
    "more calls, none of the kind": "rule r { z = silu(x) => z' = mul(x, sigmoid(x)) }",
    "a literal that is replaced": "rule r { z = add(x, 1) => z' = add(x, 2) }",
    "one kind after the other": """
        rule a { z = silu(x) => z' = mul(sigmoid(x), sigmoid(x)) }
        rule b { z = sigmoid(x) => z' = tanh(x) }
        """,
    "once at each place": "rule r once { z = relu(x) => z' = relu(neg(x)) }",
    "at least one link": "rule r { z = relu(neg^+(x)) => z' = relu(x) }",
    "in both alternatives": """
        rule r { z = relu(neg(x) | neg(abs(x))) => z' = relu(x) }
        """,
    "a copy of what is captured": """
        pattern act(v) = relu(v) | sigmoid(v)
        rule r { z = neg(A@act(neg(x))) => z' = A(x) }
        """,
    "a guard that the default does not fulfil": """
        rule r { z = add(x, y, alpha=$a) where $a != 1 => z' = add(x, mul(y, $a)) }
        """,
    "a guard that what is built does not fulfil": """
        rule r {
          z = dropout(x, $p, $on) where $on == true
        => z' = dropout(x, $p, train=false) }
        """,
    "a literal that is at its default again": """
        rule r { z = add(x, y, alpha=2) => z' = add(x, add(y, y)) }
        """,
    "a phase that runs once": """
        rule r { z = relu(x) => z' = relu(neg(x)) }
        pipeline p { once { r } }
        """,
}
MAY_NOT_END = {
    "more of its own kind": ("rule r { z = relu(x) => z' = relu(neg(x)) }", ["r"]),
    "swapped": ("rule r { z = sub(x, y) => z' = sub(y, x) }", ["r"]),
    "a pair": (
        """
        rule a { z = relu(x) => z' = sigmoid(x) }
        rule b { z = sigmoid(x) => z' = relu(x) }
        """,
        ["a", "b"],
    ),
    "only one of three": (
        """
        rule a { z = relu(relu(x)) => z' = relu(x) }
        rule b { z = neg(x) => z' = neg(neg(x)) }
        rule c { z = abs(x) => z' = sigmoid(x) }
        """,
        ["b"],
    ),
    "a guard that the default fulfils": (
        "rule r { z = add(x, y, alpha=$a) where $a != 2 => z' = add(x, neg(y)) }",
        ["r"],
    ),
    "a guard on what is handed on": (
        "rule r { y = elu(x, $s) where $s != 0.5 => y' = elu(neg(x), $s) }",
        ["r"],
    ),
    "a guard on what `..y` repeats": (
        "rule r { y = elu(x, $s, ..) where $s > 0.5 => y' = elu(neg(x), ..y) }",
        ["r"],
    ),
    "a number is no truth value": (
        "rule r { z = add(x, y, alpha=$a) where $a != true => z' = add(x, neg(y)) }",
        ["r"],
    ),
    "a literal that only the other rule tells apart": (
        """
        rule a { z = add(x, 1) => z' = neg(x) }
        rule b { z = neg(x) => z' = add(x, 1) }
        """,
        ["a", "b"],
    ),
    "a guard that only the other rule has": (
        """
        rule a { z = add(x, y, alpha=$a) where $a != 1 => z' = add(x, mul(y, $a)) }
        rule b { z = mul(x, y) => z' = add(x, y, alpha=2) }
        """,
        ["a", "b"],
    ),
    "an option may be absent": (
        "rule r { z = relu(neg?(x)) => z' = relu(x) }",
        ["r"],
    ),
    "what is kept is not removed": (
        "rule r { y = neg(x)  z = relu(y) => keep y  z' = relu(x) }",
        ["r"],
    ),
    "one row of a family": (
        """
        family F(op) = relu | sigmoid
        rule r for op in F { z = op(x) => z' = relu(neg(x)) }
        """,
        ["r"],
    ),
    "a chosen side": (
        "rule r { z = add(relu(x), b?) => z' = add(relu(x), b) if b else relu(x) }",
        ["r"],
    ),
}


@pytest.mark.parametrize("text", ENDS.values(), ids=ENDS.keys())
def test_rules_that_end(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "names"), MAY_NOT_END.values(), ids=MAY_NOT_END.keys()
)
def test_rules_that_may_not_end(text: str, names: list[str]) -> None:
    assert found(text) == [("W501", name) for name in names]


@pytest.mark.parametrize("name", ["more of its own kind", "swapped", "a pair"])
def test_a_limit_stops_what_may_not_end(name: str) -> None:
    text, _ = MAY_NOT_END[name]
    operator = "sub(x, x)" if name == "swapped" else "relu(x)"
    example = f'test "t" {{ given (x: f32[2]) {{ return {operator} }} expect equal }}'
    rules = loads(text + example)
    outcome = run_test(rules.tests[0], rules)
    limits = ("the graph grew from", "the rules still change the graph", "more than")
    assert not outcome.passed and outcome.message.startswith(limits)


COVERED = {
    "below another call": (
        "rule any benefit 9 { z = relu(x) => z' = abs(x) }"
        "rule more { z = relu(neg(x)) => z' = tanh(x) }",
        [("W502", "more")],
    ),
    "a literal": (
        "rule any benefit 9 { z = mul(x, $k) => z' = abs(x) }"
        "rule two { z = mul(x, 2) => z' = tanh(x) }",
        [("W502", "two")],
    ),
    "other arguments": (
        "rule any benefit 9 { z = leaky_relu(x, ..) => z' = abs(x) }"
        "rule usual { z = leaky_relu(x) => z' = tanh(x) }",
        [("W502", "usual")],
    ),
    "an alternative": (
        "rule any benefit 9 { z = relu(x) | neg(x) => z' = abs(x) }"
        "rule one { z = neg(sigmoid(x)) => z' = tanh(x) }",
        [("W502", "one")],
    ),
    "the special one comes first": (
        "rule any { z = relu(x) => z' = abs(x) }"
        "rule more { z = relu(neg(x)) => z' = tanh(x) }",
        [],
    ),
    "a guard": (
        "rule any benefit 9 { z = relu(x) where rank(x) == 1 => z' = abs(x) }"
        "rule more { z = relu(neg(x)) => z' = tanh(x) }",
        [],
    ),
    "a name that stands twice": (
        "rule same benefit 9 { z = sub(x, x) => z' = abs(x) }"
        "rule any { z = sub(x, neg(y)) => z' = tanh(x) }",
        [],
    ),
    "operands that commute there only": (
        "op strict = aten.add.Tensor "
        "op loose = aten.add.Tensor commutes(0, 1) "
        "rule any benefit 9 { z = strict(relu(x), y) => z' = sub(x, y) }"
        "rule more { z = loose(relu(neg(x)), y) => z' = sub(y, x) }",
        [],
    ),
    "another phase": (
        "rule any benefit 9 { z = relu(x) => z' = abs(x) }"
        "rule more { z = relu(neg(x)) => z' = tanh(x) }"
        "pipeline p { fixpoint { more } fixpoint { any } }",
        [],
    ),
}
MEETING = {
    "either side": (
        "rule a { z = sub(relu(x), y) => z' = abs(x) }"
        "rule b { z = sub(x, neg(y)) => z' = tanh(x) }",
        [("W503", "b")],
    ),
    "a benefit decides": (
        "rule a { z = sub(relu(x), y) => z' = abs(x) }"
        "rule b benefit 3 { z = sub(x, neg(y)) => z' = tanh(x) }",
        [],
    ),
    "other operands": (
        "rule a { z = sub(relu(x), neg(y)) => z' = abs(x) }"
        "rule b { z = sub(tanh(x), neg(y)) => z' = sigmoid(x) }",
        [],
    ),
    "other literals": (
        "rule a { z = sub(relu(x), 1) => z' = abs(x) }"
        "rule b { z = sub(relu(x), 2) => z' = tanh(x) }",
        [],
    ),
    "guards tell them apart": (
        "rule a { z = sub(relu(x), y) where rank(x) == 1 => z' = abs(x) }"
        "rule b { z = sub(x, neg(y)) where rank(x) == 2 => z' = tanh(x) }",
        [],
    ),
    "names for inner calls": (
        "rule a { y = relu(x)  z = sub(y, w) => z' = abs(w) }"
        "rule b { z = sub(x, N@neg(y)) => z' = tanh(N(x)) }",
        [("W503", "b")],
    ),
    "rows of a family": (
        "family F(op) = relu | sigmoid "
        "rule a for op in F { z = op(sub(x, tanh(y))) => z' = abs(x) }"
        "rule b { z = sigmoid(sub(neg(x), y)) => z' = tanh(x) }",
        [("W503", "b")],
    ),
}
DEEP = {
    "statement after statement": lambda i: f"a{i + 1} = neg(a{i})",
    "one value read twice": lambda i: f"a{i + 1} = add(a{i}, a{i})",
}


@pytest.mark.parametrize("statement", DEEP.values(), ids=DEEP.keys())
def test_long_left_sides_are_compared_in_bounded_steps(
    statement: Callable[[int], str],
) -> None:
    statements = "\n".join(map(statement, range(240)))
    rules = (
        f"rule {name} benefit {number} {{ a0 = {first} {statements} => a240' = x }}"
        for name, number, first in (("p", 9, "relu(x)"), ("q", 1, "relu(abs(x))"))
    )
    assert found("\n".join(rules)) == []


PAIRS = {**COVERED, **MEETING}


@pytest.mark.parametrize(("text", "expected"), PAIRS.values(), ids=PAIRS.keys())
def test_two_rules(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(text) == expected


def test_the_order_that_is_reported_is_that_of_the_engine() -> None:
    text, _ = MEETING["either side"]
    example = """
        test "both" {
          given (x: f64[2], y: f64[2]) { return sub(relu(x), neg(y)) }
          expect a * 1, b * 0
        }
        """
    rules = loads(text + example)
    assert run_test(rules.tests[0], rules).passed
