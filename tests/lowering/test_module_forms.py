"""What a module holds lines up with its function; torch's modules are the oracle."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.ao.nn import intrinsic as nni

from rewrite_engine import engine, loads
from rewrite_engine.dsl.catalog import default_catalog, parse_schema
from rewrite_engine.dsl.checked import Operator
from rewrite_engine.errors import RuleError
from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.lowering.operators import operator_pattern
from rewrite_engine.matching.matcher import candidates, match_at
from rewrite_engine.matching.reference import reference_matches
from rewrite_engine.module_forms import inherits

IMAGE, LINE, VOLUME = (2, 4, 8, 8), (2, 4, 8), (2, 4, 6, 6, 6)


def trained(norm: Any) -> Any:
    """A normalization whose statistics and parameters are not the initial ones."""
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(tensor.detach(), 0.5, 2)
    return norm.eval()


SAMPLES: tuple[tuple[nn.Module, tuple[int, ...]], ...] = (
    (nn.Linear(8, 3), LINE),
    (nn.Linear(8, 3, bias=False), LINE),
    (nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), LINE),
    (nn.Conv2d(4, 6, (3, 2), stride=2, padding="valid"), IMAGE),
    (nn.Conv2d(4, 4, 3, padding="same", groups=4, bias=False), IMAGE),
    (nn.Conv3d(4, 2, 3, padding=1), VOLUME),
    (nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), LINE),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2, dilation=2), IMAGE),
    (nn.ConvTranspose3d(4, 2, 2), VOLUME),
    (trained(nn.BatchNorm1d(4, eps=0.1)), LINE),
    (trained(nn.BatchNorm2d(4, momentum=None)), IMAGE),
    (trained(nn.BatchNorm3d(4)), VOLUME),
    (nn.LayerNorm((8,), eps=0.1), LINE),
    (nn.LayerNorm((4, 8), bias=False), LINE),
    (nn.GroupNorm(2, 4, eps=0.1), IMAGE),
    (nn.RMSNorm(8, eps=0.1), LINE),
    (nn.AdaptiveAvgPool1d(3), LINE),
    (nn.AdaptiveAvgPool2d((3, None)), IMAGE),
    (nn.AdaptiveAvgPool3d(2), VOLUME),
    (nn.AdaptiveMaxPool1d(3), LINE),
    (nn.AdaptiveMaxPool2d(3), IMAGE),
    (nn.AdaptiveMaxPool3d(2), VOLUME),
    (nn.AvgPool1d(3, 2, padding=1, count_include_pad=False), LINE),
    (nn.AvgPool2d(3, ceil_mode=True, divisor_override=5), IMAGE),
    (nn.AvgPool3d(2), VOLUME),
    (nn.MaxPool1d(3, stride=1, padding=1), LINE),
    (nn.MaxPool2d(3, dilation=2, ceil_mode=True), IMAGE),
    (nn.MaxPool3d(2), VOLUME),
    (nn.Bilinear(8, 8, 3), LINE),
    (nn.CELU(0.5), LINE),
    (nn.Dropout(0.4).eval(), LINE),
    (nn.Dropout(1.0), LINE),
    (nn.Dropout1d(1.0), LINE),
    (nn.Dropout2d(0.3).eval(), IMAGE),
    (nn.Dropout3d(0.3).eval(), VOLUME),
    (nn.ELU(0.5), LINE),
    (nn.Flatten(0, 1), LINE),
    (nn.Flatten(), IMAGE),
    (nn.GELU("tanh"), LINE),
    (nn.GLU(1), LINE),
    (nn.Hardshrink(0.3), LINE),
    (nn.Hardsigmoid(), LINE),
    (nn.Hardswish(), LINE),
    (nn.Hardtanh(-0.5, 0.7), LINE),
    (nn.LeakyReLU(0.3), LINE),
    (nn.LogSigmoid(), LINE),
    (nn.LogSoftmax(1), LINE),
    (nn.Mish(), LINE),
    (nn.PReLU(4, 0.3), LINE),
    (nn.PixelShuffle(2), IMAGE),
    (nn.PixelUnshuffle(2), IMAGE),
    (nn.ReLU(), LINE),
    (nn.ReLU6(), LINE),
    (nn.SELU(), LINE),
    (nn.SiLU(), LINE),
    (nn.Sigmoid(), LINE),
    (nn.Softmax(1), LINE),
    (nn.Softmin(1), LINE),
    (nn.Softplus(2, 0.5), LINE),
    (nn.Softshrink(0.3), LINE),
    (nn.Softsign(), LINE),
    (nn.Tanh(), LINE),
    (nn.Tanhshrink(), LINE),
    (nn.Threshold(0.1, 7.0), LINE),
    (nni.LinearReLU(nn.Linear(8, 3), nn.ReLU()), LINE),
    (nni.ConvReLU1d(nn.Conv1d(4, 6, 3, padding=1), nn.ReLU()), LINE),
    (nni.ConvReLU2d(nn.Conv2d(4, 6, 3, stride=2), nn.ReLU()), IMAGE),
    (nni.ConvReLU3d(nn.Conv3d(4, 2, 3), nn.ReLU()), VOLUME),
)


def path_of(module: nn.Module) -> str:
    is_fused = type(module).__module__.startswith(nni.__name__)
    return f"{'nni' if is_fused else 'nn'}.{type(module).__name__}"


def calling(module: nn.Module, inputs: int = 1) -> fx.GraphModule:
    """A graph that calls `module` as `m`."""
    graph = fx.Graph()
    values = tuple(graph.placeholder(f"x{i}") for i in range(inputs))
    graph.output(graph.call_module("m", values))
    return fx.GraphModule({"m": module}, graph)


def arguments(path: str, gm: fx.GraphModule) -> dict[str, Any] | None:
    operator = Operator("op", default_catalog().lookup(path))
    (spelling,) = operator_pattern(operator).spellings
    (call,) = (n for n in gm.graph.nodes if n.op == "call_module")
    return spelling.arguments(call, GraphFacts(gm))


@pytest.mark.parametrize(
    ("module", "shape"), SAMPLES, ids=[path_of(m) for m, _ in SAMPLES]
)
def test_an_instance_computes_its_function_of_what_it_holds(
    module: nn.Module, shape: tuple[int, ...]
) -> None:
    path = path_of(module)
    names = [p.name for p in default_catalog().lookup(path)[0].parameters]
    count = 2 if path == "nn.Bilinear" else 1
    gm = calling(module, count)
    found = arguments(path, gm)
    assert found is not None
    values = [torch.randn(shape) for _ in range(count)]
    facts = GraphFacts(gm)

    def value(name: str, given: Any) -> Any:
        if name in names[:count]:
            return values[names.index(name)]
        return facts.constant(given) if isinstance(given, fx.Node) else given

    operator = Operator("op", default_catalog().lookup(path))
    _, run = operator_pattern(operator).spellings[0].runnable
    result = run(**{name: value(name, given) for name, given in found.items()})
    assert torch.equal(result, module(*values))


def test_every_class_with_a_function_has_a_sample() -> None:
    known = {
        path
        for path in default_catalog().paths()
        if default_catalog().lookup(path)[0].functions
    }
    assert known - {path_of(module) for module, _ in SAMPLES} == {"nn.Embedding"}


class Plain(nn.Linear):
    """Only made in another way."""

    def __init__(self) -> None:
        super().__init__(8, 3)


class Doubled(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


class Computed(nn.Linear):
    weight = property(lambda self: torch.ones(3, 8))  # type: ignore[assignment]

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.bias = nn.Parameter(torch.ones(3))


def hooked() -> nn.Module:
    module = nn.Linear(8, 3)
    module.register_forward_hook(lambda *_: None)
    return module


def replaced() -> nn.Module:
    module = nn.Linear(8, 3)
    module.forward = lambda input: input  # type: ignore[method-assign]
    return module


def parametrized() -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))


def old_weight_norm() -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(nn.Linear(8, 3))  # type: ignore[no-any-return]


UNUSUAL = (hooked, replaced, parametrized, old_weight_norm, Doubled, Computed)


@pytest.mark.parametrize("make", UNUSUAL, ids=lambda make: make.__name__)
def test_an_instance_that_computes_something_else_is_not_read(make: Any) -> None:
    module = make(8, 3) if make is Doubled else make()
    assert arguments("nn.Linear", calling(module)) is None
    assert arguments("nn.Linear+", calling(module)) is None


def test_subclasses_are_meant_if_the_rule_says_so() -> None:
    assert arguments("nn.Linear", calling(Plain())) is None
    assert arguments("nn.Linear+", calling(Plain())) is not None
    assert is_covered("nn.Linear", nn.Linear(8, 3))
    assert is_covered("nn.Linear+", Plain()) and not is_covered("nn.Linear", Plain())
    assert arguments("nn.Linear+", calling(nn.Linear(8, 3))) is not None
    assert not inherits(Doubled, nn.Linear)


def is_covered(path: str, module: nn.Module) -> bool:
    operator = operator_pattern(Operator("op", default_catalog().lookup(path)))
    return any(map(operator.covers, calling(module).graph.nodes))


def test_a_call_that_its_module_does_not_take_is_not_read() -> None:
    assert arguments("nn.Linear", calling(nn.Linear(8, 3), inputs=2)) is None


def test_a_module_that_is_not_there_is_no_match() -> None:
    gm = calling(nn.Linear(8, 3))
    rules = loads("rule r { y = linear(x, w, b?) => y' = neg(x) }")
    assert len(engine.find(gm, rules)) == 1
    del gm.m
    assert len(engine.find(gm, rules)) == 0


def test_unusual_settings_have_no_function() -> None:
    padded = nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect")
    assert arguments("nn.Conv2d", calling(padded)) is None
    assert arguments("nn.BatchNorm2d", calling(nn.BatchNorm2d(4))) is None
    stateless = nn.BatchNorm2d(4, track_running_stats=False).eval()
    assert arguments("nn.BatchNorm2d", calling(stateless)) is None
    odd = nni.LinearReLU(nn.Linear(8, 3), nn.ReLU())
    odd[1] = nn.GELU()
    assert arguments("nni.LinearReLU", calling(odd)) is None


def test_one_rule_matches_every_spelling() -> None:
    rules = loads("rule r { y = linear(x, w, b?)  z = relu(y) => z' = relu(neg(y)) }")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.act = nn.Linear(4, 4), nn.ReLU()
            self.two = nn.Linear(4, 4, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.act(self.one(x))
            x = torch.relu(self.two(x))
            return nn.functional.linear(x, self.two.weight).relu()

    gm = fx.symbolic_trace(Model())
    found = engine.find(gm, rules)
    assert [str(match) for match in found] == [
        "r at act",
        "r at relu",
        "r at relu_1",
    ]
    held = [match.bindings["w"].target for match in found]
    assert held == ["one.weight", "two.weight", "two.weight"]
    assert [match.bindings["b"] is None for match in found] == [False, True, True]


def test_both_matchers_see_modules_alike() -> None:
    rules = loads("""
    family Layer(op) = linear | conv2d
    rule r for layer in Layer {
      y = layer(x, w, b?, ..)  z = relu(y) | sigmoid(y)  where w is const => z' = y
    }
    """)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 1, bias=False, padding_mode="reflect", padding=1),
        nn.Sigmoid(),
        nn.Linear(8, 8, bias=False),
        nn.Sigmoid(),
        hooked(),
        nn.ReLU(),
    )
    gm = fx.symbolic_trace(model)
    facts, fast, slow = GraphFacts(gm), [], []
    for node, (rule,) in candidates(rules.program, facts):
        found = match_at(rule, node, facts, lambda match: None).match
        fast += [] if found is None else [dict(found.bindings)]
    for node in gm.graph.nodes:
        slow += reference_matches(rules["r"], node, facts)
    assert fast == slow
    assert [str(match["w"].target) for match in fast] == ["0.weight", "4.weight"]


def test_what_a_module_holds_can_be_given_to_new_calls() -> None:
    rules = loads("rule r once { y = linear(x, w, b?) => y' = linear(x, neg(w), b) }")
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2, bias=False))
    gm, x = fx.symbolic_trace(model), torch.randn(5, 4)
    expected = nn.functional.linear(
        nn.functional.linear(x, -model[0].weight, model[0].bias), -model[1].weight
    )
    assert engine.apply(gm, rules).report.rules[0].matches == 2
    torch.testing.assert_close(gm(x), expected, rtol=0, atol=0)
    assert not [n for n in gm.graph.nodes if n.op == "call_module"]


def test_what_a_module_holds_is_read_once() -> None:
    rules = loads(
        "rule r once { y = linear(x, w, _)"
        "              => y' = F.linear(F.linear(relu(x), w), w) }"
    )
    layer, x = nn.Linear(4, 4), torch.randn(2, 4)
    gm = calling(layer)
    engine.apply(gm, rules)
    assert len(gm.graph.find_nodes(op="get_attr")) == 1
    assert torch.equal(gm(x), x.relu() @ layer.weight.t() @ layer.weight.t())


def test_settings_of_a_module_are_carried_over() -> None:
    rules = loads(
        "rule r once { y = conv2d(x, w, b?, ..) => y' = conv2d(x, neg(w), b, ..y) }"
    )
    for layer in (
        nn.Conv2d(4, 6, 3, stride=2, dilation=2, groups=2),
        nn.Conv2d(4, 6, 3, padding="same"),
    ):
        gm, x = calling(layer), torch.randn(2, 4, 9, 9)
        engine.apply(gm, rules)
        again = type(layer).__new__(type(layer))
        again.__dict__.update(layer.__dict__)
        expected = layer._conv_forward(x, -layer.weight, layer.bias)
        torch.testing.assert_close(gm(x), expected)


def test_a_call_with_what_the_module_holds_stays_a_call_of_it() -> None:
    rules = loads(
        "rule r once { y = linear(x, w, b?) => y' = linear(neg(x), w, b, ..y) }"
    )
    gm = calling(nn.Linear(4, 3))
    engine.apply(gm, rules)
    (call,) = (n for n in gm.graph.nodes if n.op == "call_module")
    assert call.target == "m"
    assert call.args[0].target is torch.ops.aten.neg.default


def test_a_fused_sequence_is_an_operator_of_its_own() -> None:
    text = """
    op linear_relu = nni.LinearReLU
    family Layer(op) = linear | linear_relu
    rule r for layer in Layer once {
      y = layer(x, w, b?) => y' = layer(neg(x), w, b, ..y)
    }
    """
    fused = nni.LinearReLU(nn.Linear(4, 3), nn.ReLU())
    gm, x = calling(fused), torch.randn(2, 4)
    assert engine.find(gm, loads(text))[0].bindings["w"].target == "m.0.weight"
    engine.apply(gm, loads(text))
    assert torch.equal(gm(x), fused(-x))
    built = text.replace("w, b, ..y", "neg(w), b")
    refused = engine.apply(calling(fused), loads(built)).report.rules[0].refusals
    assert "names modules only" in refused[0].reason


def test_classes_of_the_caller_are_granted_by_name() -> None:
    text = "op mine = F.linear | acme.Doubled\nrule r { y = mine(x, w, b?) => y' = x }"
    with pytest.raises(RuleError, match="no operator `acme"):
        loads(text)
    granted = {"acme.Doubled": engine.ModuleClass(Doubled, "F.linear")}
    rules = loads(text, modules=granted)
    assert len(engine.find(calling(Doubled(4, 3)), rules)) == 1
    assert engine.find(calling(nn.Linear(4, 3)), rules) == ()
    misspelt = {"acme.Doubled": engine.ModuleClass(Doubled, "F.lineer")}
    with pytest.raises(LookupError, match=r"`F\.lineer` is not in the catalog"):
        loads(text, modules=misspelt)


def test_tensors_of_an_observer_are_operands() -> None:
    from torch.ao.quantization import FakeQuantize, MinMaxObserver

    rules = loads("""
    op observer = ao.MinMaxObserver | ao.FakeQuantize
    rule r once {
      y = observer(x, min_val=lo, max_val=hi, ..)
    =>
      y' = observer(neg(x), ..y)
    }
    """)
    for observer, path in (
        (MinMaxObserver(), "m.min_val"),
        (FakeQuantize(), "m.activation_post_process.min_val"),
    ):
        (match,) = engine.find(calling(observer), rules)
        assert match.bindings["lo"].target == path


def test_the_table_says_what_a_class_computes() -> None:
    line = "nni.LinearReLU(Tensor input) -> Tensor = F.linear > F.relu"
    assert parse_schema(line).functions == ("F.linear", "F.relu")
    assert parse_schema("nn.LSTM(input) -> Tensor").functions == ()
