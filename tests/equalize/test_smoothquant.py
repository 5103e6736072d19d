"""SmoothQuant on transformer blocks, and its formula."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import fx, nn
from torch.ao import quantization as ao
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

from benches.bench_equalize import flat
from benches.equalize_cases import Net
from rewrite_engine.equalize import (
    EqualizationConfig,
    convert,
    layer_sqnr,
    prepare,
    sqnr,
)

WIDTH, HIDDEN = 16, 32


def block(norm: str) -> nn.Module:
    """LayerNorm, q/k/v, attention, projection, LayerNorm, perceptron."""
    make = nn.LayerNorm if norm == "layer norm" else nn.RMSNorm

    def forward(m, x):
        y = m.n1(x)
        y = F.scaled_dot_product_attention(m.q(y), m.k(y), m.v(y))
        x = x + m.o(y)
        return x + m.down(F.relu(m.up(m.n2(x))))

    torch.manual_seed(0)
    model = Net(
        forward,
        n1=make(WIDTH),
        **{name: nn.Linear(WIDTH, WIDTH) for name in "qkvo"},
        n2=make(WIDTH),
        up=nn.Linear(WIDTH, HIDDEN),
        down=nn.Linear(HIDDEN, WIDTH),
    ).eval()
    with torch.no_grad():
        for each in (model.n1, model.n2):  # outlier channels, as large models have
            each.weight[3], each.weight[11] = 40.0, 25.0
    return model


def inputs(seed: int) -> torch.Tensor:
    return torch.randn(4, 6, WIDTH, generator=torch.Generator().manual_seed(seed))


def captured(model: nn.Module, frontend: str) -> fx.GraphModule:
    if frontend == "fx":
        return fx.symbolic_trace(model)
    return torch.export.export(model, (inputs(0),)).module()


@pytest.mark.parametrize("frontend", ["fx", "export"])
@pytest.mark.parametrize("norm", ["layer norm", "rms norm"])
@torch.no_grad()
def test_query_key_and_value_share_a_scale_that_folds_into_the_norm(norm, frontend):
    model = block(norm)
    gm = captured(model, frontend)
    prepared = prepare(gm, EqualizationConfig(("q", "k", "v", "up"), alpha=0.6))
    prepared(inputs(1))
    smooth = convert(prepared, "smoothquant")
    count = sum(n.op != "placeholder" for n in gm.graph.nodes)
    assert sum(n.op != "placeholder" for n in smooth.graph.nodes) == count

    y = model.n1(inputs(1)).flatten(0, 1).abs().amax(0)
    weights = torch.cat([model.q.weight, model.k.weight, model.v.weight])
    s = weights.abs().amax(0) ** 0.4 / y**0.6
    close = torch.testing.assert_close
    close(smooth.get_parameter("n1.weight"), model.n1.weight * s)
    for name in "qkv":
        weight = model.get_submodule(name).weight
        close(smooth.get_parameter(f"{name}.weight"), weight / s)
    close(smooth(inputs(2)), model(inputs(2)), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_int8_is_better_on_inputs_with_outlier_channels():
    model = block("layer norm")
    mapping = ao.QConfigMapping().set_global(ao.default_qconfig)
    gm = prepare_fx(model, mapping, (inputs(0),))
    prepared = prepare(gm, EqualizationConfig(("q", "k", "v", "up")))
    for seed in (1, 2, 3):
        gm(inputs(seed))
        prepared(inputs(seed))
    floating = convert(prepared, "smoothquant")
    smooth, plain = convert_fx(copy.deepcopy(floating)), convert_fx(copy.deepcopy(gm))
    x, want = inputs(9), model(inputs(9))
    assert sqnr(want, flat(smooth(x))) > sqnr(want, flat(plain(x)))
    before, after = layer_sqnr(gm, plain, x), layer_sqnr(floating, smooth, x)
    gained = [after[name] - before[name] for name in "qkv"]
    assert min(gained) > 3


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_alpha_lies_between_0_and_1(alpha):
    with pytest.raises(ValueError, match="between 0 and 1"):
        EqualizationConfig(alpha=alpha)
