"""Right rules pass, wrong ones are caught with a program that shows it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rewrite_engine import RewriteError, engine, load, loads
from rewrite_engine.rewriting import driver
from rewrite_engine.ruleset import RuleSet
from rewrite_engine.verification.report import RuleVerification


def verified(text: str, trials: int = 30) -> RuleVerification:
    (found,) = engine.verify(loads(text), trials=trials).rules
    return found


def codes(found: RuleVerification) -> set[str]:
    return {diagnostic.code for diagnostic in found.diagnostics}


FEW = {  # instances, and trials beside them
    "cleanup": (7, 4),
    "qat_fuse": (6, 0),
    "qat_fold": (5, 0),
    "bn_fold": (6, 0),
    "cross_layer": (4, 0),
    "fold_scales": (6, 0),
    "equalize": (3, 0),
    "smoothquant": (3, 0),
}


def own_rules(library: str) -> RuleSet:
    """A library without those that it uses."""
    rules = load(library)
    own = (r.name for r in rules.file.rules if f"{library}.rules" in r.source.name)
    return rules.only(*own)


def assert_verified(
    library: str, most: int | None, trials: int, measured: Callable[..., None]
) -> None:
    found = engine.verify(own_rules(library), trials=trials, most_instances=most)
    assert found.passed and found.rules, str(found)
    # That a guard is implied by others is no fault.
    assert {d.code for d in found.diagnostics} <= {"W602"}, str(found)
    for rule in found.rules:
        measured("R2", instances=rule.instances_run, trials=rule.trials)
        assert rule.instances_run == rule.instances > 0
        assert rule.fired >= rule.instances
        claims_nothing = rule.name in ("stop_training", "drop_counter")
        assert (rule.compared == 0) == claims_nothing


@pytest.mark.figure("R2")
@pytest.mark.parametrize("library", FEW)
def test_shipped_rules_are_right(library: str, measured: Callable[..., None]) -> None:
    assert_verified(library, *FEW[library], measured)


def test_every_guard_of_a_shipped_rule_matters() -> None:
    rules = load("bn_fold").only("fold_batch_norm_transposed")
    (found,) = engine.verify(rules, trials=2, most_instances=4).rules
    assert not found.diagnostics
    assert len(found.guards) == 4 and all(each.matters for each in found.guards)


@pytest.mark.long
@pytest.mark.figure("R2")
@pytest.mark.parametrize("library", FEW)
def test_every_instance_of_shipped_rules_is_right(
    library: str, measured: Callable[..., None]
) -> None:
    assert_verified(library, None, 200, measured)


RIGHT = {
    "an identity": "rule r exact { z = relu(relu(x)) => z' = relu(x) }",
    "doubling": "rule r exact { z = mul(x, 2) where x: f32|f64 => z' = add(x, x) }",
    "another derivative at what is no number": """
        rule r inexact { z = x * clamp(x + 3, 0, 6) / 6 => z' = hardswish(x) }
        """,
    "alternatives and options": """
        pattern act(v) = relu(v) | sigmoid(v)
        rule r exact { z = add?(A@act(x), y) => z' = add(A(x), y) if y else A(x) }
        """,
    "shapes from guards": """
        rule r inexact {
          z = add(matmul(x, w), b)
          where x: f32[$N, $K], w: f32[$K, $M], b: f32[$M]
        => z' = addmm(b, x, w) }
        """,
    "a folded constant": """
        rule r inexact {
          z = mul(x, mul(w, $k))  where w is const, w: f32, x: f32
        => param wk = w * $k  z' = mul(x, wk) }
        """,
    "written state": """
        rule r inexact {
          z = batch_norm(x, g, b, mean, var, training=true, ..)
        => z' = batch_norm(neg(neg(x)), g, b, mean, var, ..z) }
        """,
    "a literal that follows the shape of an operand": """
        rule r exact { y = expand(x, $s) where shape(x) == $s => y' = x }
        """,
}


@pytest.mark.parametrize("text", RIGHT.values(), ids=RIGHT.keys())
def test_right_rules_pass(text: str) -> None:
    found = verified(text)
    assert not any(d.is_error for d in found.diagnostics), found.diagnostics
    assert "W601" not in codes(found), found.diagnostics
    assert found.instances_run == found.instances


WRONG = {
    "another function": (
        "rule r inexact { z = sub(x, y) => z' = sub(y, x) }",
        "outputs[0]",
    ),
    "the sign of zero": ("rule r exact { z = add(x, 0) => z' = x }", "0.0 became -0.0"),
    "NaN is lost": (
        "rule r inexact { z = mul(x, 0) => z' = zeros_like(x) }",
        "nan became 0.0",
    ),
    "the largest numbers": (
        "rule r exact { z = relu(x) => z' = relu(div(mul(x, 2.0), 2.0)) }",
        "outputs[0]",
    ),
    "the smallest numbers": (
        "rule r exact { z = relu(x) => z' = relu(div(mul(x, 0.5), 0.5)) }",
        "outputs[0]",
    ),
    "only another batch than one": (
        """
        rule r inexact {
          z = sum(x, [0])
        => z' = sum(neg(x), [0]) if size(x, 0) == 1 else sum(x, [0]) }
        """,
        "outputs[0]",
    ),
    "only without groups": (
        """
        rule r inexact {
          z = conv2d(x, w, groups=$g, ..)
        => z' = mul(conv2d(x, w, ..z), 1.0 / $g) }
        """,
        "outputs[0]",
    ),
    "all dtypes but one": (
        """
        rule r inexact {
          z = relu(x)
        => z' = neg(x) if dtype(x) == torch.bfloat16 else relu(x) }
        """,
        "outputs[0]",
    ),
    "unsigned integers": (
        "rule r inexact { z = sub(x, y) where x: f32 => z' = add(x, neg(y)) }",
        "outputs[0]",
    ),
    "only one alternative": (
        """
        pattern either(v) = relu(v) | relu6(v)
        rule r exact { z = either(x) => z' = relu(x) }
        """,
        "outputs[0]",
    ),
    "only without the option": (
        "rule r exact { z = add?(relu(x), y) => z' = relu(x) }",
        "outputs[0]",
    ),
    "only one row of a family": (
        """
        family F(op) = relu | abs
        rule r for op in F exact { z = op(op(x)) => z' = relu(x) }
        """,
        "outputs[0]",
    ),
    "an option that is dropped": (
        "rule r exact { z = leaky_relu(x, ..) => z' = leaky_relu(x) }",
        "outputs[0]",
    ),
    "a gradient": (
        "rule r exact { z = relu(x) => z' = relu(detach(x)) }",
        "gradient of inputs[0]",
    ),
    "a bias that is off by little": (
        """
        rule r inexact {
          y = linear(x, w, b)  where b is const
        => param c = b + 1e-3  y' = linear(x, w, c, ..y) }
        """,
        "outputs[0]",
    ),
    "a gradient of what is folded": (
        """
        rule r inexact {
          y = linear(x, w)  where w is const
        => param v = w * 1.0  y' = linear(detach(x), v, ..y) }
        """,
        "gradient of inputs[0]",
    ),
    "a module's bias": (
        "rule r inexact { y = nn.Linear(x, w, b?) => y' = linear(x, w) }",
        "outputs[0]",
    ),
    "what a module holds": (
        """
        op layer = nn.Linear
        rule r inexact { y = layer(x, w) => w <- w * 1.001  keep y }
        """,
        "outputs[0]",
    ),
    "the factor of a chain": (
        """
        pattern scaled(v) = mul(v, $k)
        rule r inexact { z = relu(scaled^*(x)) => z' = relu(x) }
        """,
        "outputs[0]",
    ),
    "a scale behind a quantizer": (
        """
        rule r inexact {
          q = quantize_per_tensor(x, $s, $z, ..)
          y = dequantize_per_tensor(q, $s, $z, ..)
        => y' = mul(x, 2.0) }
        """,
        "outputs[0]",
    ),
    "what it claims": (
        "rule r exact when $k == 3 { z = mul(x, $k) where x: f32 => z' = add(x, x) }",
        "outputs[0]",
    ),
    "momentum": (
        """
        rule r inexact {
          z = batch_norm(x, g, b, mean, var, training=true, ..)
        => z' = batch_norm(x, g, b, mean, var, momentum=0.0, ..z)  erase z }
        """,
        "mean",
    ),
    "state that is not written": (
        """
        rule r inexact {
          z = batch_norm(x, g, b, mean, var, training=true, ..)
        => z' = batch_norm(x, g, b, clone(mean), var, ..z)  erase z }
        """,
        "mean",
    ),
}


@pytest.mark.parametrize(("text", "difference"), WRONG.values(), ids=WRONG.keys())
def test_wrong_rules_are_caught(text: str, difference: str) -> None:
    found = verified(text, trials=60)
    wrong = [d for d in found.diagnostics if d.code == "E601"]
    assert len(wrong) == 1, found
    assert difference in "\n".join(note.message for note in wrong[0].notes)
    (program,) = found.programs
    with pytest.raises((AssertionError, RuntimeError)) as raised:
        exec(compile(program, "counterexample", "exec"), {})
    assert not isinstance(raised.value, RewriteError)


def test_a_counterexample_is_small() -> None:
    text = "rule r inexact { z = sub(x, y) where y: f32 => z' = sub(y, x) }"
    (program,) = verified(text).programs
    (inputs,) = [line for line in program.splitlines() if line.startswith("inputs")]
    assert inputs.count("torch.tensor") == 2 and len(inputs) < 150
    # The rule matches what it builds, and would go on to the limits of a run.
    with pytest.raises(AssertionError, match="differ"):
        exec(compile(program, "counterexample", "exec"), {})


def test_a_large_counterexample_is_short() -> None:
    text = """
    rule r once inexact {
      z = conv2d(x, w)  where x: f32[2, 4, 16, 16]
    => z' = mul(conv2d(x, w), -1.0) }
    """
    (program,) = verified(text, trials=0).programs
    assert len(program) < 1500
    with pytest.raises(AssertionError, match="differ"):
        exec(compile(program, "counterexample", "exec"), {})


SHARING = {
    "an operand in the place of a new value": "z = neg(neg(x)) => z' = x",
    "a view in the place of a new value": "z = clone(x) => z' = view(x, shape(x))",
    "a new value in the place of a view": "z = view(x, $s) => z' = view(clone(x), $s)",
}


@pytest.mark.parametrize("sides", SHARING.values(), ids=SHARING)
def test_shared_storage_shows_where_results_are_written(
    sides: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"rule r once exact {{ {sides} }}"
    assert not any(d.is_error for d in verified(text).diagnostics)
    # The engine refuses such a place. If it did not, it would be noticed.
    monkeypatch.setattr(driver, "check_result", lambda old, new, aliases: None)
    found = verified(text)
    assert "E601" in codes(found)
    (program,) = found.programs
    assert "add_" in program
    with pytest.raises(AssertionError, match="inputs"):
        exec(compile(program, "counterexample", "exec"), {})


def test_nothing_is_compared_beyond_a_claim() -> None:
    found = verified("rule r exact when false { z = relu(x) => z' = neg(x) }")
    assert not found.diagnostics and found.fired > 0 and found.compared == 0


def test_alternatives_that_were_taken_are_counted() -> None:
    text = """
    pattern act(v) = relu(v) | sigmoid(v)
    rule r exact { z = add?(A@act(x), y) => z' = add(A(x), y) if y else A(x) }
    """
    found = verified(text, trials=0)
    assert (found.alternatives_taken, found.alternatives) == (4, 4)


def test_a_guard_that_never_matters_is_named() -> None:
    text = "rule r exact { z = relu(relu(x)) where rank(x) < 100 => z' = relu(x) }"
    found = verified(text)
    assert codes(found) == {"W602"}
    assert [guard.matters for guard in found.guards] == [False]


def test_a_guard_that_keeps_a_rule_right_matters() -> None:
    text = "rule r exact { z = mul(x, $k) where $k == 1 => z' = x }"
    (guard,) = verified(text).guards
    assert guard.matters and guard.answers == {True, False}


def test_a_guard_on_the_axis_of_a_vector_matters() -> None:
    found = verified(
        """
        rule r inexact {
          m = mul(linear(x, w), s)
          where numel(s) == size(s, -1), numel(s) == size(w, 0)
        => param scaled = w * reshape(s, [-1, 1])
           m' = linear(x, scaled) }
        """
    )
    assert found.guards[0].text == "numel(s) == size(s, -1)"
    assert found.guards[0].matters


def test_a_test_beside_the_rule_counts_as_a_check() -> None:
    rules = loads(
        """
        rule r exact {
          z = relu(relu(x))  where rank(x) == 2 else "no matrix"
        => z' = relu(x) }
        test "only matrices" {
          given (x: f32[2]) { return relu(relu(x)) }
          expect r * 0
        }
        """
    )
    assert not engine.verify(rules, trials=10).diagnostics


def test_what_cannot_be_run_is_said() -> None:
    text = "rule r exact { z = add(x, y) where x: [2], y: [5] => z' = add(y, x) }"
    found = verified(text)
    assert codes(found) == {"W601"}
    assert (found.instances_run, found.fired) == (0, 0)


def test_the_report_is_true_if_nothing_differs() -> None:
    right = engine.verify(loads(RIGHT["an identity"]), trials=5)
    wrong = engine.verify(loads(WRONG["another function"][0]), trials=5)
    assert right and not wrong
    assert "r     1/1" in str(right) and "E601" in str(wrong)


def test_messages_name_operators_by_their_paths() -> None:
    text = "rule r { z = torch.add(x, y) where x: [2], y: [5] => z' = add(y, x) }"
    (finding,) = verified(text).diagnostics
    assert "fires on torch.add" in finding.message


def test_a_rule_that_matches_nothing_is_named() -> None:
    rules = loads("rule never { z = relu(relu(x)) where 1 == 2 => z' = relu(x) }")
    (found,) = engine.verify(rules, trials=4).rules
    assert codes(found) == {"W601"} and found.instances == 0
    assert "exclude every instance" in found.diagnostics[0].message
