"""Constants that are tied, viewed, written or read by many: no storage is ever written.

`pytest -m long tests/rewriting/test_shared_constants.py` runs 5,000 graphs.
"""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable
from typing import Any, Final

import pytest
import torch
from torch import fx, nn

from rewrite_engine import engine, load, loads
from rewrite_engine.equivalence import assert_equivalent
from rewrite_engine.rewriting.folding import Constant

aten = torch.ops.aten
FOLDING: Final = loads(
    """
    rule scaled inexact {
      z = mul(x, mul(w, $k))  where w is const
    => param wk = w * $k  z' = mul(x, wk) }
    rule doubled once inexact {
      y = linear(neg(x), w)  where w is const
    => param wn = w * -1.0  y' = linear(x, wn) }
    rule shrunk once inexact {
      z = mul(linear(x, w), $k)  where w is const
    => w <- w * $k  z' = linear(x, w) }
    """
)
RULES: Final = (FOLDING, load("cross_layer"), load("bn_fold"))
SIZE: Final = 4


def constants(chosen: random.Random) -> dict[str, torch.Tensor]:
    """Square matrices, some of them views of others or the same under two names."""
    found: dict[str, torch.Tensor] = {}
    for number in range(4):
        base = torch.randn(SIZE, SIZE, dtype=torch.float64)
        if found and chosen.random() < 0.6:
            base = chosen.choice(list(found.values())).detach()
        kind = chosen.randrange(5)
        if kind == 0:
            base = base.T
        elif kind == 1:
            base = base[:]
        elif kind == 2:
            base = torch.cat([base, base])[:SIZE]
        is_parameter = chosen.random() < 0.5
        found[f"w{number}"] = nn.Parameter(base) if is_parameter else base
    if chosen.random() < 0.5:
        found["tied"] = found["w0"]
    return found


def module_of(tensors: dict[str, torch.Tensor]) -> nn.Module:
    root = nn.Module()
    for name, tensor in tensors.items():
        if isinstance(tensor, nn.Parameter):
            root.register_parameter(name, tensor)
        else:
            root.register_buffer(name, tensor)
    return root


def layer(graph: fx.Graph, chosen: random.Random, value: fx.Node, w: fx.Node) -> Any:
    """Calls that the rules take, or that stand in their way."""
    match chosen.randrange(7):
        case 0:
            scaled = graph.call_function(aten.mul.Tensor, (w, 2.0))
            return graph.call_function(aten.mul.Tensor, (value, scaled))
        case 1:
            negative = graph.call_function(aten.neg.default, (value,))
            return graph.call_function(aten.linear.default, (negative, w))
        case 2:
            made = graph.call_function(aten.linear.default, (value, w))
            return graph.call_function(aten.mul.Tensor, (made, 0.5))
        case 3:
            made = graph.call_function(aten.linear.default, (value, w))
            return graph.call_function(aten.relu.default, (made,))
        case 4:  # the constant is written while the model runs
            if chosen.random() < 0.5:
                w = graph.call_function(aten.transpose.int, (w, 0, 1))
            graph.call_function(aten.mul_.Tensor, (w, 0.5))
            return value
        case 5:
            return graph.call_function(aten.add.Tensor, (value, w))
    return graph.call_function(aten.linear.default, (value, w))


def model_of(seed: int) -> fx.GraphModule:
    chosen = random.Random(seed)
    torch.manual_seed(seed)
    root, graph = module_of(constants(chosen)), fx.Graph()
    value, names = graph.placeholder("x"), [n for n, _ in state(root)]
    nodes = [graph.get_attr(name) for name in names * chosen.randint(1, 2)]
    values = [value]
    for _ in range(chosen.randint(3, 7)):
        made = layer(graph, chosen, values[-1], chosen.choice(nodes))
        values.append(made)
    others = [n for n in chosen.sample(nodes, 2) if chosen.random() < 0.3]
    graph.output((values[-1], *others))
    return fx.GraphModule(root, graph)


def state(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]


def stored(module: nn.Module) -> dict[str, Any]:
    """The tensors of a module, their versions and a copy of their storages."""
    return {n: (t, t._version, bytes_of(t).clone()) for n, t in state(module)}


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


