"""State that a rewrite left unread leaves its module, and nothing else does."""

from __future__ import annotations

import torch
from torch import fx, nn

from rewrite_engine.rewriting.dead_state import drop_unread
from rewrite_engine.rewriting.transaction import Transaction


def module() -> fx.GraphModule:
    """Reads `conv.weight` alone."""
    root = nn.Module()
    root.conv = nn.Conv2d(1, 1, 1, bias=False)
    graph = fx.Graph()
    graph.output(graph.get_attr("conv.weight"))
    return fx.GraphModule(root, graph)


def test_all_names_of_an_unread_tensor_go_and_come_back() -> None:
    gm = module()
    gm.register_buffer("dead", torch.ones(1), persistent=False)
    gm.register_buffer("alias", gm.dead)
    transaction = Transaction(gm.graph)
    drop_unread(gm, ["dead", "conv.weight"], transaction)
    assert not gm._buffers and "weight" in gm.conv._parameters
    assert not gm._non_persistent_buffers_set
    transaction.rollback()
    assert list(gm._buffers) == ["dead", "alias"]
    assert gm.state_dict().keys() == {"alias", "conv.weight"}


def test_what_a_called_module_holds_stays() -> None:
    gm = module()
    gm.conv.bias = nn.Parameter(torch.ones(1))
    gm.register_parameter("dead", gm.conv.bias)
    with gm.graph.inserting_before(gm.graph.output_node()):
        for target in ("conv", "gone"):
            gm.graph.create_node("call_module", target)
    drop_unread(gm, ["dead"], Transaction(gm.graph))
    assert not gm._parameters and "bias" in gm.conv._parameters


def test_what_has_no_place_in_a_module_is_left_alone() -> None:
    gm = module()
    gm.table = {"plain": torch.ones(1)}
    drop_unread(gm, ["table.plain", "gone.weight"], Transaction(gm.graph))
    assert gm.table.keys() == {"plain"} and gm.state_dict().keys() == {"conv.weight"}


def test_an_absent_parameter_takes_no_other_with_it() -> None:
    gm = module()
    gm.register_parameter("absent", None)
    gm.conv.register_parameter("bias", None)
    drop_unread(gm, ["absent"], Transaction(gm.graph))
    assert "bias" in gm.conv._parameters and "absent" in gm._parameters
