"""`param b2 = b * g if b else none`: a constant that is there where an operand is."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rewrite_engine import RuleError, engine, loads

FOLD = """
rule fold_gain once inexact {
  y = linear(x, w, b?)
  z = mul(y, g)
  where g is const, w is const, g: [$n], $n == size(w, 0)
=>
  param w2 = w * reshape(g, [-1, 1])
  KIND b2 = b * g if b else none
  z' = linear(x, w2, b2)
}
"""

TEST = """
test "with a bias" {
  given (x: f32[2, 4], w: param f32[3, 4], b: param f32[3], g: buffer f32[3]) {
    return mul(linear(x, w, b), g)
  }
  expect fold_gain * 1, equal 1e-6
}
"""


class Gains(nn.Module):
    """Linear layers, each followed by a gain; alike but for their biases."""

    def __init__(self, *biases: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4, bias=bias) for bias in biases)
        self.gains = nn.ParameterList(torch.rand(4) + 0.5 for _ in biases)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, gain in zip(self.layers, self.gains, strict=True):
            x = torch.tanh(layer(x) * gain)
        return x


@pytest.mark.parametrize("kind", ["param", "buffer"])
@pytest.mark.parametrize("biases", [(True, False), (False, True, True, False, True)])
def test_it_is_stored_where_the_operand_is_there(
    kind: str, biases: tuple[bool, ...]
) -> None:
    torch.manual_seed(0)
    model, x = Gains(*biases), torch.randn(3, 4)
    program = torch.export.export(model, (x,))
    before = copy.deepcopy(program).module()(x)
    rules = loads(FOLD.replace("KIND", kind))
    assert engine.apply(program, rules).report.matches == len(biases)
    torch.testing.assert_close(program.module()(x), before)
    names = [name for name in program.state_dict if name.endswith("b2")]
    assert len(names) == sum(biases)
    calls = program.graph.find_nodes(
        op="call_function", target=torch.ops.aten.linear.default
    )
    given = [len(call.args) > 2 and call.args[2] is not None for call in calls]
    assert given == list(biases)


def test_verification_runs_both_instances() -> None:
    types = "g: f64|f32[$n], dtype(x) == dtype(w), dtype(w) == dtype(g)"
    rules = loads(FOLD.replace("KIND", "param").replace("g: [$n]", types) + TEST)
    (verified,) = engine.verify(rules, trials=0).rules
    assert verified.diagnostics == ()
    assert verified.instances_run == verified.instances == 2
    assert verified.alternatives_taken == verified.alternatives == 2


@pytest.mark.parametrize(
    ("right", "code"),
    [
        ("param c = b if b else none  y' = neg(linear(x, w, c + 1))", "E405"),
        ("param c = b if b else 0  y' = neg(linear(x, w, c))", "E401"),
        ("value c = w if b else 2  param d = w * c  y' = neg(linear(x, d))", "E401"),
        ("value c = 2  param d = w * c  y' = neg(linear(x, d))", "E401"),
    ],
)
def test_what_it_cannot_be(right: str, code: str) -> None:
    with pytest.raises(RuleError) as raised:
        loads(f"rule r once {{ y = linear(x, w, b?) where w is const => {right} }}")
    assert [found.code for found in raised.value.diagnostics] == [code]
