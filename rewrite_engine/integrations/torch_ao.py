"""Our equalization in the place of torch's, for graphs made by `prepare_fx`.

The functions have the contracts of their namesakes in
`torch.ao.quantization.fx._equalize`; `convert_fx` is torch's, on an equalized copy.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.ao.quantization import quantize_fx
from torch.ao.quantization.fx import _equalize as peer

from rewrite_engine.engine import apply, loads
from rewrite_engine.equalize import (
    InputEqualizationObserver,
    WeightEqualizationObserver,
    calculate_equalization_scale,
    convert,
    layer_sqnr,
    worst_layers,
)
from rewrite_engine.equalize.layers import Layer, find_layers
from rewrite_engine.equalize.prepare import bypass, copy_of
from rewrite_engine.ruleset import RuleSet

Modules = dict[str, nn.Module]
WeightObservers = dict[str, peer._WeightEqualizationObserver]


def convert_fx(graph_module: fx.GraphModule, *args: Any, **kwargs: Any) -> nn.Module:
    """`torch.ao.quantization.quantize_fx.convert_fx`, with our equalization.

    `graph_module` was prepared by torch, with an equalization configuration.
    """
    equalized = _convert_equalization_ref(graph_module)
    return quantize_fx.convert_fx(equalized, *args, **kwargs)


def _convert_equalization_ref(model: fx.GraphModule) -> fx.GraphModule:
    """An equalized copy of a prepared graph, with its quantization observers."""
    model = copy_of(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    convert_eq_obs(model, modules, update_obs_for_equalization(model, modules))
    return model


def update_obs_for_equalization(
    model: fx.GraphModule, modules: Mapping[str, nn.Module]
) -> WeightObservers:
    """Set the scale of every equalization observer of a prepared graph.

    The result has, by the names of the layers' nodes, observers that have seen their
    weights. A layer whose weight is computed has none.
    """
    found = {}
    for layer, theirs in _observed(model, modules):
        weight = layer.held(model)
        if weight is None:
            continue
        seen = WeightEqualizationObserver(layer.groups)
        seen(weight)
        scale = calculate_equalization_scale(_ours(theirs, layer), seen)
        theirs.equalization_scale = scale
        found[layer.node.name] = _theirs(seen, scale)
    return found


def convert_eq_obs(
    model: fx.GraphModule,
    modules: Modules,
    weight_eq_obs_dict: Mapping[str, peer._WeightEqualizationObserver],
) -> None:
    """Equalize a prepared graph in place, the layers named in the dictionary only.

    `modules` is brought up to date. The quantization observers of weights that are
    operands of functions are reset; `convert_fx` lets them see the new weights.
    """
    bypass(model, peer._WeightEqualizationObserver)
    for layer, theirs in _observed(model, modules):
        name = str(layer.input.target)
        if layer.node.name in weight_eq_obs_dict:
            _put(model, name, _ours(theirs, layer))
    convert(model, inplace=True)
    bypass(model, peer._InputEqualizationObserver)
    apply(model, _spelling())
    _reset_weight_observers(model, weight_eq_obs_dict)
    modules.clear()
    modules.update(model.named_modules(remove_duplicate=False))


def get_layer_sqnr_dict(
    model_a: nn.Module, model_b: nn.Module, x: torch.Tensor
) -> dict[str, float]:
    """The SQNR in dB of each layer of a float model and its quantized form, by name."""
    pair = (
        m if isinstance(m, fx.GraphModule) else _traced(m) for m in (model_a, model_b)
    )
    return layer_sqnr(*pair, x)


def get_equalization_qconfig_dict(
    layer_sqnr_dict: Mapping[str, float], num_layers_to_equalize: int
) -> dict[str, Any]:
    """An equalization configuration of the layers with the lowest SQNR."""
    chosen = worst_layers(layer_sqnr_dict, num_layers_to_equalize)
    qconfig = peer.default_equalization_qconfig
    return {"module_name": [(name, qconfig) for name in chosen]}


def _traced(model: nn.Module) -> fx.GraphModule:
    return fx.symbolic_trace(model)


# --- observers: torch's and ours ---


def _observed(
    model: fx.GraphModule, modules: Mapping[str, nn.Module]
) -> Iterator[tuple[Layer, peer._InputEqualizationObserver]]:
    """Layers behind an equalization observer of torch's."""
    for layer in find_layers(model):
        if layer.input.op != "call_module":
            continue
        observer = modules.get(str(layer.input.target))
        if isinstance(observer, peer._InputEqualizationObserver):
            yield layer, observer


def _ours(
    theirs: peer._InputEqualizationObserver, layer: Layer
) -> InputEqualizationObserver:
    """Our observer that has seen the same, if that was along the channel axis.

    Torch's watches the second axis, whatever the layer; if that was another axis, ours
    has seen nothing.
    """
    ours = InputEqualizationObserver(layer.axis)
    low, high = theirs.get_input_minmax()
    shape = theirs.equalization_shape
    if low.numel() > 0 and len(shape) + layer.axis == 1:
        ours.record(low.reshape(shape), high.reshape(shape))
    return ours


def _theirs(
    seen: WeightEqualizationObserver, scale: torch.Tensor
) -> peer._WeightEqualizationObserver:
    theirs = peer.default_equalization_qconfig.weight()
    theirs.weight_col_obs.min_val = seen.min_val
    theirs.weight_col_obs.max_val = seen.max_val
    theirs.set_equalization_scale(scale.flatten())
    return theirs


def _put(model: fx.GraphModule, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


# --- weights ---


def _reset_weight_observers(model: fx.GraphModule, names: Mapping[str, Any]) -> None:
    for layer in find_layers(model):
        if layer.node.name in names and layer.weight.op == "call_module":
            observer = model.get_submodule(str(layer.weight.target))
            if hasattr(observer, "reset_min_max_vals"):
                observer.reset_min_max_vals()


# --- what torch's own pass leaves behind ---


@functools.cache
def _spelling() -> RuleSet:
    return loads(
        """
        rule as_torch_spells_it once {
          m = aten.mul.Tensor(x, s)
          where s is const
        =>
          m' = torch.mul(x, s)
        }
        """,
        "torch_ao",
    )
