"""Well-formed rules: what their names, calls and patterns come to."""

from __future__ import annotations

from typing import TypeVar

import pytest

from rewrite_engine.dsl import checked, loader, nodes
from rewrite_engine.dsl.checked import (
    Anything,
    Apply,
    Build,
    Captured,
    Choose,
    Computed,
    Either,
    Items,
    Literal,
    LiteralVariable,
    MakeList,
    Maybe,
    Operator,
    Others,
    Reemit,
    Reference,
    Rule,
    Slot,
    Spread,
    Term,
    TorchConstant,
    Use,
    Value,
    Variable,
)

QDQ = """
op dq = quantized_decomposed.dequantize_per_tensor
op q = quantized_decomposed.quantize_per_tensor
pattern qdq(v) = dq(q(v, $s, $z, ..), $s, $z, ..) | neg(v)
"""

T = TypeVar("T")


def load(left: str, right: str = "y' = x", head: str = "", before: str = "") -> Rule:
    text = f"{before}\nrule r {head} {{ {left} => {right} }}"
    return loader.load_text(text).rules[-1]


def codes_of(left: str, right: str = "y' = x", before: str = "") -> list[str]:
    text = f"{before}\nrule r {{ {left} => {right} }}"
    return [found.code for found in loader.check_text(text)]


def is_a(kind: type[T], value: object) -> T:
    assert isinstance(value, kind)
    return value


def operand(term: Term, index: int = 0) -> Term:
    return is_a(Apply, term).operands[index].value


def argument(value: Value, index: int = 0) -> Value:
    return is_a(Build, value).arguments[index].value


def first_path(call: Apply | Build | Term | Value) -> str:
    return is_a(Operator, call.operator).spellings[0].path  # type: ignore[union-attr]


# --- the left side ---


def test_names_are_variables_literals_or_references() -> None:
    rule = load("z = relu(x)  y = add(mul(z, $k), x)")
    term = rule.bindings[1].term
    assert operand(term, 1) == Variable("x")
    assert operand(operand(term)) == Reference("z")
    assert operand(operand(term), 1) == LiteralVariable("k")
    assert rule.roots == ("y",)


def test_a_statement_may_refer_to_a_later_one() -> None:
    rule = load("y = neg(z)  z = relu(x)")
    assert operand(rule.bindings[0].term) == Reference("z")
    assert rule.roots == ("y",)


def test_literals_keep_their_types() -> None:
    rule = load("y = aten.add(view(x, [1, -1]), 1.0, alpha=2)")
    term = rule.bindings[0].term
    assert operand(operand(term), 1) == Literal((1, -1))
    assert [repr(is_a(Literal, operand(term, i)).value) for i in (1, 2)] == ["1.0", "2"]


def test_a_torch_constant_is_a_literal() -> None:
    rule = load("y = aten.to.dtype(x, torch.int8)")
    assert operand(rule.bindings[0].term, 1) == Literal(TorchConstant("torch.int8"))


def test_lists_hold_terms_and_one_star() -> None:
    rule = load("y = aten.cat([x, *xs], $d)")
    items = is_a(Items, operand(rule.bindings[0].term))
    assert items.items == (Variable("x"), Others("xs"))


def test_operands_are_keyed_as_written() -> None:
    call = is_a(Apply, load("y = linear(x, weight=w, ..)").bindings[0].term)
    assert [o.key for o in call.operands] == [0, "weight"]
    assert call.rest


def test_wildcards_options_and_alternatives() -> None:
    term = load("y = linear(x, _, b?)").bindings[0].term
    assert operand(term, 1) == Anything()
    assert operand(term, 2) == Maybe(Variable("b"))
    either = is_a(Either, load("y = relu(x) | neg(x)").bindings[0].term)
    assert len(either.options) == 2


def test_signs_are_operators_of_the_prelude_even_if_the_file_has_its_own() -> None:
    before = "op add = aten.sub.Tensor"
    term = load("y = add(x, a) + 1", before=before).bindings[0].term
    assert first_path(term) == "aten.add.Tensor"
    assert first_path(operand(term)) == "aten.sub.Tensor"
    assert operand(term, 1) == Literal(1)


def test_a_minus_sign_is_neg() -> None:
    assert first_path(load("y = relu(-x)").bindings[0].term) == "aten.relu.default"
    assert first_path(operand(load("y = relu(-x)").bindings[0].term)) == (
        "aten.neg.default"
    )


