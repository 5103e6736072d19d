"""Every concrete pair of the rules that fold, run on random tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import fx

from rewrite_engine import load
from rewrite_engine.lowering.instances import Instance

pytest.importorskip("torchao.quantization.quant_primitives")

aten = torch.ops.aten
INPUTS, OUTPUTS, EPS = 4, 6, 1e-3
LIMITS = {"quant_min": -(2**31), "quant_max": 2**31 - 1}


def _layer(instance: Instance) -> tuple[str, int]:
    """The operator that is folded into, and the rank of its weight."""
    target = instance.calls["y"].target
    name = target.__name__.split(".")[0]
    if name == "convolution":
        # The rule for transposed ones asks for the groups.
        return name + "_transpose" * ("groups" in _placeholders(instance.matcher)), 4
    rank = re.search(r"(\d)d", name)
    return name, 2 if rank is None else int(rank[1]) + 2


def _tensors(instance: Instance, dtype: torch.dtype) -> dict[str, Any]:
    """Tensors and literals for the placeholders that a rule names."""
    name, rank = _layer(instance)
    groups, kernel = _groups(instance), [3] * (rank - 2)
    shape = [OUTPUTS, INPUTS // groups, *kernel]
    if "transpose" in name:
        shape = [INPUTS, OUTPUTS // groups, *kernel]
    torch.manual_seed(0)
    channels = {n: torch.randn(OUTPUTS, dtype=dtype) for n in ("b", "beta", "mean")}
    gamma = torch.rand(OUTPUTS, dtype=dtype) + 0.5
    if instance.matcher.graph.find_nodes(op="call_function", target=aten.ne.Scalar):
        gamma[0] = 0.0
    axis = 1 if "transpose" in name else 0
    return channels | {
        "x": torch.randn(3, INPUTS, *[5] * (rank - 2), dtype=dtype),
        "w": torch.randn(shape, dtype=dtype),
        "gamma": gamma,
        "var": torch.rand(OUTPUTS, dtype=dtype) + 0.5,
        "eps": EPS,
        "rows": [-1 if i == axis else 1 for i in range(rank)],
        "columns": [-1 if i == 1 else 1 for i in range(rank)],
        **dict.fromkeys(("groups", "y_groups"), groups),
        **{f"y_{key}": [1] for key in ("stride", "dilation")},
        **{f"y_{key}": [0] for key in ("padding", "output_padding")},
        "y_transposed": "transpose" in name,
        "each": shape[1],
        "kernel": 3 ** (rank - 2),
        "joined": shape,
    }


def _groups(instance: Instance) -> int:
    """Two, unless the layer has none or the scale is that of a single one."""
    name, _ = _layer(instance)
    is_single = "transpose" in name and "rows" in _placeholders(instance.matcher)
    return 1 if name in ("linear", "addmm", "mm") or is_single else 2


def _placeholders(module: fx.GraphModule) -> list[str]:
    return [str(n.target) for n in module.graph.find_nodes(op="placeholder")]


def _argument(name: str, known: dict[str, Any], axis: int) -> Any:
    """The value of an operand that a rule leaves open, by its parameter's name."""
    if name in known:
        return known[name]
    if name.startswith(("z_", "batch_norm_")):
        return {"momentum": 0.1, "eps": EPS}.get(name.rpartition("_")[2], False)
    if name == "training":
        return False
    if name.startswith("convert_element_type"):
        is_second = "_1_" in name or "_3_" in name
        return torch.float32 if is_second else torch.float64
    # The pair of the output is the last one, and sees the largest values.
    of_bias = bool(re.search(r"_[12]_", name))
    channels = OUTPUTS if of_bias else known["w"].shape[axis]
    per_channel, affine = "per_channel" in name, "affine" in name
    scale: Any = 1e-6 if of_bias else 0.01
    zero: Any = 0
    if per_channel or affine:
        count = channels if per_channel else 1
        scale = torch.full((count,), scale)
        zero = torch.zeros(count, dtype=torch.int64)
    shape = list(known["b" if of_bias else "w"].shape)
    options = LIMITS | {
        "scales": scale,
        "scale": scale,
        "zero_points": zero,
        "zero_point": zero,
        "axis": 0 if of_bias else axis,
        "block_size": shape,
        "dtype": torch.int32,
        "output_dtype": torch.int32,
        "input_dtype": torch.int32,
    }
    return next(v for key, v in options.items() if name.endswith(f"_{key}"))


