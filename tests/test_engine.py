"""The engine as users call it: models of every kind, passes, reports, captures."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.fx.passes.infra.pass_manager import PassManager

from rewrite_engine import RuleError, engine, load, loads
from rewrite_engine.graph_text import graph_text
from rewrite_engine.rewriting.module_state import ModuleState
from rewrite_engine.rewriting.safety import Refused
from rewrite_engine.rewriting.transaction import Transaction
from tests.graphs import graph_of

aten = torch.ops.aten
FUSE = load("qat_fuse")


def conv_bn(**options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-3, **options), nn.ReLU()
    )


def exported(model: nn.Module, *inputs: torch.Tensor, **options: Any) -> Any:
    return torch.export.export(model.train(), inputs, **options)


X = torch.randn(2, 3, 8, 8)


# --- models ---


def test_a_graph_module_is_changed_in_place() -> None:
    gm = exported(conv_bn(), X).module()
    result = engine.apply(gm, FUSE)
    assert result.graph_module is gm
    graph_module, modified = result
    assert graph_module is gm and modified
    assert "rsqrt" not in gm.code and "where" in gm.code


def test_a_guard_refuses_with_a_reason() -> None:
    gm = exported(nn.Sequential(conv_bn(), nn.Conv2d(4, 3, 1), conv_bn()), X).module()
    asked = []

    def guard(match: engine.Match) -> str | None:
        asked.append(match.bindings["y"].name)
        return "not this one" if len(asked) == 1 else None

    report = engine.apply(gm, FUSE, guard=guard).report
    assert asked == ["conv2d", "conv2d_2"]
    assert report.matches == 1
    assert [refusal.reason for refusal in report.refusals] == ["not this one"]


def test_a_guard_that_fails_leaves_the_model_as_it_was() -> None:
    gm = exported(nn.Sequential(conv_bn(), nn.Conv2d(4, 3, 1), conv_bn()), X).module()
    before = graph_text(gm)

    def guard(match: engine.Match) -> None:
        if match.bindings["y"].name == "conv2d_2":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        engine.apply(gm, FUSE, guard=guard)
    assert graph_text(gm) == before


def test_an_exported_program_stays_valid(tmp_path: Path) -> None:
    program = exported(conv_bn(), X)
    expected = copy.deepcopy(program).module()(X)
    result = engine.apply(program, FUSE)
    assert result.exported_program is program and result.modified
    program.validate()
    torch.testing.assert_close(program.module()(X), expected)
    torch.export.save(program, tmp_path / "fused.pt2")
    loaded = torch.export.load(tmp_path / "fused.pt2")
    torch.testing.assert_close(loaded.module()(X), expected)
    decomposed = program.run_decompositions()
    torch.testing.assert_close(decomposed.module()(X), expected)


def test_an_output_that_is_replaced_keeps_its_place() -> None:
    model = nn.Sequential(nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2))
    x = torch.randn(3, 2, 5)
    program = exported(model, x)
    engine.apply(program, FUSE)
    program.validate()
    assert program.module()(x).shape == (3, 2, 5)


def test_a_dynamic_batch_stays_dynamic() -> None:
    batch = torch.export.Dim("batch", min=2, max=64)
    program = exported(conv_bn(), X, dynamic_shapes=({0: batch},))
    reference = copy.deepcopy(program).module()
    assert engine.apply(program, FUSE).report.matches == 1
    program.validate()
    fused = program.module()
    for size in (2, 5, 33):
        x = torch.randn(size, 3, 8, 8)
        torch.testing.assert_close(fused(x), reference(x))


def test_new_constants_become_inputs_of_an_exported_program(tmp_path: Path) -> None:
    rules = loads(
        """
        rule scale {
          z = mul(x, w)  where w is const
        =>
          param doubled = w * 2.0
          z' = mul(x, doubled)
        }
        """.replace("rule scale {", "rule scale once {")
    )

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.arange(3.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.w

    x = torch.randn(2, 3)
    program = exported(Model(), x)
    assert engine.apply(program, rules).report.matches == 1
    program.validate()
    expected = x * torch.arange(3.0) * 2
    torch.testing.assert_close(program.module()(x), expected)
    torch.export.save(program, tmp_path / "scaled.pt2")
    loaded = torch.export.load(tmp_path / "scaled.pt2")
    torch.testing.assert_close(loaded.module()(x), expected)

    gm = exported(Model(), x).module()
    original = gm.w
    engine.apply(gm, rules)
    torch.testing.assert_close(gm(x), expected)
    added = [p for name, p in gm.named_parameters() if "doubled" in name]
    assert len(added) == 1 and added[0].requires_grad
    assert torch.equal(original, torch.arange(3.0)), "constants are never written"
    assert not hasattr(gm, "w"), "what nothing reads any more is dropped"


def test_symbolic_trace_graphs() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x.relu()) + 1.0

    rules = loads("rule twice { z = relu(relu(x)) => z' = relu(x) }")
    gm = fx.symbolic_trace(Model())
    assert engine.apply(gm, rules).report.matches == 1
    x = torch.randn(4)
    assert torch.equal(gm(x), x.relu() + 1.0)


def test_graphs_of_submodules_are_reached_with_recurse() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = conv_bn()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.set_grad_enabled(False):
                return self.body(x)

    gm = exported(Model(), X).module()
    reference = copy.deepcopy(gm)
    assert not engine.apply(gm, FUSE).modified
    result = engine.apply(gm, FUSE, recurse=True)
    assert result.report.matches == 1
    torch.testing.assert_close(gm(X), reference(X))


def test_user_submodules_survive() -> None:
    gm = exported(conv_bn(), X).module()
    gm.mine = nn.Linear(2, 2)
    engine.apply(gm, FUSE)
    assert isinstance(gm.mine, nn.Linear)


# --- metadata ---


def test_every_new_node_says_what_it_is_and_where_it_came_from() -> None:
    gm = exported(conv_bn(), X).module()
    old = set(gm.graph.nodes)
    engine.apply(gm, FUSE)
    created = [node for node in gm.graph.nodes if node not in old]
    assert len(created) == 14
    for node in created:
        assert isinstance(node.meta["val"], torch.Tensor)
        assert node.meta["nn_module_stack"] and "stack_trace" in node.meta
        assert "fuse_conv_bn" in node.meta["from_node"][0].pass_name
        assert ".rules:" in node.meta["from_node"][0].pass_name
    containers = [
        id(value)
        for node in gm.graph.nodes
        for value in (node.meta, *node.meta.values())
        if isinstance(value, dict)
    ]
    assert len(containers) == len(set(containers)), "no two nodes share a dictionary"


def test_recorded_values_are_those_of_a_real_run() -> None:
    gm = exported(conv_bn(), X).module()
    engine.apply(gm, FUSE)

    class Check(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            value = super().run_node(node)
            recorded = node.meta.get("val")
            if isinstance(value, torch.Tensor) and node.op != "output":
                assert (value.shape, value.dtype) == (recorded.shape, recorded.dtype)
                assert value.stride() == recorded.stride()
            return value

    Check(gm).run(X)


def test_meta_statements_copy_what_they_name() -> None:
    gm = graph_of(lambda f, x, y: f(aten.add.Tensor, (x, f(aten.neg.default, (y,)))))
    neg = next(iter(gm.graph.find_nodes(op="call_function", target=aten.neg.default)))
    neg.meta.update(colour="red", size=3)
    rules = loads(
        """
        rule r { n = neg(y)  z = add(x, n) => s = relu(y)  z' = sub(x, s)
                 meta s <- n {colour} }
        """
    )
    engine.apply(gm, rules)
    (relu,) = gm.graph.find_nodes(op="call_function", target=aten.relu.default)
    assert relu.meta["colour"] == "red" and "size" not in relu.meta


# --- captures ---


def test_a_capture_is_emitted_again_with_its_literals() -> None:
    rules = loads(
        """
        pattern qdq(v) = dequantize_per_tensor(quantize_per_tensor(v, ..), ..)
        rule move { z = relu(Q@qdq(x)) => z' = Q(relu(x)) }
        """
    )
    import torch.ao.quantization.fx._decomposed

    quantize = torch.ops.quantized_decomposed.quantize_per_tensor.default
    dequantize = torch.ops.quantized_decomposed.dequantize_per_tensor.default
    literals = (0.5, 3, -128, 127, torch.int8)
    gm = graph_of(
        lambda f, x, y: f(
            aten.relu.default,
            (f(dequantize, (f(quantize, (x, *literals)), *literals)),),
        )
    )
    assert engine.apply(gm, rules).report.matches == 1
    calls = [n for n in gm.graph.nodes if n.op == "call_function"]
    assert [n.target for n in calls] == [aten.relu.default, quantize, dequantize]
    assert calls[1].args[1:] == literals and calls[2].args[1:] == literals


def test_an_absent_capture_leaves_its_operand_alone() -> None:
    rules = loads("rule r { z = neg(A@relu?(x)) => z' = A(sigmoid(x)) }")
    gm = graph_of(lambda f, x, y: f(aten.neg.default, (x,)))
    engine.apply(gm, rules)
    calls = [n.target for n in gm.graph.nodes if n.op == "call_function"]
    assert calls == [aten.sigmoid.default]


# --- as a pass ---


def test_a_rule_set_is_an_fx_pass() -> None:
    manager = PassManager([FUSE], steps=1)
    result = manager(exported(conv_bn(), X).module())
    assert result.modified


def test_a_rule_set_can_be_pickled_and_compared() -> None:
    again = pickle.loads(pickle.dumps(FUSE))
    assert again == FUSE and hash(again) == hash(FUSE)
    other = loads("rule r { z = relu(relu(x)) => z' = relu(x) }")
    assert again != other
    gm = exported(conv_bn(), X).module()
    assert engine.apply(gm, again).report.matches == 1


def test_some_rules_of_a_set_keep_their_phases_and_tests() -> None:
    rules = loads("""
    rule first { z = relu(relu(x)) => z' = relu(x) }
    rule second { z = neg(neg(x)) => z' = x }
    pipeline p { once {second} fixpoint {first, second} }
    test "one" { given (x: f32[2]) { return neg(neg(x)) } expect second * 1 }
    test "both" { given (x: f32[2]) { return x } expect first * 0, second * 0 }
    """)
    chosen = rules.only("second")
    assert [rule.name for rule in chosen] == ["second"]
    assert [phase.rules for phase in chosen.file.phases] == [("second",), ("second",)]
    assert [test.title for test in chosen.tests] == ["one"]
    assert chosen != rules
    once = rules.only("first", once=True)
    assert [(phase.once, phase.rules) for phase in once.file.phases] == [
        (True, ("first",))
    ]
    assert once != rules.only("first")
    with pytest.raises(KeyError, match="third"):
        rules.only("third")


def test_find_changes_nothing() -> None:
    gm = exported(conv_bn(), X).module()
    text = graph_text(gm)
    (match,) = engine.find(gm, FUSE)
    assert match.rule.name == "fuse_conv_bn" and "batch_norm" in match.anchor.name
    assert match.bindings["eps"] == 1e-3
    assert graph_text(gm) == text


# --- the order of things ---


def test_larger_patterns_come_first_unless_benefit_says_otherwise() -> None:
    body = lambda f, x, y: f(aten.relu.default, (f(aten.neg.default, (x,)),))  # noqa: E731
    small = "rule small {benefit} { z = relu(x) => z' = tanh(x) }"
    large = "rule large { z = relu(neg(x)) => z' = exp(x) }"
    for text, name in (("", "large"), ("benefit 9", "small")):
        rules = loads(small.replace("{benefit}", text, 1) + large)
        result = engine.apply(graph_of(body), rules)
        fired = [r.name for r in result.report.rules if r.matches]
        assert fired == [name]


def test_a_fixpoint_rule_sees_what_it_made() -> None:
    def body(f: Any, x: Any, y: Any) -> Any:
        for _ in range(30):
            x = f(aten.relu.default, (x,))
        return x

    text = "rule twice { z = relu(relu(x)) => z' = relu(x) }"
    gm = graph_of(body)
    engine.apply(gm, loads(text))
    assert len(gm.graph.find_nodes(op="call_function", target=aten.relu.default)) == 1


def test_once_rules_see_each_place_once() -> None:
    rules = loads("rule grow once { z = relu(x) => z' = relu(relu(x)) }")
    gm = graph_of(lambda f, x, y: f(aten.relu.default, (x,)))
    assert engine.apply(gm, rules).report.matches == 1
    assert len(gm.graph.find_nodes(op="call_function", target=aten.relu.default)) == 2


def test_the_report_reads_well() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4).eval())
    program = torch.export.export(model, (X,))
    report = engine.apply(program.module(), FUSE).report
    text = str(report)
    assert "the BatchNorm is in eval mode" in text
    assert text.splitlines()[0].split() == [
        "rule", "candidates", "matches", "refused", "ms",
    ]  # fmt: skip


# --- loading ---


def test_an_unknown_library_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no_such_library"):
        load("no_such_library")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing.rules")


def test_a_wrong_rule_raises_one_error_with_every_finding() -> None:
    with pytest.raises(RuleError) as caught:
        loads("rule r { z = rellu(x) => z' = relu(q) }")
    codes = [d.code for d in caught.value.diagnostics]
    assert "E201" in codes and "E202" in codes


def test_a_nested_graph_of_a_program_takes_no_new_constants() -> None:
    gm = graph_of(lambda f, x, y: f(aten.mul.Tensor, (x, y)))
    before = gm.graph.output_node()
    state = ModuleState.of(gm, is_exported=True)
    with pytest.raises(Refused, match="takes no new constants"):
        state.add(Transaction(gm.graph), before, "w", torch.ones(3))


def test_parameters_made_in_inference_mode_train() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x * self.w)

    gm = torch.fx.symbolic_trace(Scaled())
    rules = loads("""rule r once {
      y = relu(mul(x, w))
    =>
      param v = w * 2
      y' = relu(mul(x, v))
    }""")
    with torch.inference_mode():
        assert engine.apply(gm, rules).report.matches == 1
    (parameter,) = gm.parameters()
    gm(torch.ones(2, 3)).sum().backward()
    torch.optim.SGD([parameter], 0.5).step()
    assert parameter.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("stride", [2, [2, 2], (2, 2)])
def test_a_number_is_the_list_that_torch_makes_of_it(stride: Any) -> None:
    gm = graph_of(lambda f, x, w: f(torch.conv2d, (x, w, None, stride)))
    rules = loads("rule r once { y = conv2d(x, w, b?, 2) => y' = conv2d(x, w, b, 3) }")
    assert engine.apply(gm, rules).report.matches == 1