def test_the_overload_that_fits_comes_first() -> None:
    plain = is_a(Apply, load("y = aten.sum(x)").bindings[0].term)
    listed = is_a(Apply, load("y = aten.sum(x, [1])").bindings[0].term)
    assert first_path(plain) == "aten.sum.default"
    assert first_path(listed) == "aten.sum.dim_IntList"
    assert isinstance(plain.operator, Operator)
    assert isinstance(listed.operator, Operator)
    assert len(plain.operator.spellings) == len(listed.operator.spellings) == 2


def test_an_operator_class_has_all_its_spellings_and_operands_that_commute() -> None:
    operator = is_a(
        Operator, is_a(Apply, load("y = add(x, a)").bindings[0].term).operator
    )
    paths = {spelling.path for spelling in operator.spellings}
    assert {"aten.add.Tensor", "operator.add", "torch.add", ".add"} <= paths
    assert operator.commutes == (0, 1)
    assert isinstance(operator.when, nodes.Compare)


def test_equal_operators_are_one_object() -> None:
    term = load("y = relu(relu(x))").bindings[0].term
    inner = is_a(Apply, operand(term))
    assert inner.operator is is_a(Apply, term).operator


# --- families ---


def test_a_family_gives_rows_under_the_names_of_the_rule() -> None:
    before = "family Act(op, $low) = (relu, 0) | (aten.neg, [1, 2])"
    rule = load("y = f(x)", "y' = mul(x, $a)", "for (f, $a) in Act", before)
    family = rule.family
    assert family is not None
    assert family.slot == "f"
    assert [row.literals for row in family.rows] == [{"a": 0}, {"a": (1, 2)}]
    assert family.rows[1].operator.spellings[0].path == "aten.neg.default"
    assert is_a(Apply, rule.bindings[0].term).operator == Slot("f")


def test_calls_of_a_slot_fit_every_row() -> None:
    before = "family Act(op) = relu | softmax_of"
    before = "op softmax_of = aten.softmax.int\n" + before
    text = f"{before}\nrule r for f in Act {{ y = f(x) => y' = x }}"
    assert [d.code for d in loader.check_text(text)] == ["E303"]


@pytest.mark.parametrize(
    ("call", "index", "expected"),
    [
        ("conv2d(x, w, b?, 2)", 3, (2, 2)),
        ("conv2d(x, w, padding=1, ..)", 2, (1, 1)),
        ("sum(x, 1)", 1, (1,)),
        ("softmax(x, 1, ..)", 1, 1),
        ("aten.permute(x, [0])", 1, (0,)),
    ],
)
def test_a_number_stands_for_a_list_of_fixed_length(
    call: str, index: int, expected: object
) -> None:
    assert operand(load(f"y = {call}").bindings[0].term, index) == Literal(expected)


# --- patterns and captures ---


def test_a_pattern_is_expanded_and_its_operand_is_one_term() -> None:
    rule = load("y = relu(N@qdq(mul(x, 2)))", "y' = N(x)", before=QDQ)
    captured = is_a(Captured, operand(rule.bindings[0].term))
    first, second = is_a(Either, captured.value).options
    assert captured.hole is operand(operand(first))
    assert captured.hole is operand(second)


def test_names_inside_a_pattern_are_fresh_in_every_expansion() -> None:
    left = "y = add(qdq(x), qdq(qdq_s_1))"
    rule = load(left, before=QDQ)
    options = [is_a(Either, operand(rule.bindings[0].term, i)).options for i in (0, 1)]
    names = [is_a(LiteralVariable, operand(o[0], 1)).name for o in options]
    inner = [is_a(LiteralVariable, operand(operand(o[0]), 1)).name for o in options]
    assert names == inner
    assert len({*names, "qdq_s_1"}) == 3
    assert all(name.isidentifier() for name in names)


def test_an_optional_pattern_has_its_operand_as_last_alternative() -> None:
    rule = load("y = relu(N@qdq?(x))", "y' = N(x)", before=QDQ)
    captured, operand_alone = is_a(Either, operand(rule.bindings[0].term)).options
    assert len(is_a(Either, is_a(Captured, captured).value).options) == 2
    assert operand_alone is is_a(Captured, captured).hole
    assert "N" in rule.optional


def test_an_optional_call_may_be_skipped() -> None:
    inner = is_a(Apply, operand(load("y = relu(add?(x, b))").bindings[0].term))
    assert inner.optional


def test_a_literal_parameter_takes_a_literal() -> None:
    before = "pattern scaled(v, $k) = mul(v, $k)"
    term = operand(load("y = relu(scaled(x, 2))", before=before).bindings[0].term)
    assert operand(term, 1) == Literal(2)


