"""Puts observers in front of the layers that are to be equalized."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence

import torch
from torch import fx, nn

from rewrite_engine.equalize.config import EqualizationConfig
from rewrite_engine.equalize.layers import Layer, find_layers
from rewrite_engine.equalize.observers import InputEqualizationObserver


def prepare(
    model: fx.GraphModule,
    config: EqualizationConfig | None = None,
    *,
    inplace: bool = False,
) -> fx.GraphModule:
    """A copy of `model` that observes the inputs of its layers when it runs.

    Layers that read one value share its observer, and later its scale.

    `model` is a graph of `torch.fx` or the module of an exported program, with or
    without quantization observers. Layers that are observed already stay as they are.

    Raises: ValueError if the configuration names a layer that is not there.
    """
    config = config or EqualizationConfig()
    module = model if inplace else copy_of(model)
    layers = find_layers(module)
    _check_names(config.layers or (), layers)
    watched: dict[tuple[fx.Node, int], fx.Node] = {}
    for layer in layers:
        if not config.selects(layer.names) or _is_observed(module, layer.input):
            continue
        place = layer.input, layer.axis
        if place not in watched:
            observer = InputEqualizationObserver(layer.axis, config.alpha)
            weight = layer.held(module)
            observer.to(None if weight is None else weight.device)
            watched[place] = _insert(module, layer, observer)
        layer.node.replace_input_with(layer.input, watched[place])
    module.recompile()
    return module


def _is_observed(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op != "call_module":
        return False
    return isinstance(module.get_submodule(str(node.target)), InputEqualizationObserver)


def _insert(module: fx.GraphModule, layer: Layer, observer: nn.Module) -> fx.Node:
    name = free_name(module, "equalization_observer_")
    module.add_submodule(name, observer)
    with module.graph.inserting_before(layer.node):
        node = module.graph.call_module(name, (layer.input,))
    node.meta = dict(layer.input.meta)
    return node


def bypass(module: fx.GraphModule, kind: type[nn.Module]) -> None:
    """Take every call of such observers out of the graph: readers of what one gives
    read what it is given.
    """
    for node in module.graph.find_nodes(op="call_module"):
        if isinstance(module.get_submodule(str(node.target)), kind):
            (value,) = node.all_input_nodes
            node.replace_all_uses_with(value)
            module.graph.erase_node(node)
    module.recompile()


def copy_of(model: fx.GraphModule) -> fx.GraphModule:
    """A deep copy. Tensors that were computed with gradients, as weight norm leaves
    them behind, are detached: `copy.deepcopy` refuses them.
    """
    tensors = (
        held
        for part in model.modules()
        for held in (*vars(part).values(), *part.buffers(recurse=False))
        if isinstance(held, torch.Tensor) and not held.is_leaf
    )
    return copy.deepcopy(model, {id(each): each.detach().clone() for each in tensors})


def free_name(module: nn.Module, prefix: str) -> str:
    """The prefix with the first number that makes it no attribute of the module."""
    number = 0
    while hasattr(module, f"{prefix}{number}"):
        number += 1
    return f"{prefix}{number}"


def _check_names(chosen: Sequence[str], layers: Sequence[Layer]) -> None:
    known = {name for layer in layers for name in layer.names}
    for name in chosen:
        config = EqualizationConfig(name)
        if not any(config.selects(layer.names) for layer in layers):
            close = difflib.get_close_matches(name, known, 3)
            hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise ValueError(f"there is no layer called '{name}' to equalize{hint}")
