"""Parts what is read in several ways, so that each set of layers has its own observers.

A rule takes at most three layers together, and the quantization observer of their input
only if nothing else reads what it gives.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence

import attrs
from torch import fx

from rewrite_engine.equalize.layers import Layer, find_layers
from rewrite_engine.equalize.prepare import free_name

TOGETHER = 3
"""How many layers one rule takes, at most."""


@attrs.frozen(eq=False)
class Partition:
    """Second calls of quantization observers, each with the first call."""

    twins: tuple[tuple[fx.Node, fx.Node], ...]

    def join(self) -> None:
        """Take back what no rule has made use of."""
        for twin, first in self.twins:
            if not twin._erased and twin.target == first.target:
                twin.replace_all_uses_with(first)
                twin.graph.erase_node(twin)


def part(module: fx.GraphModule, watching: Sequence[fx.Node]) -> Partition:
    """Give each set of layers a copy of its equalization observer, which `watching`
    calls, and that a call of its own of the quantization observer before it.
    """
    layers = find_layers(module)
    watches = list(watching)
    for watch in watching:
        sets = _sets([layer for layer in layers if layer.input is watch])
        watches += [_copy_of(module, watch, nodes) for nodes in sets[1:]]
    twins = []
    for watch in sorted(watches, reverse=True):  # the first one keeps the first call
        (source,) = watch.all_input_nodes
        if len(source.users) > 1 and _is_quantizer(module, source):
            twins.append((_observe_again(source, watch), source))
    return Partition(tuple(twins))


def _copy_of(
    module: fx.GraphModule, watch: fx.Node, readers: Sequence[fx.Node]
) -> fx.Node:
    """Have readers watched by an observer of their own, which has seen the same."""
    name = free_name(module, "equalization_observer_")
    seen = copy.deepcopy(module.get_submodule(str(watch.target)))
    module.add_submodule(name, seen)
    twin = _call_again(watch, readers)
    twin.target = name
    return twin


def _observe_again(observer: fx.Node, reader: fx.Node) -> fx.Node:
    """Have a reader observed apart. torch fuses a call with the quantizer after it, so
    that only an input of the graph can be read before it is quantized.
    """
    twin = _call_again(observer, [reader])
    (value,) = observer.all_input_nodes
    if value.op != "placeholder":
        twin.replace_input_with(value, observer)
    return twin


def _sets(layers: Sequence[Layer]) -> list[list[fx.Node]]:
    """Layers that one rule takes together: of one kind, and not too many."""
    kinds = defaultdict(list)
    for layer in layers:
        kinds[layer.axis, layer.groups].append(layer.node)
    return [
        nodes[start : start + TOGETHER]
        for nodes in kinds.values()
        for start in range(0, len(nodes), TOGETHER)
    ]


def _call_again(observer: fx.Node, readers: Sequence[fx.Node]) -> fx.Node:
    # Nothing stands between it and what reads it, which it could not move past.
    with observer.graph.inserting_before(min(readers)):
        twin = observer.graph.node_copy(observer)
    twin.meta = dict(observer.meta)
    for reader in readers:
        reader.replace_input_with(observer, twin)
    return twin


def _is_quantizer(module: fx.GraphModule, node: fx.Node) -> bool:
    from torch.ao.quantization import FakeQuantizeBase, ObserverBase

    if node.op != "call_module":
        return False
    called = module.get_submodule(str(node.target))
    return isinstance(called, (FakeQuantizeBase, ObserverBase))
