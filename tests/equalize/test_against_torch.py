"""Graphs prepared by torch: as torch leaves them where it is right, else right."""

from __future__ import annotations

import copy
import warnings

import attrs
import pytest
import torch
from torch import fx
from torch.ao import quantization as ao
from torch.ao.quantization.fx import _equalize as peer
from torch.ao.quantization.quantize_fx import prepare_fx

from benches.bench_equalize import flat
from benches.equalize_cases import CASES, Case
from rewrite_engine.equalize import sqnr
from rewrite_engine.integrations import torch_ao

SAME = (
    "linear",
    "linear without bias",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv2d stride",
    "conv2d padding same",
    "nn.ReLU between linears",
    "F.relu between convolutions",
    "nn.GELU between linears",
    "nn.Sigmoid between convolutions",
    "three of conv1d",
    "three of conv2d",
    "conv, batch norm, relu, conv",
    "flatten between convolution and linear",
    "of three: a, b",
    "frozen parameters",
    "uncalibrated linear",
    "uncalibrated chain",
    "uncalibrated convolutions",
)
WRONG = (
    "linear on [B, C, C]",
    "torch.relu between linears",
    ".relu between convolutions",
    "F.leaky_relu between linears",
    "a value that is also returned",
    "residual block",
    "residual with a projection",
    "one module twice in a row",
    "one module under two names",
    "a shared producer",
    "tied weights, one equalized",
    "of three: b",
    "of three: c",
    "an input called relu_in",
    "F.linear on buffers",
)
FAILS = (
    "linear on [B, T, C]",
    "conv2d groups",
    "conv1d depthwise",
    "F.linear on parameters",
    "a name that is taken",
    "a subclass of linear",
    "transformer block",
)


def prepared(case: Case) -> fx.GraphModule:
    chosen = ao.QConfigMapping()
    if case.layers is None:
        chosen.set_global(peer.default_equalization_qconfig)
    for name in case.layers or ():
        chosen.set_module_name(name, peer.default_equalization_qconfig)
    quantized = ao.QConfigMapping().set_global(ao.default_qconfig)
    gm = prepare_fx(
        case.model(), quantized, (case.input(),), _equalization_config=chosen
    )
    if case.calibrated:
        gm(case.input(1))
        gm(case.input(2))
    return gm


def quietly(convert, gm):
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return convert(copy.deepcopy(gm))


def error(case: Case, gm: fx.GraphModule, reference: fx.GraphModule) -> float:
    """The largest difference to the prepared graph, relative to its largest output."""
    x = case.input(3)
    with torch.no_grad():
        want, got = (flat(copy.deepcopy(m)(x.clone())) for m in (reference, gm))
    return ((want - got).abs().max() / want.abs().max()).item()


def lines(gm: fx.GraphModule) -> list[tuple]:
    """The graph up to the names of nodes: operator, target, operands by position."""
    place = {node: i for i, node in enumerate(gm.graph.nodes)}
    return [
        (node.op, node.target, fx.map_arg(node.args, place.get))
        for node in gm.graph.nodes
    ]


def tensors(gm: fx.GraphModule, *kinds: str) -> dict[str, torch.Tensor]:
    return {
        name: value
        for name, value in [*gm.named_parameters(), *gm.named_buffers()]
        if name.rpartition(".")[2] in kinds
    }


@pytest.mark.parametrize("name", SAME)
def test_where_torch_is_right_graph_and_numbers_are_torchs(name):
    case = CASES[name]
    gm = prepared(case)
    theirs = quietly(peer._convert_equalization_ref, gm)
    ours = quietly(torch_ao._convert_equalization_ref, gm)
    assert error(case, theirs, gm) < 1e-4
    assert lines(ours) == lines(theirs)
    for key, value in tensors(theirs, "weight", "bias").items():
        torch.testing.assert_close(ours.get_parameter(key), value, rtol=1e-5, atol=1e-6)
    for node in ours.graph.find_nodes(op="get_attr"):
        scale, found = getattr(theirs, node.target), getattr(ours, node.target)
        if scale.numel() == 1 and scale == 1:
            assert (found == 1).all()
        else:
            torch.testing.assert_close(found, scale)
    for node in ours.graph.find_nodes(op="call_function", target=torch.mul):
        (observer,) = (user.target for user in node.users)
        for kind in ("min_val", "max_val"):
            torch.testing.assert_close(
                getattr(ours.get_submodule(observer), kind),
                getattr(theirs.get_submodule(observer), kind),
            )


