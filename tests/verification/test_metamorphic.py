"""What means the same is rewritten as often, with the same result.

`pytest -m long tests/verification/test_metamorphic.py` runs 100 graphs for each.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator

import attrs
import pytest
import torch
from torch import fx
from torch.export import Dim

from rewrite_engine import engine, loads
from rewrite_engine.verification.noise import Noise
from rewrite_engine.verification.planted import Planted
from rewrite_engine.verification.planting import Planter

aten = torch.ops.aten

TEXT = """
rule merge inexact { y = neg(x) z = mul(y, $k) => z' = mul(x, -$k) }
rule distribute inexact {
  z = add(mul(x, $a), mul(y, $a))
=> z' = mul(add(x, y), $a) }
rule relu_twice exact { z = relu(relu(x)) => z' = relu(x) }
rule folded inexact {
  z = mul(x, mul(w, $k))  where w is const
=> param wk = w * $k  z' = mul(x, wk) }
"""
RULES = loads(TEXT)
NAMES = [rule.name for rule in RULES]
LAYOUT = str.maketrans({" ": "\n\t ", "}": "} # end\n"})


def planted(name: str, noise: Noise, count: int) -> Iterator[tuple[Planted, int]]:
    """So many graphs for which one rule was planted, and their seeds."""
    planter = Planter(RULES.only(name), name)
    for seed in range(20 * count):
        found = planter.plant(seed, noise)
        if found is not None:
            count -= 1
            yield found, seed + 1
        if not count:
            return
    raise AssertionError("too few graphs run")


# --- changes of a planted graph ---


def renamed(each: Planted, chosen: random.Random) -> Planted:
    for number, node in enumerate(each.module.graph.nodes):
        if node.op.startswith("call"):
            node._rename(f"renamed_{number}_{chosen.randint(0, 99)}")
    return each


def with_dead_calls(each: Planted, chosen: random.Random) -> Planted:
    graph = each.module.graph
    for node in graph.find_nodes(op="placeholder"):
        with graph.inserting_before(graph.output_node()):
            dead = graph.call_function(aten.clone.default, (node,))
            if "val" in node.meta:
                dead.meta["val"] = node.meta["val"].clone()
    return each


def reordered(each: Planted, chosen: random.Random) -> Planted:
    """Another order that the graph's dependences allow."""
    graph = each.module.graph
    calls = [n for n in graph.nodes if n.op.startswith("call")]
    done = {n for n in graph.nodes if n not in calls}
    while calls:
        ready = [n for n in calls if done.issuperset(n.all_input_nodes)]
        node = chosen.choice(ready)
        graph.output_node().prepend(node)
        calls.remove(node)
        done.add(node)
    return each


def swapped(each: Planted, chosen: random.Random) -> Planted:
    for node in each.module.graph.nodes:
        if node.target in (aten.add.Tensor, aten.mul.Tensor) and len(node.args) == 2:
            left, right = node.args
            if isinstance(left, fx.Node) and isinstance(right, fx.Node):
                node.args = (right, left)
    return each


def in_single_precision(each: Planted, chosen: random.Random) -> Planted:
    inputs = tuple(t.float() if t.dtype is torch.float64 else t for t in each.inputs)
    for node in each.module.graph.nodes:
        node.meta.pop("val", None)
    return attrs.evolve(each, module=each.module.float(), inputs=inputs, tolerance=1e-5)


def with_another_layout(each: Planted, chosen: random.Random) -> Planted:
    (rule,) = each.rules.file.rules
    start, end = rule.span.start, rule.span.end
    text = rule.source.text[start:end].translate(LAYOUT)
    return attrs.evolve(each, rules=loads(text))


@pytest.mark.figure("R3")
@pytest.mark.parametrize(
    "count", [10, pytest.param(100, marks=pytest.mark.long)], ids=["few", "many"]
)
@pytest.mark.parametrize(
    "change",
    [
        *(renamed, with_dead_calls, reordered, swapped),
        *(in_single_precision, with_another_layout),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_rewrites_are_as_many_after_a_change_of_no_meaning(
    name: str,
    change: Callable[[Planted, random.Random], Planted],
    count: int,
    measured: Callable[..., None],
) -> None:
    for each, seed in planted(name, Noise(pure=4, views=2), count):
        copied = attrs.evolve(each, module=copy.deepcopy(each.module))
        other = change(copied, random.Random(seed))
        other.module.graph.lint()
        other.module.recompile()
        assert other.check() == each.check()
    measured("R3", graphs=count)


# --- the same program as export knows it ---


class Program(torch.nn.Module):
    """Random calls between which the patterns stand, for any batch."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.w = torch.nn.Parameter(torch.randn(4, dtype=torch.float64))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        chosen, values = random.Random(self.seed), [x, y]
        for _ in range(chosen.randint(2, 7)):
            one, other = chosen.choice(values), chosen.choice(values)
            k = chosen.choice((0.5, 2.0, 3))
            match chosen.randrange(6):
                case 0:
                    values.append(one.relu().relu())
                case 1:
                    values.append(one.neg() * k)
                case 2:
                    values.append(one * k + other * k)
                case 3:
                    values.append(one * (self.w * k))
                case 4:
                    values.append(torch.sigmoid(one) + other)
                case 5:
                    values.append(torch.relu(one))
        chosen.shuffle(values)
        return values[: chosen.randint(1, 3)]


@pytest.mark.figure("R3")
@pytest.mark.parametrize(
    "count", [8, pytest.param(100, marks=pytest.mark.long)], ids=["few", "many"]
)
def test_lifted_and_dynamic_programs_are_rewritten_as_often(
    count: int, measured: Callable[..., None]
) -> None:
    x, y = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4).double()
    batch = Dim("batch")
    total = 0
    for seed in range(count):
        model = Program(seed)
        static = torch.export.export(model, (x, y))
        shapes = ({0: batch}, {0: batch})
        dynamic = torch.export.export(model, (x, y), dynamic_shapes=shapes)
        found = set()
        for exported in (static, static.module(), dynamic, dynamic.module()):
            result = engine.apply(exported, RULES)
            found.add(result.report.matches)
            is_module = isinstance(exported, fx.GraphModule)
            run = exported if is_module else exported.module()
            torch.testing.assert_close(run(x, y), model(x, y), rtol=1e-12, atol=1e-12)
        wide = torch.randn(5, 4).double(), torch.randn(5, 4).double()
        torch.testing.assert_close(run(*wide), model(*wide), rtol=1e-12, atol=1e-12)
        assert len(found) == 1
        total += found.pop()
    assert total > count // 2
    measured("R3", graphs=count)
