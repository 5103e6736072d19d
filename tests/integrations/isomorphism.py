"""Whether two graphs are the same, node by node from the outputs on."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_aggregate

aten = torch.ops.aten


def assert_same_model(
    ours: GraphModule, theirs: GraphModule, tolerance: float = 1e-6
) -> None:
    """The same calls on the same operands and literals, and the same constants.

    Names are free, and so is the order of independent nodes. Constants are compared by
    value, literals exactly. Ours has every key of metadata that theirs has, but for the
    module stack of a convolution that torchao writes on the model's inputs.
    """
    pairs = _paired(ours, theirs)
    for mine, other in pairs.items():
        assert _shape(mine) == _shape(other), (
            f"{mine.format_node()} {other.format_node()}"
        )
        missing = other.meta.keys() - mine.meta.keys()
        assert not missing or mine.op == "placeholder", f"{mine} {other}: {missing}"
        if mine.op == "get_attr":
            constants = _constant(ours, mine), _constant(theirs, other)
            torch.testing.assert_close(*constants, rtol=tolerance, atol=tolerance)
    assert not _left(ours, set(pairs))
    assert _left(theirs, set(pairs.values())) <= {aten.add_.Tensor}


def _paired(ours: GraphModule, theirs: GraphModule) -> dict[Node, Node]:
    todo = [(ours.graph.output_node(), theirs.graph.output_node())]
    pairs: dict[Node, Node] = {}
    while todo:
        mine, other = todo.pop()
        if mine in pairs:
            assert pairs[mine] is other, f"{mine} is both {pairs[mine]} and {other}"
            continue
        pairs[mine] = other
        todo += zip(mine.all_input_nodes, other.all_input_nodes, strict=True)
    assert len(set(pairs.values())) == len(pairs), "two nodes of ours are one of theirs"
    return pairs


def _shape(node: Node) -> Any:
    """A node without the names of its operands."""
    operands = {operand: i for i, operand in enumerate(node.all_input_nodes)}

    def numbered(value: Any) -> Any:
        return ("operand", operands[value]) if isinstance(value, Node) else value

    target = None if node.op == "get_attr" else node.target
    return node.op, target, *map_aggregate((node.args, node.kwargs), numbered)


def _constant(gm: GraphModule, node: Node) -> torch.Tensor:
    owner, _, name = str(node.target).rpartition(".")
    return getattr(gm.get_submodule(owner), name).detach()


def _left(gm: GraphModule, paired: set[Node]) -> set[Any]:
    """The calls that no output depends on; torchao leaves counters of batches."""
    rest = [node for node in gm.graph.nodes if node not in paired]
    return {node.target for node in rest if node.op == "call_function"}