def test_patterns_may_use_patterns() -> None:
    before = "pattern one(v) = relu(v)\npattern two(v) = one(one(v))"
    term = load("y = neg(two(x))", before=before).bindings[0].term
    assert operand(operand(operand(term))) == Variable("x")


def test_terms_of_an_expansion_stand_where_the_pattern_is_called() -> None:
    text = "pattern one(v) = relu(v)\nrule r { y = neg(one(x)) => y' = x }"
    (rule,) = loader.load_text(text).rules
    span = operand(rule.bindings[0].term).span
    assert text[span.start : span.end] == "one(x)"


# --- what may be absent ---


def test_names_that_may_be_absent() -> None:
    rule = load("y = add?(linear(x, w, N@relu(b)?), mul(c, $k))  z = neg(y)", "z' = x")
    assert rule.optional == {"N", "b", "c", "k"}


def test_names_of_some_alternatives_may_be_absent() -> None:
    rule = load("y = relu(mul(x, $k) | add(x, b))")
    assert rule.optional == {"k", "b"}


def test_statements_reached_only_through_options_may_be_absent() -> None:
    rule = load("t = view(b, _)  y = neg(add?(x, t))")
    assert rule.optional == {"t", "b"}


@pytest.mark.parametrize(
    "right",
    [
        "y' = neg(b) if b else x",
        "y' = x if not b else neg(b)",
        "y' = neg(b) if w and b else x",
        "y' = x if not b or not w else neg(b)",
        "y' = linear(x, x, b)",
        "y' = linear(x, x, bias=b)",
        "y' = view(x, shape(b) if b else [1])",
        "y' = x if b and rank(b) == 1 else neg(x)",
    ],
)
def test_a_name_that_may_be_absent_is_read_where_it_is_present(right: str) -> None:
    assert codes_of("y = aten.batch_norm(x, w?, b?, ..)", right) == []


def test_names_of_one_option_come_together() -> None:
    left = "y = neg(add?(x, mul(b, $k)))"
    assert codes_of(left, "y' = mul(b, $k) if b else x") == []
    assert codes_of(left, "y' = mul(b, $k) if $k else x") == []


def test_a_guard_makes_a_name_present() -> None:
    left = "y = linear(x, w, b?) where b"
    assert codes_of(left, "y' = neg(b)") == []


# --- guards ---


def test_guards_are_kept_with_their_text_and_reason() -> None:
    rule = load('y = relu(x) where uses( x )==1, x:f32[ $N,*S ] else "busy"')
    assert [guard.text for guard in rule.guards] == ["uses(x) == 1", "x: f32[$N, *S]"]
    assert {guard.reason for guard in rule.guards} == {"busy"}


def test_dimensions_of_a_type_are_bound() -> None:
    rule = load("y = relu(x) where x: [$N, *S]", "y' = view(x, [$N, *S])")
    value = argument(rule.creates[0].value, 1)
    assert isinstance(value, Computed)


def test_a_pattern_in_a_guard_is_resolved_and_binds_nothing() -> None:
    rule = load("y = relu(x) where not x ~ mul(x, q)")
    (guard,) = rule.guards
    (pattern,) = guard.patterns.values()
    assert operand(pattern, 1) == Variable("q")
    assert codes_of("y = relu(x) where x ~ neg(q)", "y' = q") == ["E202"]


# --- the right side ---


def test_expressions_of_literals_are_computed() -> None:
    rule = load(
        "y = mul(x, $k) where x: [$N]",
        "y' = view(x, along($N, 0, rank(x) + 1)) * ($k * 2)",
    )
    product = rule.creates[0].value
    assert isinstance(argument(product, 1), Computed)
    assert isinstance(argument(argument(product), 1), Computed)


def test_functions_and_operators_of_one_name_are_told_apart() -> None:
    rule = load("y = mul(x, $k)", "y' = mul(abs(x), abs($k))")
    assert first_path(argument(rule.creates[0].value)) == "aten.abs.default"
    assert isinstance(argument(rule.creates[0].value, 1), Computed)


def test_an_operator_may_be_called_as_a_state_that_is_read_anew_is() -> None:
    op = "op initial = aten.neg.default\n"
    rule = load("y = relu(x)", "y' = initial(x)", before=op)
    assert first_path(rule.creates[0].value) == "aten.neg.default"


def test_a_family_may_give_its_operators_that_name() -> None:
    head, family = "for initial in Family", "family Family(op) = relu | neg\n"
    left, right = "y = initial(x)", "y' = initial(abs(x))"
    (value,) = (c.value for c in load(left, right, head, before=family).creates)
    assert isinstance(value, Build) and isinstance(value.operator, Slot)


