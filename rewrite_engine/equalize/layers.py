"""The layers of a graph that can be equalized, whatever they are spelled as."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import attrs
from torch import fx

from rewrite_engine.engine import find, loads
from rewrite_engine.matching.match import Match
from rewrite_engine.ruleset import RuleSet

# Rules that change nothing: they are only searched for.
_LAYERS = """
family Layer(op, $axis) = (linear, -1) | (conv1d, -2) | (conv2d, -3) | (conv3d, -4)

rule layer for (op, $axis) in Layer once { y = op(x, w, ..) => y' = op(x, w, ..y) }
"""


@functools.cache
def _rules() -> RuleSet:
    return loads(_LAYERS, "layers")


@attrs.frozen(eq=False)
class Layer:
    """A linear or convolution in a graph."""

    node: fx.Node
    input: fx.Node
    axis: int
    """The channel axis of its input, counted from the end."""

    @property
    def names(self) -> tuple[str, ...]:
        """What a user may call it: the module's name, the weight's, the node's."""
        return tuple(dict.fromkeys(_names(self.node)))


def find_layers(module: fx.GraphModule) -> tuple[Layer, ...]:
    """Every layer of the graph whose input is a value, in graph order."""
    return tuple(map(_layer, find(module, _rules())))


def _layer(match: Match) -> Layer:
    axis = match.bindings["axis"]
    return Layer(match.bindings["y"], match.bindings["x"], axis)


def _names(node: fx.Node) -> Iterator[str]:
    if node.op == "call_module":
        yield str(node.target)
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    yield from filter(None, stack[-1:])
    for operand in node.all_input_nodes:
        yield from _state_names(operand)
    yield node.name


def _state_names(node: fx.Node) -> Iterator[str]:
    """The name of the state that a node reads, perhaps through observers, and of its
    owner.
    """
    while node.op == "call_module" and len(node.all_input_nodes) == 1:
        (node,) = node.all_input_nodes
    if node.op == "get_attr":
        name = str(node.target)
        yield name
        owner, _, _ = name.rpartition(".")
        if owner:
            yield owner
