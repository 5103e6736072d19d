"""Every concrete pair of every shipped rule, run on random tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rewrite_engine import load, loads, torch_ops
from rewrite_engine.errors import RuleError
from rewrite_engine.lowering.instances import Instance
from rewrite_engine.lowering.rule import CompiledRule

FUSE = load("qat_fuse")
RANK = {"conv1d": 1, "conv2d": 2, "conv3d": 3}


def instances_of(name: str) -> list[Instance]:
    return list(FUSE[name].instances())


def conv_arguments(instance: Instance) -> dict[str, Any]:
    """Seeded tensors and literals for the placeholders of a conv -> BatchNorm pair."""
    torch.manual_seed(0)
    call = instance.calls["y"]
    name = call.target._schema.name.split("::")[1]
    rank = 0 if name == "linear" else int(name[-2])
    transposed = "transpose" in name
    groups = 2 if "grouped" in instance.name else 1
    inputs, outputs = 4, 6
    shape = (inputs, outputs // groups) if transposed else (outputs, inputs)
    channels = {key: torch.randn(outputs).double() for key in ("gamma", "beta", "mean")}
    return {
        "x": torch.randn(3, inputs, *[7] * rank).double(),
        "w": torch.randn(*shape, *[3] * rank).double(),
        "b": torch.randn(outputs).double(),
        **channels,
        "var": torch.rand(outputs).double() + 0.5,
        "groups": groups,
        "training": True,
        "eps": 1e-3,
        "z_momentum": 0.1,
        "z_cudnn_enabled": False,
    }


def run(module: torch.fx.GraphModule, arguments: dict[str, Any]) -> list[torch.Tensor]:
    names = [node.target for node in module.graph.find_nodes(op="placeholder")]
    copies = {k: v.clone() if torch.is_tensor(v) else v for k, v in arguments.items()}
    (result,) = module(*(copies[name] for name in names))
    # The running statistics are results as well: both sides write them.
    return [result, copies["mean"], copies["var"]]


@pytest.mark.parametrize("name", ["fuse_conv_bn", "fuse_grouped_conv_transpose_bn"])
def test_every_instance_of_the_fuse_rules_is_exact_in_fp64(name: str) -> None:
    checked = 0
    for instance in instances_of(name):
        arguments = conv_arguments(instance)
        expected = run(instance.matcher, arguments)
        found = run(instance.replacement, arguments)
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        checked += 1
    # 7 operators (and `padding` overloads of 3), with and without bias, gamma, beta;
    # mean and var are always there; only transposed ones have the grouped rule.
    assert checked == {"fuse_conv_bn": 80, "fuse_grouped_conv_transpose_bn": 24}[name]


def test_instances_cover_alternatives_and_options_once() -> None:
    rules = loads(
        """
        pattern act(v) = relu(v) | sigmoid(v) | tanh(v)
        rule r { z = add?(A@act(x), b) => z' = A(x) }
        """
    )
    codes = [instance.matcher.code for instance in rules["r"].instances()]
    assert len(codes) == len(set(codes)) == 6


def test_an_instance_prints_both_sides() -> None:
    instance = instances_of("fuse_conv_bn")[0]
    assert "batch_norm" in instance.matcher.code
    assert "where" in instance.replacement.code


def test_matcher_and_replacement_are_graph_modules() -> None:
    rule = FUSE["fuse_conv_bn"]
    assert isinstance(rule.matcher, torch.fx.GraphModule)
    assert "conv" in rule.matcher.code and "batch_norm" in rule.replacement.code
    with pytest.raises(TypeError, match="instances"):
        names = rule.matcher.graph.find_nodes(op="placeholder")
        rule.matcher(*[torch.randn(1)] * len(names))


def test_any_item_of_a_list_is_an_input_of_an_instance() -> None:
    (rule,) = loads(
        "rule r { y = relu(aten.cat.default([_, a])) where a: f32[$N, _]"
        " => y' = relu(a) }"
    )
    (instance,) = rule.instances()
    parts = torch.ones(1, 2), -torch.ones(2, 2)
    (found,) = instance.matcher(parts[1], parts[0])
    assert torch.equal(found, torch.cat(parts).relu())


def test_the_types_of_a_right_side_that_reads_sizes_are_compared() -> None:
    left = "rule r { y = relu(x) where x: f32[$A, $B] => y' = aten.reshape.default"
    loads(f"{left}(neg(x), [-1, $B]) }}")
    with pytest.raises(RuleError, match=r"is f32\[2, 3\], the right f32\[3, 2\]"):
        loads(f"{left}(neg(x), [-1, $A]) }}")


def test_a_right_side_that_types_decide_is_not_compared() -> None:
    loads(
        "rule r { y = relu(x) where x: f32[2, 3]"
        " => y' = neg(x) if rank(x) == 2 else x }"
    )


@pytest.mark.parametrize(
    ("left", "count"),
    [
        ("y = linear(x, w, b?)  z = linear(y, v, b?)", 2),
        ("y = linear(x, w, b?)  z = add(y, b)", 2),
        ("z = linear(x, w, b?) where b", 1),
        ("z = linear(x, w, b?) where not b", 1),
        ("z = sub(linear(x, w, b?), sin(b) | x)", 2),
        ("z = sub(sin(b) | x, linear(x, w, b?))", 2),
        ("z = sub(add?(x, b), linear(x, w, b?))", 2),
        ("z = sub(linear(x, w, b?), add?(x, b))", 2),
        ("z = linear(x, w, b?) where x: [$n, _], b", 1),
    ],
)
def test_what_is_absent_is_absent_everywhere(left: str, count: int) -> None:
    rules = loads(f"rule r {{ {left} => z' = neg(x) }}")
    assert len(list(rules["r"].instances())) == count


RIGHT_SIDES = {
    "a captured call on another operand": (
        "z = add(N@sin(a), b) => z' = add(b, N(b))",
        [("add(sin(a), b)", "add(b, sin(b))")],
    ),
    "with its other operands": (
        "z = add(N@mul(a, $k), b) => z' = add(b, N(b))",
        [("add(mul(a, k), b)", "add(b, mul(b, k))")],
    ),
    "one of the calls that a capture may be": (
        "z = add(N@(sin(a) | cos(a)), b) => z' = add(b, N(b))",
        [
            ("add(sin(a), b)", "add(b, sin(b))"),
            ("add(cos(a), b)", "add(b, cos(b))"),
        ],
    ),
    "an optional call that is captured": (
        "z = add(N@sin?(a), b) => z' = add(b, N(b))",
        [("add(sin(a), b)", "add(b, sin(b))"), ("add(a, b)", "add(b, b)")],
    ),
    "lists": (
        "z = cat([x, *others, y]) => z' = cat([y, x, *others])",
        [("cat([x, others, y])", "cat([y, x, others])")],
    ),
}


@pytest.mark.parametrize(
    ("text", "pairs"), RIGHT_SIDES.values(), ids=RIGHT_SIDES.keys()
)
def test_the_right_side_of_an_instance(text: str, pairs: list[tuple[str, str]]) -> None:
    rule = loads(f"rule r {{ {text} }}")["r"]
    found = [(called(i.matcher), called(i.replacement)) for i in rule.instances()]
    assert found == pairs


def called(module: torch.fx.GraphModule) -> str:
    """What the one result of a module is, as a term."""

    def term(value: Any) -> str:
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(map(term, value))}]"
        if not isinstance(value, torch.fx.Node) or value.op == "placeholder":
            return str(value)
        name = value.target._schema.name.removeprefix("aten::")
        return f"{name}({', '.join(map(term, value.args))})"

    (result,) = module.graph.output_node().args[0]
    return term(result)


def test_some_instances_of_a_rule_that_has_many() -> None:
    def options(count: int) -> CompiledRule:
        terms = ", ".join(f"(sin(x{i}) | cos(x{i}))" for i in range(count))
        return loads(f"rule r {{ z = cat([{terms}]) => z' = x0 }}")["r"]

    few = options(3)
    assert [i.name for i in few.instances(most=3)] == ["r_0", "r_2", "r_5"]
    assert len(few.instances(most=20)) == 8
    rule = options(9)
    some = rule.instances(most=60)
    assert len(some) == len({called(instance.matcher) for instance in some}) == 60
    taken = frozenset().union(*(instance.taken for instance in some))
    assert len(taken) == 18  # each alternative of each option, from all over the rule
    again = rule.instances(most=60)
    assert [i.taken for i in again] == [i.taken for i in some]


def test_no_module_holds_what_a_call_computes() -> None:
    family = "family Linear(op) = (nn.Linear) | (aten.linear.default)"

    def classes(weight: str) -> set[bool]:
        rule = f"rule r for (op) in Linear {{ z = op(x, {weight}) => z' = neg(x) }}"
        instances = loads(f"{family} {rule}")["r"].instances()
        return {instance.calls_functions for instance in instances}

    assert classes("w") == {False, True} and classes("relu(w)") == {True}


def test_operators_of_a_library_that_is_not_imported_are_in_no_instance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch_ops, "missing_libraries", lambda: frozenset({"torchao"}))
    affine = "torchao.quantize_affine(x, [1], s, p, torch.int8)"
    rule = loads(f"rule r {{ z = neg({affine} | sin(x)) => z' = neg(x) }}")["r"]
    assert [called(i.matcher) for i in rule.instances()] == ["neg(sin(x))"]


def test_a_right_side_that_takes_no_such_operands_is_an_error() -> None:
    with pytest.raises(RuleError, match="the right side cannot be computed: a must"):
        loads("rule r { z = relu(x) where x: f32[2] => z' = aten.mm.default(x, x) }")


def test_an_operator_of_a_pattern_does_not_run() -> None:
    rule = loads("rule r { y = relu(x) => y' = neg(x) }")["r"]
    with pytest.raises(TypeError, match=r"run one of the rule's instances"):
        rule.matcher(torch.ones(1))
