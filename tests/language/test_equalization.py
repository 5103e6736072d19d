"""What the language is for: equalization as two phases, on modules, functions, export.

Phase one gives every layer a scale of its input, which may be any number: `mul(x, s)`
before it and `w / s` in it. Phase two folds a `mul` into the layer that makes its
operand, through whatever passes positive scales on.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import fx, nn
from torch.ao.quantization import MinMaxObserver

from rewrite_engine import engine, loads

RULES = """
use test.hooks (scale)

op observer = ao.MinMaxObserver
op act = aten.relu.default | F.relu | torch.relu | .relu | nn.ReLU
pattern passing(v, lo, hi) = act(v) | observer(v, min_val=lo, max_val=hi, ..)

rule insert {
  y = linear(x, w, b?)
=>
  value s = scale(initial(w))
  buffer equalization_scale = s
  w <- w / s
  y' = linear(mul(x, equalization_scale), w, b, ..y)
}

rule fold {
  z = mul(N@passing^*(y, lo, hi), s)
  y = linear(x, w, b?)
  where positive(s)
=>
  w <- w * reshape(s, [-1, 1])
  b <- b * s
  lo <- lo * reshape(amax(s), [])
  hi <- hi * reshape(amax(s), [])
  y2 = linear(x, w, b, ..y)
  z' = N(y2)
}

pipeline equalize { once {insert} fixpoint {fold} }
"""


def scale(w: torch.Tensor) -> torch.Tensor:
    """One scale for each input channel; channels that are all zero keep theirs."""
    found = w.abs().amax(0).sqrt()
    return torch.where(found > 0, found, 1.0)


def equalize(model: Any) -> Any:
    rules = loads(RULES, hooks={"test.hooks": {"scale": scale}})
    return engine.apply(model, rules)


class Modules(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.act, self.two = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.act(self.one(x)))


class Functions(Modules):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(F.linear(x, self.one.weight, bias=self.one.bias))
        return F.linear(y, weight=self.two.weight, bias=self.two.bias)


class Observed(Modules):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = MinMaxObserver(), MinMaxObserver()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.after(self.act(self.before(self.one(x)))))


class Leaves(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, name: str) -> bool:
        return True


def traced(model: nn.Module) -> fx.GraphModule:
    return fx.GraphModule(model, Leaves().trace(model))


def exported(model: nn.Module) -> Any:
    return torch.export.export(model, (torch.randn(8, 4),))


def state_of(model: Any) -> dict[str, torch.Tensor]:
    return dict(
        model.state_dict if isinstance(model.state_dict, dict) else model.state_dict()
    )


@pytest.mark.parametrize(
    ("make", "kind"),
    [(traced, Modules), (fx.symbolic_trace, Functions), (exported, Functions)],
    ids=["modules", "functions", "exported"],
)
def test_linear_relu_linear(make: Any, kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = kind(), torch.randn(8, 4)
    expected = model(x)
    one, two = model.one.weight.detach().clone(), model.two.weight.detach().clone()
    bias = model.one.bias.detach().clone()
    program = make(copy.deepcopy(model))
    report = equalize(program).report
    assert [(rule.name, rule.matches) for rule in report.rules] == [
        ("insert", 2),
        ("fold", 1),
    ]
    run = program.module() if make is exported else program
    torch.testing.assert_close(run(x), expected)
    state, s, t = state_of(program), scale(one), scale(two)
    torch.testing.assert_close(state["one.weight"], one / s * t[:, None])
    torch.testing.assert_close(state["one.bias"], bias * t)
    torch.testing.assert_close(state["two.weight"], two / t)
    products = [n for n in program.graph.nodes if n.target is torch.ops.aten.mul.Tensor]
    assert len(products) == 1
    if make is exported:
        program.validate()


def test_every_observer_on_the_way_is_rescaled() -> None:
    torch.manual_seed(0)
    model, x = Observed(), torch.randn(8, 4)
    expected = model(x)
    low, high = model.before.min_val.clone(), model.after.max_val.clone()
    gm = traced(model)
    t = scale(model.two.weight.detach()).max()
    assert equalize(gm).report.rules[1].matches == 1
    torch.testing.assert_close(gm.before.min_val, low * t)
    torch.testing.assert_close(gm.after.max_val, high * t)
    torch.testing.assert_close(gm(x), expected)
    order = [str(n.target) for n in gm.graph.nodes if n.op == "call_module"]
    assert order == ["one", "before", "act", "after", "two"]


def test_a_layer_that_others_read_keeps_the_multiplication() -> None:
    class Residual(Modules):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.act(self.one(x))
            return self.two(y).sum() + y.sum()

    model, x = Residual(), torch.randn(8, 4)
    expected = model(x)
    gm = traced(model)
    report = equalize(gm).report
    assert report.rules[1].matches == 0
    assert any("also read" in refusal.reason for refusal in report.rules[1].refusals)
    torch.testing.assert_close(gm(x), expected)


def test_a_shared_layer_is_refused() -> None:
    class Twice(Modules):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.one(x).sum() + self.one(-x).sum()

    gm, x = traced(Twice()), torch.randn(8, 4)
    expected = gm(x)
    report = equalize(gm).report
    assert report.rules[0].matches == 0
    assert "also reads 'w'" in report.rules[0].refusals[0].reason
    assert torch.equal(gm(x), expected)


def test_a_chain_of_layers_uses_the_weights_at_the_start() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 4, bias=False) for _ in range(4)]
    parts = [part for layer in layers for part in (layer, nn.ReLU())]
    model, x = nn.Sequential(*parts), torch.randn(8, 4)
    expected = model(x)
    weights = [layer.weight.detach().clone() for layer in layers]
    scales = [*map(scale, weights), torch.ones(4)]
    gm = traced(model)
    assert equalize(gm).report.rules[1].matches == 3
    torch.testing.assert_close(gm(x), expected)
    for i, weight in enumerate(weights):
        found = gm.get_submodule(str(2 * i)).weight.detach()
        torch.testing.assert_close(found, weight / scales[i] * scales[i + 1][:, None])


@pytest.mark.parametrize("value", [-1.0, 0.0, float("nan")])
def test_only_positive_scales_pass_an_activation(value: float) -> None:
    class Scaled(Modules):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("s", torch.tensor([1.0, value, 1.0, 1.0, 1.0, 1.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(self.one(x)) * self.s

    gm, x = traced(Scaled()), torch.randn(8, 4)
    expected = gm(x)
    assert equalize(gm).report.rules[1].matches == 0
    torch.testing.assert_close(gm(x), expected, equal_nan=True)


def test_the_rules_are_sound_for_every_instance() -> None:
    rules = loads(RULES, hooks={"test.hooks": {"scale": scale}})
    torch.manual_seed(0)
    sizes = {"x": (5, 4), "w": (3, 4), "b": (3,), "s": (3,)}
    for rule in rules:
        for instance in rule.instances():
            names = [
                str(n.target)
                for n in instance.matcher.graph.find_nodes(op="placeholder")
            ]
            given = [torch.rand(sizes.get(name, ())) + 0.5 for name in names]
            (left,), (right,) = instance.matcher(*given), instance.replacement(*given)
            torch.testing.assert_close(left, right)