@pytest.mark.figure("R14")
@pytest.mark.parametrize(
    "count", [200, pytest.param(5_000, marks=pytest.mark.long)], ids=["few", "many"]
)
def test_storages_are_never_written(count: int, measured: Callable[..., None]) -> None:
    rewritten = shared = 0
    square = torch.randn(SIZE, SIZE, dtype=torch.float64)
    for seed in range(count):
        gm, rules = model_of(seed), RULES[seed % len(RULES)]
        original, before = copy.deepcopy(gm), stored(gm)
        pointers = {t.untyped_storage().data_ptr() for t, _, _ in before.values()}
        shared += len(pointers) < len(before)
        inputs = (square,)
        result = engine.apply(gm, rules)
        gm.graph.lint()
        for name, (tensor, version, data) in before.items():
            assert tensor._version == version, (seed, name)
            assert torch.equal(bytes_of(tensor), data), (seed, name)
        assert_equivalent(original, gm, inputs, rtol=1e-10, check_state=False)
        rewritten += result.report.matches > 0
    assert rewritten > count // 10 and shared > count // 2
    measured("R14", graphs=count, with_shared_storage=shared, rewritten=rewritten)


class Head(nn.Module):
    """Layers that are called for each of some levels, with one norm or one for each."""

    def __init__(self, norms: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(norms))

    def forward(self, *levels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        norms = itertools.cycle(self.norms)
        return tuple(next(norms)(self.conv(x)) for x in levels)


LEVELS: Final = tuple(torch.randn(2, 4, size, size) for size in (7, 5, 6))


@pytest.mark.parametrize("exported", [True, False], ids=["program", "module"])
@pytest.mark.parametrize("norms", [1, 3])
def test_a_layer_that_is_called_again_has_one_folded_weight(
    norms: int, exported: bool
) -> None:
    """Norms of equal values are others all the same: each may be trained."""
    model = Head(norms).eval()
    program = torch.export.export(model, LEVELS)
    subject = program if exported else program.module()
    assert engine.apply(subject, load("bn_fold")).report.matches == 3
    assert_equivalent(model, subject, LEVELS, rtol=1e-5)
    names = [name.rpartition("_")[0] for name, _ in subject.named_parameters()]
    assert sum("weight" in name for name in names) == norms
    if exported:
        program.validate()
        made = torch.export.unflatten(program)(*LEVELS)
        torch.testing.assert_close(made, model(*LEVELS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("exported", [True, False], ids=["program", "module"])
def test_a_new_constant_that_is_written_is_stored_for_each(exported: bool) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(3), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * self.w) * self.w

    rules = loads(
        """
        rule counts once {
          z = mul(x, w)  where w is const
        => param n = w * 0  z' = x * aten.add_.Tensor(n, 1) }
        """
    )
    x = torch.ones(3)
    program = torch.export.export(Twice(), (x,))
    subject = program if exported else program.module()
    assert engine.apply(subject, rules).report.matches == 2
    assert len(list(subject.named_parameters())) == 2


def test_a_constant_that_was_taken_back_is_not_read_again() -> None:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return -(x * self.w), abs(x * self.w), -(y * self.w)

    rules = loads(
        """
        rule square once {
          z = neg(mul(x, w))  where w is const
        => param f = w * 2  z' = mul(f, f) }
        rule scale once {
          z = abs(mul(x, w))  where w is const
        => param f = w * 2  z' = mul(x, f) }
        """
    )
    inputs = torch.ones(2, 3), torch.ones(3)
    program = torch.export.export(Three(), inputs)
    report = engine.apply(program, rules).report
    assert (report.matches, len(report.refusals)) == (2, 1)  # of another shape
    program.graph.lint()
    program.validate()
    assert [each.max().item() for each in program.module()(*inputs)] == [-1, 2, 4]


def test_a_constant_takes_the_memory_format_and_not_the_device_of_its_source() -> None:
    source = torch.empty(4, 3, device="meta").t()
    rounded = Constant.of(torch.ones(3, 4)).rounded(like=source)
    assert rounded.device.type == "cpu" and rounded.stride() == source.stride()
