"""Rewrites that were once wrong: now right, or refused with the reason."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from rewrite_engine import engine, load, loads
from rewrite_engine.rewriting.run import Result
from tests.graphs import graph_of

aten = torch.ops.aten
Body = Callable[..., Any]
X, Y = torch.randn(2, 3), torch.randn(2, 3)


def apply(rules: str, gm: fx.GraphModule) -> Result:
    result = engine.apply(gm, loads(rules))
    gm.graph.lint()
    return result


def reason(rules: str, gm: fx.GraphModule) -> str:
    (refusal,) = apply(rules, gm).report.refusals
    return refusal.reason


def relu_and_neg(f: Any, x: Any, y: Any) -> Any:
    return f(aten.relu.default, (x,)), f(aten.neg.default, (x,))


def test_what_is_replaced_cannot_be_read() -> None:
    """Rules that always do are errors; this one does where `b` is absent."""
    rules = "rule r once { z = neg(add?(x, b)) => z' = tanh(x) if b else abs(z) }"
    assert "which it replaces" in reason(rules, graph_of(relu_and_neg))


def test_a_kept_value_must_be_there_when_it_is_read() -> None:
    rules = """
    rule r once {
      k = relu(x)  a = neg(x)  b = add(k, y)
    =>
      keep k
      a' = sub(k, x)
      b' = add(y, k)
    }
    """

    def body(f: Any, x: Any, y: Any) -> Any:
        a = f(aten.neg.default, (x,))
        early = f(aten.tanh.default, (a,))
        k = f(aten.relu.default, (x,))
        return early, f(aten.add.Tensor, (k, y))

    assert "is not there yet" in reason(rules, graph_of(body))


def test_random_calls_keep_their_order() -> None:
    rules = """
    rule r once {
      a = dropout(x, ..)  b = dropout(y, ..)  z = add(a, relu(b))
    =>
      z' = add(dropout(x, ..a), relu(dropout(y, ..b)))
    }
    """

    def body(f: Any, x: Any, y: Any) -> Any:
        b = f(aten.dropout.default, (y, 0.5, True))
        a = f(aten.dropout.default, (x, 0.5, True))
        return f(aten.add.Tensor, (a, f(aten.relu.default, (b,))))

    assert "would be reordered" in reason(rules, graph_of(body))


def test_a_pattern_fixes_the_order_of_its_reads_and_writes() -> None:
    rules = """
    rule r once {
      q = aten.add_.Tensor(x, $k)  z = add(relu(x), q)
    =>
      z' = add(relu(x), aten.add_.Tensor(x, $k, ..q))
    }
    """

    def body(f: Any, x: Any, y: Any) -> Any:
        q = f(aten.add_.Tensor, (x, 1.0))
        return f(aten.add.Tensor, (f(aten.relu.default, (x,)), q))

    assert "does not say which comes first" in reason(rules, graph_of(body))


def test_a_given_node_is_seen_again_when_it_reads_something_else() -> None:
    rules = """
    rule even once { z = neg(neg(x)) => z' = x }
    rule outer once { z = sin(relu(x)) => z' = cos(x) }
    """

    def body(f: Any, x: Any, y: Any) -> Any:
        value = f(aten.relu.default, (x,))
        for _ in range(2):
            value = f(aten.neg.default, (value,))
        return f(aten.sin.default, (value,))

    report = apply(rules, graph_of(body)).report
    assert {rule.name: rule.matches for rule in report.rules} == {"even": 1, "outer": 1}


# --- constants ---

DOUBLE = """
rule r once {
  z = mul(x, w)  where w is const
=>
  param d = w * 2.0
  z' = div(mul(x, d), 2.0)
}
"""


def test_a_constant_that_is_written_is_not_folded() -> None:
    def body(f: Any, x: Any, y: Any, w: Any) -> Any:
        z = f(aten.mul.Tensor, (x, w))
        f(aten.add_.Tensor, (w, 1.0))
        return z

    assert "may write the constant" in reason(DOUBLE, graph_of(body, w=torch.ones(3)))


def test_all_names_of_a_constant_leave_with_it() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = self.b = nn.Parameter(torch.ones(3))
            self.c = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.a

    program = torch.export.export(Tied(), (X,))
    assert len(program.graph.find_nodes(op="placeholder")) == 4
    assert engine.apply(program, loads(DOUBLE)).modified
    assert list(program.state_dict) == ["c", "b_d"]
    assert torch.equal(program.module()(X), X)


def test_a_buffer_that_a_program_writes_back_is_no_constant() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("w", torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * self.w
            self.w.add_(1)
            return y

    program = torch.export.export(Counting(), (X,)).run_decompositions()
    assert not engine.apply(program, loads(DOUBLE)).modified


@pytest.mark.parametrize("written", ["w", "x"])
def test_what_a_program_writes_back_is_not_returned_in_the_place_of_a_copy(
    written: str,
) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("w", torch.ones(3))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            value = self.w if written == "w" else x
            before, inner = (value * 1).view(3, 1), (value * 1).exp()
            value.add_(1)
            return before, inner

    def run(program: torch.export.ExportedProgram) -> list[torch.Tensor]:
        return list(copy.deepcopy(program).module()(torch.arange(3.0)))

    program = torch.export.export(Counting(), (torch.arange(3.0),))
    program = program.run_decompositions()
    expected = run(program)
    report = engine.apply(program, load("cleanup")).report
    (refusal,) = (each for rule in report.rules for each in rule.refusals)
    assert "is returned, and" in refusal.reason
    assert sum(rule.matches for rule in report.rules) == 1  # `inner`
    torch.testing.assert_close(run(program), expected, rtol=0, atol=0)


def multiply(f: Any, x: Any, y: Any, w: Any) -> Any:
    return f(aten.mul.Tensor, (x, w))


def fold(expression: str) -> str:
    return DOUBLE.replace("w * 2.0", expression)


def test_what_folded_constants_grow_to_is_known_first() -> None:
    long, product = torch.ones(4096), "reshape(w, [-1, 1]) * w"
    gm = graph_of(multiply, w=long)
    assert apply(fold("w * w"), gm).modified
    assert "would take 128 MiB" in reason(fold(product), graph_of(multiply, w=long))


def test_a_constant_is_named_after_the_first_that_it_is_made_of() -> None:
    rule = DOUBLE.replace("mul(x, w)", "mul(x, w)", 1).replace(
        "z = mul(x, w)", "z = mul(mul(x, $k), w)"
    )
    rule = rule.replace("w * 2.0", "aten.pow.Scalar($k, w)")

    def body(f: Any, x: Any, y: Any, w: Any) -> Any:
        return f(aten.mul.Tensor, (f(aten.mul.Tensor, (x, 3.0)), w))

    gm = graph_of(body, w=torch.ones(3) * 2)
    assert apply(rule, gm).modified
    assert {name: value[0].item() for name, value in gm.named_parameters()} == {
        "w_d": 9.0
    }


def test_lists_are_built_of_new_values_and_of_those_that_a_rest_stands_for() -> None:
    rules = """
    rule r once {
      z = neg(cat([x, *others], $d))
    =>
      z' = cat([relu(x), *others, sin(x)], $d)
    }
    """

    def body(f: Any, x: Any, y: Any) -> Any:
        return f(aten.neg.default, (f(aten.cat.default, ([x, y, x], 1)),))

    gm = graph_of(body)
    assert apply(rules, gm).modified
    assert torch.equal(gm(X, Y), torch.cat([X.relu(), Y, X, X.sin()], 1))


def test_folding_never_writes_a_constant() -> None:
    gm = graph_of(multiply, w=torch.ones(3, dtype=torch.float64))
    assert "never written" in reason(fold("aten.mul_.Tensor(w, 3.0)"), gm)
    assert torch.equal(gm.w, torch.ones(3, dtype=torch.float64))


def test_a_new_constant_has_memory_of_its_own() -> None:
    gm = graph_of(multiply, w=torch.ones(3, dtype=torch.float64))
    original = gm.w
    assert apply(fold("reshape(w, [-1])"), gm).modified
    assert gm.w_d.data_ptr() != original.data_ptr()


def test_a_fold_that_fails_is_refused() -> None:
    gm = graph_of(multiply, w=torch.ones(3))
    assert "cannot be computed" in reason(fold("transpose(w, 0, 5)"), gm)


def test_a_comparison_of_parameters_has_no_gradient() -> None:
    gm = graph_of(multiply, w=nn.Parameter(torch.ones(3)))
    assert apply(fold("gt(w, 0)"), gm).modified
    assert gm.w_d.dtype is torch.bool and not gm.w_d.requires_grad


# --- how calls are written ---


def test_a_literal_takes_the_overload_for_literals() -> None:
    gm = graph_of(lambda f, x, y: f(aten.relu.default, (x,)))
    apply("rule r { z = relu(x) => z' = pow(x, 2) }", gm)
    assert torch.equal(gm(X, Y), X**2)


def test_a_tensor_takes_the_overload_for_tensors() -> None:
    gm = graph_of(lambda f, x, y: f(aten.maximum.default, (x, y)))
    apply("rule r { z = maximum(x, low) => z' = clamp(x, low) }", gm)
    assert torch.equal(gm(X, Y), torch.maximum(X, Y))


def test_an_option_that_the_spelling_lacks_takes_another_spelling() -> None:
    gm = graph_of(lambda f, x, y: f(operator.add, (x, y)))
    apply("rule r once { z = add(x, y) => z' = add(x, y, alpha=2, ..z) }", gm)
    assert torch.equal(gm(X, Y), X + 2 * Y)


def test_an_optional_call_that_is_absent_has_no_other_arguments() -> None:
    gm = graph_of(lambda f, x, y: f(aten.tanh.default, (x,)))
    rules = "rule r once { u = relu?(x)  z = tanh(u) => z' = relu(tanh(x), ..u) }"
    apply(rules, gm)
    assert torch.equal(gm(X, Y), X.tanh().relu())


def test_sizes_of_a_method_are_exchanged_together() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(3, -1).relu()

    gm = fx.symbolic_trace(Model())
    rules = """
    rule r { y = reshape(x, $s)  z = relu(y) => z' = reshape(relu(x), $s, ..y) }
    """
    assert apply(rules, gm).modified
    assert torch.equal(gm(X), X.reshape(3, -1).relu())


def test_a_capture_is_emitted_again_with_its_operands_as_keywords() -> None:
    def body(f: Any, x: Any, y: Any) -> Any:
        return f(aten.neg.default, (f(torch.mean, (), {"input": x, "dim": 1}),))

    gm = graph_of(body)
    assert apply("rule r { z = neg(N@mean(x, ..)) => z' = N(neg(x)) }", gm).modified
    torch.testing.assert_close(gm(X, Y), -X.mean(1))


@pytest.mark.parametrize("swapped", [False, True])
def test_a_capture_of_commuted_operands_exchanges_the_one_it_names(
    swapped: bool,
) -> None:
    def body(f: Any, x: Any, y: Any) -> Any:
        operands = [f(aten.relu.default, (x,)), y]
        total = f(aten.add.Tensor, tuple(operands[::-1] if swapped else operands))
        return f(aten.neg.default, (total,))

    gm = graph_of(body)
    rules = "rule r once { z = neg(N@add(relu(x), y)) => z' = neg(N(relu(x))) }"
    assert apply(rules, gm).modified
    assert torch.equal(gm(X, Y), -(X.relu() + Y))
    (total,) = gm.graph.find_nodes(op="call_function", target=aten.add.Tensor)
    assert [n.op for n in total.args].index("placeholder") == (0 if swapped else 1)


# --- questions without an answer ---


@pytest.mark.parametrize("guard", ["-$low == 1", "$low > 0", '"%" % $high == 1'])
def test_a_guard_on_another_kind_of_literal_does_not_hold(guard: str) -> None:
    gm = graph_of(lambda f, x, y: f(aten.clamp.default, (x, None, 1.0)))
    rules = f"rule r {{ z = clamp(x, $low, $high) where {guard} => z' = relu(x) }}"
    assert not apply(rules, gm).modified


def test_a_condition_on_types_does_not_make_operands_commute() -> None:
    rules = """
    op plus = aten.add.Tensor commutes(0, 1) when rank(self) == 2
    rule r { z = plus(relu(x), y) => z' = plus(y, relu(x)) }
    """
    gm = graph_of(lambda f, x, y: f(aten.add.Tensor, (x, f(aten.relu.default, (y,)))))
    assert not apply(rules, gm).modified


def dynamic(model: nn.Module) -> torch.export.ExportedProgram:
    return torch.export.export(
        model, (X,), dynamic_shapes=({0: torch.export.Dim("n")},)
    )


@pytest.mark.parametrize(
    "guard",
    [
        "size(x, 0) == 2",
        "size(x, 0) != 2",
        "size(x, 0) > 2",
        "shape(x) == [2, 3]",
        "max(size(x, 0), 1) == 2",
        "x: f32[$N, 3], $N % 2 == 0",
    ],
)
def test_a_guard_does_not_specialise_a_dynamic_size(guard: str) -> None:
    program = dynamic(nn.Sequential(nn.ReLU(), nn.Tanh()))
    rules = f"rule r once {{ z = relu(x) where {guard} => z' = clamp(x, 0) }}"
    assert not engine.apply(program, loads(rules)).modified
    sizes = program.graph.find_nodes(op="placeholder")[0].meta["val"].fake_mode
    assert not sizes.shape_env.guards


def test_a_guard_may_ask_what_holds_for_every_size() -> None:
    program = dynamic(nn.Sequential(nn.ReLU(), nn.Tanh()))
    guard = "size(x, 1) == 3, size(x, 0) >= 0, is_contiguous(x)"
    rules = f"rule r once {{ z = relu(x) where {guard} => z' = clamp(x, 0) }}"
    assert engine.apply(program, loads(rules)).modified


def test_a_size_that_depends_on_data_is_no_error() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x.nonzero().float())

    program = torch.export.export(Model(), (X,))
    rules = "rule r { z = relu(x) where size(x, 0) > 2 => z' = clamp(x, 0) }"
    assert not engine.apply(program, loads(rules)).modified


@pytest.mark.parametrize("sizes", ["shape(x)", "[size(x, 0), 3]"])
def test_a_dynamic_size_is_no_literal(sizes: str) -> None:
    program = dynamic(nn.Sequential(nn.ReLU()))
    rules = f"rule r once {{ z = relu(x) => z' = reshape(relu(x), {sizes}) }}"
    (refusal,) = engine.apply(program, loads(rules)).report.refusals
    assert "dynamic size" in refusal.reason
    program.validate()


@pytest.mark.parametrize("mode", ["fake", "symbolic"])
def test_a_size_that_a_trace_was_specialised_to_is_a_number(mode: str) -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) @ torch.ones(3, 3)

    gm = make_fx(model, tracing_mode=mode, _allow_non_fake_inputs=True)(X)
    rules = "rule r once { z = relu(x) where x: [_, $C] => z' = add(relu(x), $C) }"
    assert apply(rules, gm).report.matches == 1
    (call,) = gm.graph.find_nodes(op="call_function", target=aten.add.Tensor)
    assert call.args[1] == 3 and type(call.args[1]) is int


def test_a_choice_between_constants_is_stored_under_the_name_chosen():
    rules = loads(
        """
        rule r once {
          y = linear(x, w, b?)
        =>
          param scaled = w * 2
          param shifted = b * 2 if b else w
          y' = linear(x, scaled, shifted if b else none, ..y)
        }
        """
    )
    for bias in (True, False):
        gm = torch.export.export(
            torch.nn.Linear(3, 2, bias=bias), (torch.randn(4, 3),)
        ).module()
        x = torch.randn(4, 3)
        expected = 2 * gm(x)
        assert engine.apply(gm, rules).modified
        torch.testing.assert_close(gm(x), expected)
        assert ("bias_shifted" in gm.state_dict()) is bias


@pytest.mark.parametrize("exported", [False, True])
def test_a_constant_that_is_folded_again_leaves_the_state(exported: bool) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(3, 3))
            self.s, self.t = nn.Buffer(torch.rand(3)), nn.Buffer(torch.rand(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, self.w) * self.s * self.t

    rules = """rule f {
      z = mul(linear(x, w), s)
      where s is const, w is const
    =>
      param w2 = w * reshape(s, [-1, 1])
      z' = linear(x, w2)
    }"""
    model = Model()
    expected = model(X)
    program = torch.export.export(model, (X,)) if exported else None
    graph = program or fx.symbolic_trace(model)
    assert engine.apply(graph, loads(rules)).report.matches == 2
    run = graph.module() if program is not None else graph
    state = graph.state_dict if program is not None else graph.state_dict()
    assert len(state) == 1
    torch.testing.assert_close(run(X), expected)


@pytest.fixture
def default_dtype() -> Iterator[Callable[[torch.dtype], None]]:
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


HALF = """rule r {
  y = add(x, div(c, 2))
  where c is const
=>
  buffer d = c / 2
  y' = sub(x, neg(d))
}"""


def test_integers_divide_to_the_default_dtype_of_the_moment(
    default_dtype: Callable[[torch.dtype], None],
) -> None:
    def body(f: Any, x: Any, y: Any, c: Any) -> Any:
        return f(aten.add.Tensor, (x, f(aten.div.Tensor, (c, 2))))

    for dtype in (torch.float32, torch.float64):
        default_dtype(dtype)
        gm = graph_of(body, c=torch.tensor([1, 2, 3]))
        expected = gm(X, Y)
        assert apply(HALF, gm).report.matches == 1
        torch.testing.assert_close(gm(X, Y), expected)


def negated_sum(f: Any, x: Any, y: Any) -> Any:
    return f(aten.neg.default, (f(aten.add.Tensor, (x, y), {"alpha": 2}),))


@pytest.mark.parametrize("operator", ["add", "sub"])
def test_a_capture_gives_its_other_arguments(operator: str) -> None:
    gm = graph_of(negated_sum)
    right = f"neg({operator}(a, b, ..N))"
    apply(f"rule r once {{ z = neg(N@add(a, b, ..)) => z' = {right} }}", gm)
    expected = X + 2 * Y if operator == "add" else X - 2 * Y
    torch.testing.assert_close(gm(X, Y), -expected)


def test_a_chain_without_links_gives_no_arguments() -> None:
    gm = graph_of(negated_sum)
    left = "neg(N@add^*(add(a, b, ..), 1, ..))"
    apply(f"rule r once {{ z = {left} => z' = neg(add(a, b, ..N)) }}", gm)
    torch.testing.assert_close(gm(X, Y), -(X + Y))
