"""`bn_fold` on exported models in eval mode, as modules and as programs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from benches.models import ConvBn, randomise_batch_norms
from rewrite_engine import engine, load

pytest.importorskip("torchao.quantization.pt2e")
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation

RULES = load("bn_fold")
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    grouped = nn.ConvTranspose2d(8, 8, 3, groups=2, bias=False)
    model = nn.Sequential(
        ConvBn(nn.Conv2d(3, 8, 3, padding="same"), nn.BatchNorm2d(8), nn.ReLU()),
        ConvBn(grouped, nn.BatchNorm2d(8, affine=False)),
        nn.Flatten(),
        nn.Linear(8 * 10 * 10, 5),
        nn.BatchNorm1d(5),
    )
    return randomise_batch_norms(model).eval().to(memory_format=torch.channels_last)


def test_a_program(model):
    program = torch.export.export(model, (X,))
    report = engine.apply(program, RULES).report
    assert report.matches == 3 and not report.refusals
    program.validate()
    torch.testing.assert_close(program.module()(X), model(X), rtol=1e-5, atol=1e-5)
    assert not [name for name in program.state_dict if name.endswith("running_mean")]


def test_a_module_keeps_its_memory_format(model):
    gm = torch.export.export(model, (X,)).module()
    assert engine.apply(gm, RULES).report.matches == 3
    torch.testing.assert_close(gm(X), model(X), rtol=1e-5, atol=1e-5)
    weights = [p for p in gm.parameters() if p.ndim == 4]
    assert len(weights) == 2
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


def test_statistics_in_another_precision(model):
    mixed = copy.deepcopy(model[:2]).bfloat16()
    for block in mixed:
        block.bn.float()
    x = X.bfloat16()
    gm = torch.export.export(mixed, (x,)).module()
    assert engine.apply(gm, RULES).report.matches == 2
    assert {p.dtype for p in gm.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(gm(x), mixed(x), rtol=5e-2, atol=5e-2)


def test_a_graph_without_types_is_told_so(model):
    gm = torch.fx.symbolic_trace(copy.deepcopy(model))
    report = engine.apply(gm, RULES).report
    assert not report.matches and len(report.refusals) == 3
    assert all("no rank is recorded" in r.reason for r in report.refusals)


def test_a_traced_graph_is_folded_once_it_has_types(model):
    gm = torch.fx.symbolic_trace(copy.deepcopy(model))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    FakeTensorProp(gm, mode).propagate(X)
    report = engine.apply(gm, RULES).report
    assert report.matches == 3 and not report.refusals
    torch.testing.assert_close(gm(X), model(X), rtol=1e-5, atol=1e-5)


def test_a_layer_has_its_own_metadata_and_the_annotation_of_the_norms_output(model):
    gm = torch.export.export(model, (X,)).module()
    aten, key = torch.ops.aten, "quantization_annotation"
    norms = gm.graph.find_nodes(op="call_function", target=aten.batch_norm.default)
    layers = [norm.args[0] for norm in norms]
    before = [set(layer.meta) for layer in layers]
    for norm in norms:
        norm.meta[key] = QuantizationAnnotation({norm.args[0]: None}, "int8")
        norm.meta["of_the_norm"] = True
    assert engine.apply(gm, RULES).report.matches == 3
    kinds = {layer.target for layer in layers}
    found = [node for node in gm.graph.nodes if node.target in kinds]
    assert [set(layer.meta) for layer in found] == [keys | {key} for keys in before]
    assert all(layer.meta[key].output_qspec == "int8" for layer in found)
    assert not any(layer.meta[key].input_qspec_map for layer in found)
