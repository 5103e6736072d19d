"""What `convert` promises beside equal outputs."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import fx, nn
from torch.ao import quantization as ao
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

from benches.equalize_cases import CASES, Net
from rewrite_engine import engine, load
from rewrite_engine.equalize import (
    EqualizationConfig,
    InputEqualizationObserver,
    RefusedWarning,
    UncalibratedWarning,
    convert,
    prepare,
)


def exported(model, *inputs):
    return torch.export.export(model.eval(), inputs).module()


def calibrated(case):
    prepared = prepare(exported(case.model(), case.input()))
    prepared(case.input(1))
    return prepared


def state(gm):
    return {name: value.clone() for name, value in gm.state_dict().items()}


def assert_same(gm, code, before):
    assert gm.code == code
    assert gm.state_dict().keys() == before.keys()
    assert all(torch.equal(gm.state_dict()[k], v) for k, v in before.items())


def test_the_prepared_graph_is_untouched_unless_asked_for():
    prepared = calibrated(CASES["nn.ReLU between linears"])
    code, before = prepared.code, state(prepared)
    equalized = convert(prepared)
    assert_same(prepared, code, before)
    assert convert(prepared, inplace=True) is prepared
    assert prepared.code == equalized.code


@pytest.mark.parametrize("name", ["residual block", "transformer block"])
def test_a_second_time_changes_nothing(name):
    once = convert(calibrated(CASES[name]))
    code, before = once.code, state(once)
    assert_same(convert(once), code, before)
    for rules in ("equalize", "fold_scales"):
        assert not engine.apply(once, load(rules)).modified
    assert_same(once, code, before)


def test_scales_are_called_after_the_values_they_scale():
    case = CASES["nn.GELU between linears"]
    equalized = convert(calibrated(case))
    names = {name for name, _ in equalized.named_buffers() if "scale" in name}
    assert names == {"x_equalization_scale0", "gelu_equalization_scale0"}
    assert equalized.x_equalization_scale0.shape == (1, 6)
    assert equalized.get_buffer("gelu_equalization_scale0").shape == (1, 8)


def test_nothing_of_the_observers_is_left():
    equalized = convert(calibrated(CASES["three of conv2d"]))
    assert not any(
        isinstance(m, InputEqualizationObserver) for m in equalized.modules()
    )
    equalized.graph.lint()


def test_parameters_stay_what_they_are():
    case = CASES["frozen parameters"]
    equalized = convert(calibrated(case))
    for name, parameter in case.model().named_parameters():
        assert equalized.get_parameter(name).requires_grad is parameter.requires_grad


def unobserved(gm):
    """The layers whose input no observer has seen."""
    called = {
        node: gm.get_submodule(node.target)
        for node in gm.graph.find_nodes(op="call_module")
    }
    return [
        node.name
        for node, module in called.items()
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d))
        and not isinstance(called.get(node.all_input_nodes[0]), ao.MinMaxObserver)
    ]


SEVERAL = {
    "five layers": (
        lambda m, x: m.a(x) + m.b(x) * m.c(x) - m.d(x) + m.e(x),
        {name: nn.Linear(6, 6) for name in "abcde"},
        2,
    ),
    "layers of two kinds": (
        lambda m, x: m.a(x).sum() + m.b(x).sum(),
        {"a": nn.Conv1d(5, 4, 1), "b": nn.Conv1d(5, 5, 1, groups=5)},
        2,
    ),
    "two kinds in turn": (
        lambda m, x: m.a(x).sum() + m.b(x).sum() + m.c(x).sum() + m.d(x.mT).sum(),
        {
            "a": nn.Conv1d(5, 4, 1),
            "b": nn.Conv1d(5, 5, 1, groups=5),
            "c": nn.Conv1d(5, 4, 1),
            "d": nn.Linear(5, 4),
        },
        3,
    ),
}


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("observed", [False, True])
def test_any_number_of_layers_may_read_a_value(name, observed):
    forward, parts, scales = SEVERAL[name]
    model, x = Net(forward, **parts).eval(), torch.randn(2, 5, 6)
    gm = exported(model, x)
    if observed:
        gm = prepare_fx(model, ao.QConfigMapping().set_global(ao.default_qconfig), (x,))
    prepared = prepare(gm)
    prepared(x)
    equalized = convert(prepared)
    names = [name for name, _ in equalized.named_buffers() if "scale" in name]
    assert len(names) == scales
    torch.testing.assert_close(equalized(x), model(x), rtol=1e-4, atol=1e-4)
    if observed:
        assert unobserved(equalized) == []
        assert convert_fx(equalized)(x).isfinite().all()


def test_uncalibrated_layers_are_scaled_by_one_with_a_warning():
    case = CASES["linear"]
    prepared = prepare(exported(case.model(), case.input()))
    with pytest.warns(UncalibratedWarning, match="equalized by ones"):
        equalized = convert(prepared)
    assert (equalized.get_buffer("input_1_equalization_scale0") == 1).all()


def test_tied_weights_come_apart_only_where_they_must():
    model = CASES["tied weights, one equalized"].model()
    gm = fx.symbolic_trace(copy.deepcopy(model))
    prepared = prepare(gm)
    x = CASES["tied weights, one equalized"].input()
    prepared(x)
    equalized = convert(prepared)
    torch.testing.assert_close(equalized(x), model(x), rtol=1e-4, atol=1e-4)
    assert torch.equal(gm.a.weight, model.a.weight)


def test_an_extreme_scale_of_low_precision_stays_usable():
    weight = torch.rand(4, 6, dtype=torch.float16) + 0.5
    model = Net(lambda m, x: F.linear(x, m.w), w=nn.Parameter(weight))
    x = torch.rand(5, 6, dtype=torch.float16) * 100
    x[:, 2] *= 500
    weight[:, 2] *= 6e-5
    gm = fx.symbolic_trace(model)
    prepared = prepare(gm)
    prepared(x)
    equalized = convert(prepared)
    want, got = model(x).double(), equalized(x).double()
    assert (want - got).abs().max() <= 4e-3 * want.abs().max()


def quantized(case):
    mapping = ao.QConfigMapping().set_global(ao.default_qconfig)
    gm = prepare_fx(case.model(), mapping, (case.input(),))
    prepared = prepare(gm, EqualizationConfig(case.layers))
    prepared(case.input(1))
    return convert(prepared)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("F.linear on parameters", 1),
        ("F.conv2d", 1),
        ("one bias for two layers", 1),
        ("a shared producer", 2),
        ("a factor between linears", 1),
        ("a subclass that computes something else", 1),
        ("nn.GELU between linears", 2),
    ],
)
def test_scales_fold_past_observers(name, left):
    """Only the scales of inputs stay: what is left of int8 is one chain."""
    gm = quantized(CASES[name])
    scales = [name for name, _ in gm.named_buffers() if "equalization_scale" in name]
    assert len(scales) == left


def test_a_bias_that_two_layers_share_comes_apart():
    case = CASES["one bias for two layers"]
    gm = quantized(case)
    assert torch.equal(gm.b, case.model().b)
    x = case.input(1)
    torch.testing.assert_close(gm(x), case.model()(x), rtol=1e-4, atol=1e-4)


def test_weights_computed_with_gradients_are_copied():
    case = CASES["weight norm"]
    gm = fx.symbolic_trace(case.model())
    gm(case.input(1))  # leaves a weight that is no leaf of autograd
    prepared = prepare(gm)
    prepared(case.input(1))
    torch.testing.assert_close(convert(prepared)(case.input(2)), gm(case.input(2)))


@pytest.mark.parametrize(
    "name",
    [
        "residual block",
        "an activation read by a layer and by another operator",
        "a value that is also returned",
        "a value whose shape is read",
        "a fork, equalized: b",
    ],
)
def test_an_observer_with_other_readers_is_parted_from_them(name):
    """What the others read keeps its range; the layer has an observer of its own."""
    case = CASES[name]
    mapping = ao.QConfigMapping().set_global(ao.default_qconfig)
    gm = prepare_fx(case.model(), mapping, (case.input(),))
    prepared = prepare(gm, EqualizationConfig(case.layers))
    prepared(case.input(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        equalized = convert(prepared)
    x = case.input(1)
    for want, got in zip(outputs(case, x), outputs_of(equalized(x)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    again = copy.deepcopy(equalized)
    again(x)
    before, after = dict(equalized.named_buffers()), dict(again.named_buffers())
    for name, high in before.items():
        if name.endswith("max_val"):
            torch.testing.assert_close(after[name], high, rtol=1e-4, atol=1e-4)


def test_what_no_rule_makes_use_of_is_joined_again():
    model = Net(
        lambda m, x: F.linear(x, m.w * 2) + x.sum(), w=nn.Parameter(torch.ones(4, 6))
    )
    x = torch.randn(5, 6)
    gm = prepare_fx(
        model.eval(), ao.QConfigMapping().set_global(ao.default_qconfig), (x,)
    )
    prepared = prepare(gm)
    prepared(x)
    with pytest.warns(RefusedWarning, match="the weight is computed"):
        equalized = convert(prepared)
    calls = [node.target for node in equalized.graph.find_nodes(op="call_module")]
    assert len(calls) == len(set(calls))
    torch.testing.assert_close(equalized(x), model(x))


class Opaque(nn.Module):
    """Nothing is known of what it does."""

    def forward(self, x):
        return x + 1


def observed_with(forward, **parts):
    """A model, its graph with quantization and equalization observers that have seen
    an input, and the input.
    """
    model = Net(forward, linear=nn.Linear(6, 8), **parts).eval()
    x = torch.randn(5, 6)
    mapping = ao.QConfigMapping().set_global(ao.default_qconfig)
    prepared = prepare(prepare_fx(model, mapping, (x,)))
    prepared(x)
    return model, prepared, x


def test_observers_between_an_observer_and_a_layer_are_in_nobodys_way():
    model, prepared, x = observed_with(lambda m, x: (x + x, m.linear(x)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        equalized = convert(prepared)
    assert unobserved(equalized) == []
    for got, want in zip(equalized(x), model(x), strict=True):
        torch.testing.assert_close(got, want)


def test_no_scale_comes_after_the_observer_of_the_input():
    """The layer would read what no observer has seen."""

    def forward(m, x):
        y, noise = F.relu(x), torch.rand_like(x[:, :1])
        return m.linear(y) + noise

    _, prepared, _ = observed_with(forward)
    with pytest.warns(RefusedWarning, match="would move past 'rand_like'"):
        equalized = convert(prepared)
    assert "mul" not in equalized.code
    assert unobserved(equalized) == []


def test_observers_leave_graphs_with_calls_of_which_nothing_is_known():
    model = Net(
        lambda m, x: m.opaque(F.linear(x, m.w * 2)),
        w=nn.Parameter(torch.randn(4, 6)),
        opaque=Opaque(),
    )
    x = torch.randn(5, 6)

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m, qualified_name):
            return isinstance(m, Opaque)

    prepared = prepare(fx.GraphModule(model, Tracer().trace(model)))
    prepared(x)
    with pytest.warns(RefusedWarning, match="the weight is computed"):
        equalized = convert(prepared)
    assert "observer" not in equalized.code
    torch.testing.assert_close(equalized(x), model(x))


def outputs_of(result):
    return result if isinstance(result, tuple) else (result,)


def outputs(case, x):
    return outputs_of(case.model()(x))


@pytest.mark.parametrize("rules", ["equalize", "smoothquant"])
@pytest.mark.parametrize(("large", "small"), [(6e4, 6e-6), (1e-7, 6e4)])
def test_scales_of_half_precision_keep_their_digits(rules, large, small):
    generator = torch.Generator().manual_seed(0)
    x, w = torch.rand(5, 6, generator=generator), torch.rand(4, 6, generator=generator)
    x, w = (x * large).half(), (w * small).half()
    model = Net(lambda m, x: F.linear(x, m.w), w=nn.Parameter(w))
    prepared = prepare(fx.symbolic_trace(model))
    prepared(x)
    equalized = convert(prepared, rules)
    want = x.double() @ w.double().T
    assert ((equalized(x) - want).abs().max() / want.abs().max()) < 2e-3


@pytest.mark.parametrize("between", [nn.Dropout(0.5), nn.LeakyReLU(0.1)], ids=str)
def test_ranges_before_functions_that_can_be_inverted_are_exact(between):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), between, nn.Linear(8, 4)).eval()
    x = torch.randn(50, 6) * torch.logspace(-1, 1, 6)
    mapping = ao.QConfigMapping().set_global(ao.default_qconfig)
    gm = prepare_fx(model, mapping, (x,))
    plain, prepared = copy.deepcopy(gm), prepare(gm)
    plain(x)
    prepared(x)
    equalized = convert(prepared)
    first = getattr(equalized, "0")
    (scale,) = (b for n, b in equalized.named_buffers() if "_scale0" in n)
    seen = first(x * scale)
    observer = equalized.activation_post_process_1
    torch.testing.assert_close(observer.max_val, seen.max())
    torch.testing.assert_close(observer.min_val, seen.min())
    untouched = convert(prepare(plain, EqualizationConfig(())))
    for name, tensor in plain.named_buffers():
        torch.testing.assert_close(untouched.get_buffer(name), tensor)


@pytest.mark.parametrize(
    "name", ["a shared producer", "one module twice in a row", "tied weights in a row"]
)
def test_modules_that_copies_replace_are_removed(name):
    case = CASES[name]
    model = case.model()
    model.add_module("unused", nn.Linear(2, 2))
    gm = fx.symbolic_trace(model)
    gm.add_module("unused", model.unused)
    prepared = prepare(gm)
    prepared(case.input(1))
    equalized = convert(prepared)
    called = {n.target for n in equalized.graph.find_nodes(op="call_module")}
    assert {name for name, _ in equalized.named_children()} == {*called, "unused"}
    torch.testing.assert_close(
        equalized(case.input(2)), case.model()(case.input(2)), rtol=1e-4, atol=1e-4
    )


class OneOutput(nn.Module):
    """A weight without rows: what follows are the rows of the input."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.register_buffer("s", torch.tensor([3.0, 5.0]))

    def forward(self, x):
        return F.linear(x, self.w) * self.s


def test_a_scale_of_the_batch_does_not_move_into_a_weight_of_as_many_inputs():
    gm = exported(OneOutput(), x := torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert not engine.apply(gm, load("fold_scales")).modified
    torch.testing.assert_close(gm(x), torch.tensor([15.0, 55.0]))