@pytest.mark.parametrize("name", WRONG)
def test_where_torch_is_wrong_ours_is_right(name):
    case = CASES[name]
    gm = prepared(case)
    assert error(case, quietly(peer._convert_equalization_ref, gm), gm) > 1e-2
    assert error(case, quietly(torch_ao._convert_equalization_ref, gm), gm) < 1e-4


@pytest.mark.parametrize("name", FAILS)
def test_where_torch_fails_ours_does_not(name):
    case = CASES[name]
    gm = prepared(case)
    with pytest.raises((ValueError, TypeError, RuntimeError, AssertionError)):
        error(case, quietly(peer._convert_equalization_ref, gm), gm)
    assert error(case, quietly(torch_ao._convert_equalization_ref, gm), gm) < 1e-4


def test_torch_forgets_the_observers_between_layers():
    case = CASES["nn.ReLU between linears"]
    gm = prepared(case)
    theirs = quietly(peer._convert_equalization_ref, gm)
    ours = quietly(torch_ao._convert_equalization_ref, gm)
    old = gm.activation_post_process_1.max_val
    assert theirs.activation_post_process_1.max_val == old
    values = []
    handle = ours.activation_post_process_1.register_forward_pre_hook(
        lambda _, inputs: values.append(inputs[0].max())
    )
    highest = ours.activation_post_process_1.max_val.clone()
    for seed in (1, 2):
        ours(case.input(seed))
    handle.remove()
    torch.testing.assert_close(max(values), highest)
    assert highest < 0.9 * old


@pytest.mark.parametrize(
    "name", ["conv2d", "three of conv1d", "conv, batch norm, conv"]
)
def test_convert_fx_works_with_our_pass(name):
    case = CASES[name]
    quantized = quietly(torch_ao.convert_fx, prepared(case))
    plain = quietly(
        ao.quantize_fx.convert_fx,
        prepared(attrs.evolve(case, layers=())),
    )
    x = case.input(3)
    want = flat(case.model()(x))
    assert sqnr(want, flat(quantized(x))) > sqnr(want, flat(plain(x)))


def test_modules_and_the_contract_of_both_steps():
    gm = prepared(CASES["nn.ReLU between linears"])
    modules = dict(gm.named_modules(remove_duplicate=False))
    found = torch_ao.update_obs_for_equalization(gm, modules)
    theirs = peer.update_obs_for_equalization(copy.deepcopy(gm), modules)
    assert found.keys() == theirs.keys()
    for name, observer in theirs.items():
        assert isinstance(found[name], peer._WeightEqualizationObserver)
        torch.testing.assert_close(
            found[name].equalization_scale, observer.equalization_scale
        )
    torch_ao.convert_eq_obs(gm, modules, found)
    assert modules == dict(gm.named_modules(remove_duplicate=False))
    assert not any(map(peer.is_equalization_observer, modules.values()))


def test_only_layers_in_the_dictionary_are_equalized():
    gm = prepared(CASES["linear"])
    modules = dict(gm.named_modules(remove_duplicate=False))
    before = gm.get_parameter("0.weight").clone()
    torch_ao.convert_eq_obs(gm, modules, {})
    assert torch.equal(gm.get_parameter("0.weight"), before)
    assert not gm.graph.find_nodes(op="call_function", target=torch.mul)


def test_layers_by_sqnr_are_torchs():
    case = CASES["three of conv2d"]
    model, x = case.model(), case.input()
    gm = prepare_fx(model, ao.QConfigMapping().set_global(ao.default_qconfig), (x,))
    gm(x)
    quantized = ao.quantize_fx.convert_fx(copy.deepcopy(gm))
    ours = torch_ao.get_layer_sqnr_dict(copy.deepcopy(gm), quantized, x)
    theirs = peer.get_layer_sqnr_dict(copy.deepcopy(gm), quantized, x)
    for name, value in ours.items():
        assert value == pytest.approx(float(theirs[name]), abs=1e-3)
    worst = torch_ao.get_equalization_qconfig_dict(ours, 2)
    expected = peer.get_equalization_qconfig_dict(
        {name: theirs[name] for name in ours}, 2
    )
    assert [n for n, _ in worst["module_name"]] == [
        n for n, _ in expected["module_name"]
    ]