def test_a_choice_of_literals_is_computed_and_one_of_values_chosen() -> None:
    rule = load(
        "y = linear(x, w, b?)", "y' = mul(b if b else x, 1 if rank(x) == 1 else 2)"
    )
    chosen = is_a(Choose, argument(rule.creates[0].value))
    assert (chosen.then, chosen.otherwise) == (Use("b"), Use("x"))
    assert isinstance(argument(rule.creates[0].value, 1), Computed)


def test_lists_of_the_right_side() -> None:
    rule = load("y = aten.cat([*xs, x])", "y' = aten.cat([x, *xs, neg(x)])")
    items = is_a(MakeList, argument(rule.creates[0].value)).items
    assert items[:2] == (Use("x"), Spread("xs"))
    assert isinstance(items[2], Build)


def test_other_operands_are_taken_over() -> None:
    rule = load("y = linear(x, ..)", "y' = linear(neg(x), ..y)")
    assert is_a(Build, rule.creates[0].value).rest_of == "y"


def test_what_a_capture_matched_is_built_again() -> None:
    rule = load("y = relu(N@neg(x))", "y' = N(relu(x))")
    again = is_a(Reemit, rule.creates[0].value)
    assert again.capture == "N"
    assert isinstance(again.arguments[0], Build)


def test_the_new_node_is_read_with_a_prime() -> None:
    rule = load("y = relu(neg(x))  z = neg(y)", "y' = x  z' = mul(y', x)")
    assert argument(rule.creates[1].value) == Use("y'")
    assert argument(rule.creates[1].value, 1) == Use("x")
    assert [(c.name, c.replaces) for c in rule.creates] == [("y", True), ("z", True)]


def test_constants_are_made_before_the_graph() -> None:
    rule = load(
        "y = linear(x, w, b?)",
        "value r = w * 2  param p = (b if b else 0) - r  y' = linear(x, p)",
    )
    assert [create.kind for create in rule.creates] == ["value", "param", "node"]
    difference = rule.creates[1].value
    assert first_path(difference) == "aten.sub.Tensor"
    assert is_a(Choose, argument(difference)).otherwise == Computed(nodes.Constant(0))


def test_metadata_nodes_to_keep_and_to_erase() -> None:
    rule = load(
        "y = relu(z)  z = neg(x)  e = abs(z)",
        "a = neg(x)  y' = a  meta a, y' <- z {tag}  keep z  erase e",
    )
    assert rule.meta == (checked.CopyMeta(("a", "y'"), "z", ("tag",)),)
    assert (rule.keep, rule.erase) == ({"z"}, {"e"})


def test_what_the_head_of_a_rule_says() -> None:
    rule = load("y = relu(x)", head="once benefit 3 exact")
    assert (rule.once, rule.benefit, rule.tolerance) == (True, 3, 0.0)
    rule = load("y = relu(x)", head="inexact 1e-3")
    assert (rule.once, rule.benefit, rule.tolerance) == (False, None, 1e-3)
    assert load("y = relu(x)", head="inexact").tolerance is None


def test_the_place_of_a_rule_is_its_text() -> None:
    rule = load("y = relu(x)")
    text = rule.source.text[rule.span.start : rule.span.end]
    assert text.startswith("rule r") and text.endswith("}")


# --- tests ---


def test_a_test_is_checked_like_a_right_side() -> None:
    text = """
    rule r { y = relu(x) => y' = x }
    test "both" {
      given (x: f32[2, 3], w: param f32[3, 3]) {
        h = matmul(x, w)
        return relu(h), [h, x]
      }
      expect r * 1, equal 1e-6
    }
    """
    (test,) = loader.load_text(text).tests
    assert [create.name for create in test.creates] == ["h"]
    assert isinstance(test.returns[0], Build)
    assert is_a(MakeList, test.returns[1]).items == (Use("h"), Use("x"))


# --- limits ---


def test_a_long_chain_of_statements_needs_no_recursion() -> None:
    steps = " ".join(f"a{i} = neg(a{i - 1})" for i in range(1, 250))
    rule = load(f"a0 = add?(relu(x), b) {steps}", "a249' = x")
    assert rule.roots == ("a249",)
    assert rule.optional == {"b"}


def test_a_left_side_that_doubles_with_every_pattern_is_cut_off() -> None:
    patterns = "pattern p0(v) = v | v\n" + "\n".join(
        f"pattern p{i}(v) = p{i - 1}(v) | p{i - 1}(v)" for i in range(1, 40)
    )
    text = f"{patterns}\nrule r {{ y = relu(p39(x)) => y' = x }}"
    found = loader.check_text(text)
    assert "E507" in {each.code for each in found}
