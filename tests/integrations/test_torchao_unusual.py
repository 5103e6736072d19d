"""Unusual models and annotations through the whole flow: right, or left alone with a
reason, and never left half-way.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import move_exported_model_to_eval
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    Quantizer,
    SharedQuantizationSpec,
)

from benches.models import ConvBn, capture, randomise_batch_norms
from rewrite_engine import engine, load
from rewrite_engine.integrations import torchao
from rewrite_engine.report import Report
from tests.integrations.flow import (
    assert_outputs_within_a_step,
    batch_norms,
    in_eval,
    train,
    with_fixed_scales,
)
from tests.integrations.quantizers import (
    ACTIVATION,
    ANNOTATION,
    QUANTIZERS,
    OperandQuantizer,
    convolutions,
    per_channel,
    per_tensor,
)

aten = torch.ops.aten
X = torch.randn(4, 4, 9, 9, generator=torch.Generator().manual_seed(0))


def pair(channels: int = 4, conv: nn.Module | None = None) -> ConvBn:
    return ConvBn(conv or nn.Conv2d(channels, 6, 3), nn.BatchNorm2d(6))


class Two(nn.Module):
    """Two pairs on one input, to which a case gives tensors in common."""

    def __init__(self, second: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.second = pair(), second or pair()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) + self.second(x * 0.5)


def bias_of_a_layer_without_norm() -> nn.Module:
    model = Two(nn.Conv2d(4, 6, 3))
    model.second.bias = model.first.conv.bias
    return model


def weight_of_a_layer_without_norm() -> nn.Module:
    model = Two(nn.Conv2d(4, 6, 3))
    model.second.weight = model.first.conv.weight
    return model


def bias_of_the_convolution_and_the_norm() -> nn.Module:
    model = pair()
    model.bn.bias = model.conv.bias
    return model


def gamma_of_two_norms() -> nn.Module:
    model = Two()
    model.second.bn.weight = model.first.bn.weight
    return model


def one_convolution_two_norms() -> nn.Module:
    model = Two()
    model.second.conv = model.first.conv
    return model


def chain() -> nn.Module:
    return nn.Sequential(pair(), pair(6), pair(6))


class SharedScales(Quantizer):
    """One scale for all activations and one for all weights, each named by its
    predecessor.
    """

    def annotate(self, model: GraphModule) -> GraphModule:
        last: tuple[Node, Node, Node] | None = None
        for conv in convolutions(model):
            x, weight = conv.args[:2]
            qspecs = {x: ACTIVATION, weight: per_tensor()}
            if last is not None:
                before, its_x, its_weight = last
                qspecs[x] = SharedQuantizationSpec((its_x, before))
                qspecs[weight] = SharedQuantizationSpec((its_weight, before))
            conv.meta[ANNOTATION] = QuantizationAnnotation(
                input_qspec_map=qspecs, _annotated=True
            )
            last = conv, x, weight
        return model

    def validate(self, model: GraphModule) -> None:
        pass


def in_turns(conv: Node) -> Mapping[Node, object]:
    """Both operands, the weight, the input, nothing: one after the other."""
    number = convolutions(conv.graph.owning_module).index(conv)
    x, weight = conv.args[:2]
    turns = ({x: ACTIVATION, weight: per_channel()}, {weight: per_tensor()})
    return (*turns, {x: ACTIVATION}, {})[number % 4]


QUANTIZED: Mapping[str, Callable[[], Quantizer]] = {
    "per channel": QUANTIZERS["per_channel"],
    "shared scales": SharedScales,
    "in turns": lambda: OperandQuantizer(in_turns),
}

MODELS: Mapping[str, Callable[[], nn.Module]] = {
    "bias of a layer without norm": bias_of_a_layer_without_norm,
    "weight of a layer without norm": weight_of_a_layer_without_norm,
    "bias of the convolution and the norm": bias_of_the_convolution_and_the_norm,
    "gamma of two norms": gamma_of_two_norms,
    "one convolution, two norms": one_convolution_two_norms,
    "chain": chain,
}


def flow(model: nn.Module, quantizer: Quantizer) -> tuple[GraphModule, list[Report]]:
    """The converted model, checked against the trained one, and both reports."""
    reports: list[Report] = []
    prepared = torchao.prepare_qat_pt2e(
        capture(model, (X,)), quantizer, on_report=reports.append
    )
    train(prepared, (X,))
    expected = in_eval(prepared)(X)
    converted = torchao.convert_pt2e(prepared, on_report=reports.append)
    for norm in batch_norms(converted):
        norm.update_arg(5, False)
    converted.recompile()
    assert_outputs_within_a_step(converted, (X,), expected)
    return converted, reports


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return randomise_batch_norms(build()).train()


@pytest.mark.parametrize("quantizer", QUANTIZED)
@pytest.mark.parametrize("model", MODELS)
def test_what_is_shared_is_folded(model: str, quantizer: str) -> None:
    converted, (fuse, _) = flow(seeded(MODELS[model]), QUANTIZED[quantizer]())
    assert fuse.matches and not batch_norms(converted)
    scaffold = (aten.sqrt.default, aten.div.Tensor, aten.zeros_like.default)
    assert not {node.target for node in converted.graph.nodes} & {*scaffold}


class LinearQuantizer(Quantizer):
    """Annotates input and weight of every linear layer."""

    def annotate(self, model: GraphModule) -> GraphModule:
        for node in model.graph.find_nodes(
            op="call_function", target=aten.linear.default
        ):
            x, weight = node.args[:2]
            node.meta[ANNOTATION] = QuantizationAnnotation(
                input_qspec_map={x: ACTIVATION, weight: per_channel()}, _annotated=True
            )
        return model

    def validate(self, model: GraphModule) -> None:
        pass


def test_linear_layers_are_fused_and_folded() -> None:
    def rows() -> nn.Module:
        return nn.Sequential(
            *(nn.Flatten(), nn.Linear(4 * 81, 6), nn.BatchNorm1d(6, eps=1e-2)),
            *(nn.ReLU(), nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5)),
        )

    converted, (fuse, fold) = flow(seeded(rows), LinearQuantizer())
    assert fuse.matches == 2 and not fuse.refusals and not fold.refusals
    assert not batch_norms(converted)
    scaffold = {aten.sqrt.default, aten.div.Tensor, aten.add_.Tensor}
    assert not {node.target for node in converted.graph.nodes} & scaffold


# --- weights that are computed ---


class Averaged(nn.Module):
    """A weight in a buffer that every call writes."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(6)
        self.register_buffer("weight", torch.randn(6, 4, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.weight.mul_(0.99)
        return self.bn(nn.functional.conv2d(x, self.weight))


class Sliced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(6)
        self.weight = nn.Parameter(torch.randn(12, 4, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(nn.functional.conv2d(x, self.weight[:6]))


parametrizations = nn.utils.parametrizations
COMPUTED: Mapping[str, Callable[[], nn.Module]] = {
    "weight_norm": lambda: pair(
        conv=parametrizations.weight_norm(nn.Conv2d(4, 6, 3)),
    ),
    "spectral_norm": lambda: pair(
        conv=parametrizations.spectral_norm(nn.Conv2d(4, 6, 3)),
    ),
    "orthogonal": lambda: pair(
        conv=parametrizations.orthogonal(nn.Conv2d(4, 6, 3)),
    ),
    "written": Averaged,
    "sliced": Sliced,
}


@pytest.mark.parametrize("case", COMPUTED)
def test_a_computed_weight_stays_with_its_batch_norm(case: str) -> None:
    converted, (fuse, fold) = flow(seeded(COMPUTED[case]), QUANTIZED["per channel"]())
    assert len(batch_norms(converted)) == 1 and not fuse.matches
    (refusal,) = fuse.refusals
    assert "is computed in the graph" in refusal.reason
    assert not fold.matches


# --- a BatchNorm that does not train ---


class Frozen(nn.Module):
    """A pair whose BatchNorm is frozen before it is exported, and one that trains."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.pair = pair(), pair(6)

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.frozen.bn.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pair(self.frozen(x))


def test_a_frozen_batch_norm_stays_and_is_right() -> None:
    converted, (fuse, _) = flow(seeded(Frozen), QUANTIZED["per channel"]())
    assert fuse.matches == 1
    assert [r.reason for r in fuse.refusals] == ["the BatchNorm is in eval mode"]
    (norm,) = batch_norms(converted)
    assert norm.args[4].target == "frozen.bn.running_var"


def test_a_frozen_batch_norm_may_be_folded_before_training() -> None:
    model = seeded(Frozen)
    gm = capture(model, (X,))
    assert engine.apply(gm, load("bn_fold")).report.matches == 1
    prepared = torchao.prepare_qat_pt2e(gm, QUANTIZED["per channel"]())
    train(prepared, (X,))
    expected = in_eval(prepared)(X)
    converted = torchao.convert_pt2e(prepared)
    assert not batch_norms(converted)
    assert_outputs_within_a_step(converted, (X,), expected)


# --- a bias with a scale of its own ---


def test_a_bias_that_is_observed_stays_with_its_batch_norm() -> None:
    """As it is what the observer has seen, the model is right without folding."""

    def qspecs(conv: Node) -> Mapping[Node, object]:
        x, weight, bias = conv.args[:3]
        return {x: ACTIVATION, weight: per_channel(), bias: per_tensor()}

    converted, (fuse, _) = flow(seeded(pair), OperandQuantizer(qspecs, ACTIVATION))
    assert len(batch_norms(converted)) == 1
    (refusal,) = fuse.refusals
    assert "a scale that is derived from those of input and weight" in refusal.reason


# --- nothing is left half-way without a word ---


def test_a_scaffold_that_is_no_longer_there_as_it_was_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    prepared = torchao.prepare_qat_pt2e(
        capture(seeded(pair), (X,)), QUANTIZED["per channel"]()
    )
    train(prepared, (X,))
    (conv,) = convolutions(prepared)
    with prepared.graph.inserting_before(conv):
        weight = prepared.graph.call_function(aten.clone.default, (conv.args[1],))
    conv.update_arg(1, weight)
    with caplog.at_level(logging.WARNING, torchao.__name__):
        converted = torchao.convert_pt2e(prepared)
    (norm,) = batch_norms(converted)
    assert f"'{norm}' is not folded" in caplog.text


class OneNormTwice(nn.Module):
    """A BatchNorm after a convolution and, once more, after nothing that folds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.bn(self.conv(x)).relu())


def test_a_norm_that_another_call_trains_is_folded_in_eval_mode(
    caplog: pytest.LogCaptureFixture,
) -> None:
    prepared = torchao.prepare_qat_pt2e(
        capture(seeded(OneNormTwice), (X,)), QUANTIZED["per channel"]()
    )
    train(prepared, (X,))
    expected = with_fixed_scales(prepared)(X)
    trained = copy.deepcopy(prepared)
    with caplog.at_level(logging.WARNING, torchao.__name__):
        converted = torchao.convert_pt2e(prepared)
    assert len(batch_norms(converted)) == 2
    assert (
        "a call of `move_exported_model_to_eval` before the conversion" in caplog.text
    )
    assert_outputs_within_a_step(converted, (X,), expected)
    caplog.clear()
    move_exported_model_to_eval(trained)
    assert len(batch_norms(torchao.convert_pt2e(trained))) == 1
    assert "not folded" not in caplog.text and "left alone" not in caplog.text


# --- graphs inside of graphs ---


class WithoutGrad(nn.Module):
    """A pair that export puts into a graph of its own, and one."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.pair = pair(), pair(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = self.inside(x)
        return self.pair(y)


def test_a_pair_in_a_graph_of_its_own_is_left_alone() -> None:
    """Its parameters are inputs there, so nothing can be folded into them."""
    model = seeded(WithoutGrad)
    reports: list[Report] = []
    prepared = torchao.prepare_qat_pt2e(
        capture(model, (X,)), QUANTIZED["per channel"](), on_report=reports.append
    )
    converted = torchao.convert_pt2e(prepared)
    (fuse,) = reports
    assert fuse.matches == 1 and not batch_norms(converted)
    assert [r.reason for r in fuse.refusals] == ["none of its operands is annotated"]
    graphs = [m for m in converted.modules() if isinstance(m, GraphModule)]
    assert sum(len(batch_norms(graph)) for graph in graphs) == 1
    assert converted(X).isfinite().all()


# --- a dynamic batch ---


def test_the_batch_may_be_dynamic() -> None:
    dynamic = ({0: Dim("batch", min=2)},)
    program = torch.export.export(seeded(chain), (X,), dynamic_shapes=dynamic)
    prepared = torchao.prepare_qat_pt2e(program.module(), QUANTIZED["per channel"]())
    train(prepared, (X,))
    expected = in_eval(prepared)
    converted = torchao.convert_pt2e(prepared)
    assert not batch_norms(converted)
    for batch in (2, 7):
        x = torch.cat([X, X.flip(0)])[:batch]
        assert_outputs_within_a_step(converted, (x,), expected(x))
