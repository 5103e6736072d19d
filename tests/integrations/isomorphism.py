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
    value, literals exactly, metadata by its keys.
    """
    pairs = _paired(ours, theirs)
    for mine, other in pairs.items():
        assert _shape(mine) == _shape(other), (
            f"{mine.format_node()} {other.format_node()}"
        )
        _assert_same_keys(mine, other)
        if mine.op == "get_attr":
            constants = _constant(ours, mine), _constant(theirs, other)
            # torchao folds in fp32, ours in fp64: a quantized one may be a step off.
            close = (
                (tolerance, tolerance) if constants[0].is_floating_point() else (0, 1)
            )
            torch.testing.assert_close(*constants, rtol=close[0], atol=close[1])
    assert not _left(ours, set(pairs))
    assert _left(theirs, set(pairs.values())) <= {aten.add_.Tensor}


# torchao records nothing of q/dq calls, and of what it stores neither where it comes
# from nor what it was in the model; a node that a rule makes has all of this.
_VALUE = frozenset({"tensor_meta", "val"})
_ORIGIN = frozenset({"from_node", "nn_module_stack", "stack_trace"})


def _assert_same_keys(mine: Node, other: Node) -> None:
    """The keys of metadata are theirs, and those that only nodes of a kind may have."""
    surplus = mine.meta.keys() - other.meta.keys()
    missing = other.meta.keys() - mine.meta.keys()
    allowed = frozenset[str]()
    if mine.op == "get_attr":
        allowed = _VALUE | _ORIGIN
    elif "quantize_per" in str(mine.target):
        allowed = _VALUE | _of_annotated_output(mine)
    assert surplus <= allowed, f"{mine} {other}: {surplus}"
    # torchao writes the module stack of a convolution on the model's inputs.
    wrong = {"nn_module_stack"} if mine.op == "placeholder" else set()
    assert missing <= wrong, f"{mine} {other}: {missing}"


def _of_annotated_output(quantize: Node) -> frozenset[str]:
    """What torchao's port of metadata gives to q calls on an annotated node's output.

    Its fold loses the annotation of a BatchNorm; ours moves it to the convolution.
    """
    (source,) = quantize.all_input_nodes[:1]
    moved = getattr(source.meta.get("quantization_annotation"), "output_qspec", None)
    is_moved = moved is not None and str(source.target).startswith("aten.conv")
    return frozenset({"stack_trace"}) if is_moved else frozenset()


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
