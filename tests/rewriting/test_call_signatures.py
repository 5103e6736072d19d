"""Programs whose modules keep their call signatures can be unflattened afterwards."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from rewrite_engine import RewriteError, engine, load, loads


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(self.norm(self.conv(x)).relu()) * 2.0


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Module:
    return Model().eval()


def export(model: nn.Module, *preserved: str) -> ExportedProgram:
    return torch.export.export(model, (X,), preserve_module_call_signature=preserved)


def assert_goes_on(program: ExportedProgram, expected: torch.Tensor) -> None:
    program.validate()
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    made = torch.export.unflatten(torch.export.load(file))
    torch.testing.assert_close(made(X), expected)


def test_signatures_name_what_took_the_place_of_a_value(model: nn.Module) -> None:
    program = export(model, "body")
    report = engine.apply(program, load("bn_fold")).report
    assert report.matches == 2 and not report.refusals
    assert_goes_on(program, model(X))
    outputs = program.module_call_graph[3].signature.outputs
    assert program.module_call_graph[3].fqn == "body"
    assert [each.name for each in outputs] == ["conv2d_3"]
    assert_goes_on(program.run_decompositions(), model(X))


def test_an_inner_value_that_a_signature_names_is_a_reason(model: nn.Module) -> None:
    program = export(model, "conv", "body")
    found = engine.find(program, load("bn_fold"))
    assert [str(match.anchor) for match in found] == ["batch_norm_1"]
    report = engine.apply(program, load("bn_fold")).report
    assert report.matches == 1
    (refusal,) = report.refusals
    assert "'conv2d' goes to or comes from 'conv'" in refusal.reason
    assert_goes_on(program, model(X))


def test_a_value_may_be_replaced_more_than_once(model: nn.Module) -> None:
    rules = loads(
        """
        rule first { y = relu(x) => y' = clamp(x, 0) }
        rule second { y = clamp(x, 0) => y' = maximum(x, zeros_like(x)) }
        """
    )
    program = export(model, "body")
    assert engine.apply(program, rules).report.matches == 2
    assert_goes_on(program, model(X))


def test_a_failure_leaves_signatures_as_they_were(model: nn.Module) -> None:
    rules = loads(
        """
        rule first { y = relu(x) => y' = clamp(x, 0) }
        rule second { y = clamp(x, 0) => y' = relu(x) }
        """
    )
    program = export(model, "body")
    before = copy.deepcopy(program.module_call_graph)
    with pytest.raises(RewriteError):
        engine.apply(program, rules)
    assert program.module_call_graph == before
    assert_goes_on(program, model(X))


def test_a_folded_parameter_lies_where_the_one_before_lay(model: nn.Module) -> None:
    program = export(model, "body")
    engine.apply(program, load("bn_fold"))
    layers = "body.0", "conv"
    names = {f"{at}.{leaf}" for at in layers for leaf in ("weight_wf", "bias_bf")}
    counters = {"norm.num_batches_tracked", "body.1.num_batches_tracked"}
    assert set(program.state_dict) == names | counters
    placeholders = program.graph.find_nodes(op="placeholder")
    assert "p_body_0_weight_wf" in [node.name for node in placeholders]
    made = torch.export.unflatten(program)
    assert set(made.state_dict()) == names | counters
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(made.body(x), model.body(x))


def test_inputs_have_names_of_their_own_after_a_refusal() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.a_w = nn.Module(), nn.Parameter(torch.rand(8))
            self.a.w = nn.Parameter(torch.rand(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * self.a.w
            return y.flatten(0, 2) * self.a.w * self.a_w

    rule = "z = mul(x, w) where w is const => param h = w / 2"
    rule = f"rule r once {{ {rule} z' = mul(reshape(x, [-1, 8]), h) * 2 }}"
    program = torch.export.export(Scaled(), (X,))
    expected = program.module()(X)
    report = engine.apply(program, loads(rule)).report
    assert report.matches == 2 and len(report.refusals) == 1
    assert sorted(program.state_dict) == ["a.w", "a.w_h", "a_w_h"]
    inputs = program.graph.find_nodes(op="placeholder")
    assert all(node.target == node.name for node in inputs)
    assert_goes_on(program, expected)
