"""The layers of a graph that can be equalized, whatever they are spelled as."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import attrs
import torch
from torch import fx

from rewrite_engine.engine import find, loads
from rewrite_engine.matching.match import Match
from rewrite_engine.ruleset import RuleSet
from rewrite_engine.tensor_types import attribute

# Rules that change nothing: they are only searched for.
_LAYERS = """
op fused_linear = nni.LinearReLU
op fused_conv1d = nni.ConvReLU1d
op fused_conv2d = nni.ConvReLU2d
op fused_conv3d = nni.ConvReLU3d

family Linear(op) = linear | fused_linear

family Conv(op, $axis) =
    (conv1d, -2) | (conv2d, -3) | (conv3d, -4)
  | (fused_conv1d, -2) | (fused_conv2d, -3) | (fused_conv3d, -4)

rule linear for op in Linear once { y = op(x, w, ..) => y' = op(x, w, ..y) }

rule conv for (op, $axis) in Conv once {
  y = op(x, w, groups=$groups, ..)
=>
  y' = op(x, w, ..y)
}
"""


@functools.cache
def _rules() -> RuleSet:
    return loads(_LAYERS, "layers")


@attrs.frozen(eq=False)
class Layer:
    """A linear or convolution in a graph."""

    node: fx.Node
    input: fx.Node
    weight: fx.Node
    """What gives the weight; for a module, a `get_attr` of what it holds."""
    axis: int
    """The channel axis of its input, counted from the end."""
    groups: int

    @property
    def names(self) -> tuple[str, ...]:
        """What a user may call it: the module's name, the weight's, the node's."""
        return tuple(dict.fromkeys(_names(self)))

    def held(self, module: fx.GraphModule) -> torch.Tensor | None:
        """Its weight, perhaps read through observers; None if that is computed."""
        path = _state_path(self.weight)
        held = None if path is None else attribute(module, path)
        return held if isinstance(held, torch.Tensor) else None


def find_layers(module: fx.GraphModule) -> tuple[Layer, ...]:
    """Every layer of the graph, in graph order."""
    return tuple(map(_layer, find(module, _rules())))


def _layer(match: Match) -> Layer:
    found = match.bindings
    axis, groups = found.get("axis", -1), found.get("groups", 1)
    return Layer(found["y"], found["x"], found["w"], axis, groups)


def _names(layer: Layer) -> Iterator[str]:
    if layer.node.op == "call_module":
        yield str(layer.node.target)
    stack = [path for path, _ in layer.node.meta.get("nn_module_stack", {}).values()]
    yield from filter(None, stack[-1:])
    if (path := _state_path(layer.weight)) is not None:
        owner, _, _ = path.rpartition(".")
        yield from filter(None, (owner, path))
    yield layer.node.name


def _state_path(node: fx.Node) -> str | None:
    """What a node reads of the state, perhaps through observers, if it does."""
    while node.op == "call_module" and len(node.all_input_nodes) == 1:
        (node,) = node.all_input_nodes
    return str(node.target) if node.op == "get_attr" else None