def _run(module: fx.GraphModule, given: dict[str, Any]) -> torch.Tensor:
    # Call by call: to make code of thousands of graphs would take longer than they do.
    values: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "placeholder":
            values[node] = given[node.target]
        elif node.op == "output":
            return values[node.args[0][0]]
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **kwargs)
    raise AssertionError("a graph without output")


def _arguments(instance: Instance, dtype: torch.dtype) -> dict[str, Any]:
    name, _ = _layer(instance)
    known = _tensors(instance, dtype)
    axis = 1 if "transpose" in name else 0
    nodes = instance.matcher.graph.find_nodes(op="placeholder")
    return {n.target: _argument(_name(n), known, axis) for n in nodes}


def _name(node: fx.Node) -> str:
    """What the rule names for the pair of a bias, as if it were left open."""
    name = str(node.target)
    if not name.startswith("zero_quantized"):
        return name
    user = next(iter(node.users))
    operator = user.target._schema.name.partition("::")[2]
    parameter = user.target._schema.arguments[user.args.index(node)].name
    return f"{operator}_1_{parameter}"


def _with_groups(instance: Instance) -> None:
    """Give the layers of both sides the groups that their weights are made for."""
    name, groups = _layer(instance)[0], _groups(instance)
    if groups == 1 or "convolution" in name:
        return
    for module in (instance.matcher, instance.replacement):
        for node in module.graph.nodes:
            if node.op == "call_function" and name in str(node.target):
                node.update_kwarg("groups", groups)


def _assert_right(instances: Iterable[Instance]) -> None:
    for instance in instances:
        _with_groups(instance)
        given = _arguments(instance, torch.float32)
        expected, found = (
            _run(module, given) for module in (instance.matcher, instance.replacement)
        )
        close = torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
        assert close, instance.matcher.code


# Three forms of the scale, with or without beta; the weight, the bias and the output
# each quantized in a form of its own, or not; 7 layers and 3 `padding` overloads, the
# transposed ones with groups or without.


def test_every_instance_of_the_qat_fold_rule_is_right():
    instances = load("qat_fold")["fold_conv_bn"].instances()
    assert len(instances) > 4_000
    _assert_right(instances)


def test_every_instance_that_stops_training_is_the_batch_norm_in_eval_mode():
    instances = load("qat_fold")["stop_training"].instances()
    assert len(instances) == 12  # forms of the scale, a sum, beta
    shape = [1, OUTPUTS, 1]
    for instance in instances:
        known = {n: torch.rand(OUTPUTS) + 0.5 for n in ("gamma", "beta", "mean", "var")}
        known |= {"eps": EPS, "reshape_shape": shape, "u_other": torch.randn(shape)}
        known["div_self"] = torch.randn(3, OUTPUTS, 5)
        given = {n: _argument(n, known, 1) for n in _placeholders(instance.matcher)}
        statistics = known["mean"].clone(), known["var"].clone()
        found = _run(instance.replacement, given)
        assert torch.equal(known["mean"], statistics[0])
        assert torch.equal(known["var"], statistics[1])
        instance.calls["z"].update_arg(5, False)
        assert torch.equal(found, _run(instance.matcher, given)), instance.matcher.code


@pytest.mark.parametrize(
    ("rule", "layers"),
    [
        ("fold_batch_norm", 8),
        ("fold_batch_norm_transposed", 4),
        ("fold_batch_norm_addmm", 1),
    ],
)
def test_every_instance_of_the_bn_fold_rules_is_exact_in_fp64(rule, layers):
    instances = load("bn_fold")[rule].instances()
    for instance in instances:
        _with_groups(instance)
        given = _arguments(instance, torch.float64)
        expected, found = (
            _run(module, given) for module in (instance.matcher, instance.replacement)
        )
        torch.testing.assert_close(expected, found, rtol=1e-12, atol=1e-12)
    assert len(instances) >= 16 * layers  # bias, gamma and beta; two BatchNorms
