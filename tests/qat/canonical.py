"""A canonical form of fused graphs, for comparison with torchao's.

Graphs are compared node for node, up to names, the order of independent nodes, the
spelling of default arguments, and one pair of nodes that only ours has: the stand-in
for a scale of zero, without which torchao's graph is NaN.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpecBase,
)

aten = torch.ops.aten
ANNOTATION = "quantization_annotation"


class Canonical:
    """Every node of a graph as a value that does not depend on names or on order.

    The value of a node holds the values of its operands, so two graphs with the same
    counts of values have the same edges.
    """

    def __init__(self, gm: GraphModule) -> None:
        self._gm = gm
        self._values: dict[Node, object] = {}
        self.counts: Counter[object] = Counter()
        for node in gm.graph.nodes:
            self._values[node] = self._value(node)
            if not _is_zero_test(node) and not _is_stand_in(node):
                self.counts[self._values[node]] += 1

    def __getitem__(self, node: Node) -> object:
        """The value of `node`; a node that is not of this graph is told apart."""
        return self._values.get(node, "a node of another graph")

    def _value(self, node: Node) -> object:
        if _is_stand_in(node):
            return self[node.args[1]]
        return (node.op, self._target(node), self._operands(node))

    def _target(self, node: Node) -> str:
        if node.op == "call_module" and node.target != "_guards_fn":
            return repr(self._gm.get_submodule(node.target))
        return str(node.target)

    def _operands(self, node: Node) -> object:
        return self.of(_written_arguments(node))

    def of(self, value: object) -> object:
        """`value` with nodes replaced by their values, hashable."""
        if isinstance(value, Node):
            return self[value]
        if isinstance(value, (list, tuple)):
            return tuple(self.of(item) for item in value)
        if isinstance(value, dict):
            return frozenset((self.of(k), self.of(v)) for k, v in value.items())
        if isinstance(value, QuantizationSpecBase):
            return (type(value).__name__, self.of(vars(value)))
        if isinstance(value, QuantizationAnnotation):
            return self.of(vars(value))
        return repr(value)

    def annotations(self) -> Counter[object]:
        """The values of all annotated nodes, each with its annotation."""
        return Counter(
            (self[node], self.of(node.meta[ANNOTATION]))
            for node in self._gm.graph.nodes
            if ANNOTATION in node.meta
        )


def _is_zero_test(node: Node) -> bool:
    return node.target is aten.ne.Scalar and all(map(_is_stand_in, node.users))


def _is_stand_in(node: Node) -> bool:
    """`where(scale != 0, scale, 1)`, and nothing but that."""
    if node.target is not aten.where.ScalarOther:
        return False
    condition, scale, other = node.args
    return (
        condition.target is aten.ne.Scalar
        and condition.args == (scale, 0)
        and other == 1
        and scale.target is aten.div.Tensor
        and scale.args[1].target is aten.sqrt.default
    )


def _written_arguments(node: Node) -> dict[str, object]:
    """Arguments by name, without those that say what holds anyway."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {"args": node.args, "kwargs": node.kwargs}
    parameters = node.target._schema.arguments
    given = dict(zip((p.name for p in parameters), node.args, strict=False))
    given.update(node.kwargs)
    implied = {p.name: p.default_value for p in parameters}
    if node.target is aten.zeros_like.default:
        implied |= {"pin_memory": False, "dtype": node.args[0].meta["val"].dtype}
    return {k: v for k, v in given.items() if not _same(v, implied[k])}


def _same(value: object, implied: object) -> bool:
    return type(value) is type(implied) and value == implied
