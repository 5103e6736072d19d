"""Checks of checked rules: structure, duplicates, limits."""

from __future__ import annotations

import attrs
import pytest

from rewrite_engine.dsl import loader, validator
from rewrite_engine.dsl.checked import Rule

PAIR = """
rule first benefit 3 { y = relu(x)  z = mul(y, $k) => z' = x }
rule second benefit 2 { y = neg(x)  z = mul(y, $k) => z' = x }
"""


def rule_of(text: str) -> Rule:
    (rule,) = loader.load_text(text).rules
    return rule


def codes_of(text: str) -> list[str]:
    return [found.code for found in loader.check_text(text)]


def test_a_right_rule_has_no_findings() -> None:
    file = loader.load_text(PAIR)
    assert [d for rule in file.rules for d in validator.validate_rule(rule)] == []
    assert list(validator.validate_rules(file)) == []


def test_a_root_needs_a_replacement_or_goes() -> None:
    rule = rule_of("rule r { y = relu(x)  z = neg(y) => z' = x }")
    left_over = attrs.evolve(rule, creates=())
    assert [d.code for d in validator.validate_rule(left_over)] == ["E501"]
    erased = attrs.evolve(left_over, erase=frozenset({"z"}))
    assert list(validator.validate_rule(erased)) == []


def test_checks_of_the_left_side_can_be_left_out() -> None:
    rule = rule_of("rule r { y = relu(x) => y' = x }")
    empty = attrs.evolve(rule, bindings=(), roots=(), creates=())
    assert [d.code for d in validator.validate_rule(empty)] == ["E502"]
    assert list(validator.validate_rule(empty, check_left=False)) == []


def test_roots_may_be_connected_through_a_third() -> None:
    apart = "a = relu(x)  b = neg(y)"
    rest = "=> a' = x  b' = y"
    assert codes_of(f"rule r {{ {apart} {rest} }}") == ["E503"]
    joined = (
        "rule r { a = relu(x)  c = add(x, y)  b = neg(y) => a' = x  b' = y  c' = x }"
    )
    assert codes_of(joined) == []


def test_roots_that_share_only_a_literal_are_disconnected() -> None:
    text = "rule r { a = mul(x, $k)  b = mul(y, $k) => a' = x  b' = y }"
    assert codes_of(text) == ["E503"]


@pytest.mark.parametrize("root", ["add?(relu(x), a)", "relu(x) | neg(x)"])
def test_a_root_may_have_options_that_are_all_calls(root: str) -> None:
    assert codes_of(f"rule r {{ y = {root} => y' = x }}") == []


def test_the_size_of_a_right_side_is_limited() -> None:
    steps = "".join(
        f"  a{i} = neg({'x' if i == 0 else f'a{i - 1}'})\n" for i in range(257)
    )
    text = f"rule r {{ y = relu(x)\n=>\n{steps}  y' = a256\n}}"
    assert codes_of(text) == ["E507"]
    shorter = text.replace("  a256 = neg(a255)\n", "").replace("a256", "a255")
    assert codes_of(shorter) == []


@pytest.mark.parametrize(
    "other",
    [
        "b = mul(a, $m)",
        "b = mul(a, $m) where $m == 3",
        "b = mul(a, 1)",
        "b = mul($m, a)",
        "b = mul(a, c)",
        "b = mul(a, a)",
    ],
)
def test_rules_are_compared_up_to_names(other: str) -> None:
    first = "rule first { y = mul(x, $k) where $k == 2 => y' = x }\n"
    found = codes_of(first + f"rule second {{ {other} => b' = relu(a) }}")
    assert found == []


def test_deep_rules_are_compared_without_recursion() -> None:
    before = "".join(f"pattern p{i}(v) = relu(p{i - 1}(v))\n" for i in range(1, 48))
    rule = "rule r{} {{ y = p47(x) => y' = x }}\n"
    text = "pattern p0(v) = relu(v)\n" + before + rule.format(1) + rule.format(2)
    assert codes_of(text) == ["E505"]


def test_families_with_different_rows_are_different() -> None:
    text = """
    family A(op, $k) = (relu, 1) | (neg, 2)
    family B(op, $k) = (relu, 1) | (neg, 3)
    rule a for (f, $k) in A { y = mul(f(x), $k) => y' = x }
    rule b for (g, $j) in B { y = mul(g(x), $j) => y' = x }
    """
    assert codes_of(text) == []
    assert codes_of(text.replace("3", "2")) == ["E505"]


def test_a_rule_that_keeps_less_does_not_precede() -> None:
    text = """
    rule strict { y = relu(z)  z = neg(x) => y' = x }
    rule lenient { y = relu(z)  z = neg(x) => y' = x  keep z }
    """
    assert codes_of(text) == []
    swapped = text.replace("strict {", "strict benefit 0 {")
    assert codes_of(swapped) == ["E505"]


def test_rules_of_different_phases_are_not_compared() -> None:
    rules = """
    rule a once { y = relu(x) => y' = neg(x) }
    rule b once { y = relu(x) => y' = abs(x) }
    """
    assert codes_of(rules) == ["E505"]
    assert codes_of(rules + "pipeline p { once { a } once { b } }") == []
    assert codes_of(rules + "pipeline p { once { a, b } once { b } }") == ["E505"]


def test_operands_that_commute_make_a_difference() -> None:
    text = """
    op strict = aten.add.Tensor
    op loose = aten.add.Tensor commutes(0, 1)
    rule a once { y = strict(relu(x), z) => y' = sub(x, z) }
    rule b once { y = loose(relu(x), z) => y' = sub(z, x) }
    """
    assert "E505" not in codes_of(text)


def test_what_is_replaced_may_be_chosen_and_is_refused_then() -> None:
    text = "rule r once { y = linear(x, w, b?) => y' = neg(x) if b else y }"
    assert codes_of(text) == []


def test_torch_constants_are_told_apart() -> None:
    text = """
    rule a { y = relu(x) where dtype(x) == torch.int8 => y' = x }
    rule b { y = relu(x) where dtype(x) == torch.int32 => y' = x }
    """
    assert codes_of(text) == []


def test_guards_on_patterns_are_told_apart() -> None:
    text = """
    rule a { y = relu(x) where x ~ neg(_) => y' = x }
    rule b { y = relu(x) where x ~ abs(_) => y' = x }
    """
    assert codes_of(text) == []


def test_a_warning_about_the_left_side_leaves_its_checks_on() -> None:
    family = "family Un(op, $k) = (aten.relu.default, 1)\n"
    rule = "rule r for (f, $k) in Un { z = add?(x, w) => z' = relu(z) }"
    found = loader.check_text(family + rule)
    assert {each.code for each in found} >= {"E502", "W201"}
