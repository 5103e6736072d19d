"""Whole models through the flow of their users: annotate, prepare, train, convert."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import attrs
import pytest
import torch
from torch.fx import GraphModule
from torchao.quantization.pt2e import (
    allow_exported_model_train_eval,
    move_exported_model_to_eval,
    move_exported_model_to_train,
)
from torchao.quantization.pt2e.quantizer import Quantizer

from benches import models
from rewrite_engine.integrations import torchao
from rewrite_engine.report import Report
from tests.integrations.flow import (
    assert_convolutions_are_eager,
    batch_norms,
    pairs_of,
    train,
)
from tests.integrations.quantizers import QUANTIZERS, xnnpack

aten = torch.ops.aten


def switch_by_functions(gm: GraphModule, inputs: tuple[torch.Tensor, ...]) -> None:
    """Evaluate between two steps of training, with torchao's functions."""
    move_exported_model_to_eval(gm)
    gm(*inputs)
    move_exported_model_to_train(gm)


def switch_by_methods(gm: GraphModule, inputs: tuple[torch.Tensor, ...]) -> None:
    """Evaluate between two steps of training, with the module's own methods."""
    allow_exported_model_train_eval(gm)
    gm.eval()
    gm(*inputs)
    gm.train()


@attrs.frozen
class Case:
    """A model, how it is quantized, and what of it has to be fused."""

    build: Callable[[], models.Model]
    quantizer: Callable[[], Quantizer]
    switch: Callable[[GraphModule, tuple[torch.Tensor, ...]], None]
    pairs: int


CASES: Mapping[str, Case] = {
    "ResNet, per tensor": Case(
        lambda: models.resnet_like(8),
        lambda: xnnpack(is_per_channel=False),
        switch_by_functions,
        8,
    ),
    "ResNet, derived biases": Case(
        lambda: models.resnet_like(8),
        QUANTIZERS["derived_bias_per_channel"],
        switch_by_methods,
        8,
    ),
    "MobileNet, per channel": Case(
        lambda: models.mobilenet_like(blocks=2),
        lambda: xnnpack(is_per_channel=True),
        switch_by_functions,
        8,
    ),
    "EfficientNet, per channel": Case(
        lambda: models.efficientnet_like(blocks=2),
        QUANTIZERS["per_channel"],
        switch_by_methods,
        8,
    ),
    "EfficientNet, weights alone": Case(
        lambda: models.efficientnet_like(blocks=2),
        QUANTIZERS["weight_only"],
        switch_by_functions,
        8,
    ),
    "decoder, per channel": Case(
        models.decoder_like, lambda: xnnpack(is_per_channel=True), switch_by_methods, 3
    ),
    "decoder, activations alone": Case(
        models.decoder_like, QUANTIZERS["activation_only"], switch_by_functions, 3
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_trained_model_is_converted(
    name: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    case = CASES[name]
    model, inputs = case.build()
    reports: list[Report] = []
    prepared = torchao.prepare_qat_pt2e(
        models.capture(model, inputs), case.quantizer(), on_report=reports.append
    )
    train(prepared, inputs, 2)
    case.switch(prepared, inputs)
    train(prepared, inputs, 1)
    pairs = pairs_of(prepared, model)
    if mode == "eval":
        move_exported_model_to_eval(prepared)
    with caplog.at_level(logging.WARNING, torchao.__name__):
        converted = torchao.convert_pt2e(prepared, on_report=reports.append)

    fuse, fold = reports
    assert fuse.matches == case.pairs and not fuse.refusals
    assert not fold.refusals
    assert not batch_norms(converted)
    left = {node.target for node in converted.graph.nodes}
    assert not left & {aten.sqrt.default, aten.add_.Tensor, aten.zeros_like.default}
    assert_convolutions_are_eager(converted, pairs, inputs)
    assert converted(*inputs).isfinite().all()
    eps_is_default = name.startswith(("ResNet", "decoder"))
    assert ("has reset the eps" in caplog.text) == (not eps_is_default)
