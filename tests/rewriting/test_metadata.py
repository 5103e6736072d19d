"""What new nodes take over from old ones, and what they never share."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import fx
from torch.fx.traceback import NodeSource, NodeSourceAction

from rewrite_engine.rewriting.metadata import (
    copy_keys,
    fill,
    inherit,
    place_of,
    provenance,
)


class Annotation:
    def __init__(self, input_qspec_map: dict[Any, Any]) -> None:
        self.input_qspec_map = input_qspec_map


@pytest.fixture
def pair() -> tuple[fx.Node, fx.Node]:
    graph = fx.Graph()
    old = graph.placeholder("old")
    old.meta.update(
        val=torch.ones(1),
        tensor_meta="t",
        from_node=[NodeSource(None, "before")],
        nn_module_stack={"L": ("m", "M")},
        stack_trace="line 1",
        source_fn_stack=[("conv", "fn")],
        torch_fn=("conv_1", "conv"),
        custom={"region": {"a": [1]}},
        quantization_annotation=Annotation({old: 1}),
    )
    return graph.placeholder("new"), old


def test_inherit_takes_all_but_the_value_and_the_history(
    pair: tuple[fx.Node, fx.Node],
) -> None:
    new, old = pair
    inherit(new, old)
    assert set(old.meta) - set(new.meta) == {"val", "tensor_meta", "from_node"}
    assert list(new.meta) == [key for key in old.meta if key in new.meta]
    assert new.meta["source_fn_stack"] == [("conv", "fn")]


def test_inherited_containers_are_not_shared(pair: tuple[fx.Node, fx.Node]) -> None:
    new, old = pair
    inherit(new, old)
    new.meta["custom"]["region"]["a"].append(2)
    new.meta["nn_module_stack"]["K"] = ("k", "K")
    new.meta["source_fn_stack"].append(("x", "y"))
    new.meta["quantization_annotation"].input_qspec_map.clear()
    assert old.meta["custom"] == {"region": {"a": [1]}}
    assert old.meta["nn_module_stack"] == {"L": ("m", "M")}
    assert old.meta["source_fn_stack"] == [("conv", "fn")]
    assert old.meta["quantization_annotation"].input_qspec_map == {old: 1}


def test_what_is_neither_a_container_nor_an_annotation_is_shared(
    pair: tuple[fx.Node, fx.Node],
) -> None:
    new, old = pair
    old.meta.update(mark=object(), names={"a", "b"})
    inherit(new, old)
    assert new.meta["mark"] is old.meta["mark"]
    assert new.meta["names"] == old.meta["names"] is not new.meta["names"]


def test_fill_places_a_node_without_overwriting(pair: tuple[fx.Node, fx.Node]) -> None:
    new, old = pair
    nameless = old.graph.placeholder("nameless")
    new.meta["stack_trace"] = "mine"
    fill(new, place_of([nameless, old]))
    assert new.meta["stack_trace"] == "mine"
    assert new.meta["nn_module_stack"] == old.meta["nn_module_stack"]
    assert new.meta["nn_module_stack"] is not old.meta["nn_module_stack"]
    absent = {"quantization_annotation", "source_fn_stack", "torch_fn", "val"}
    assert not absent & set(new.meta)


def test_copy_keys_copies_what_there_is_but_never_a_value(
    pair: tuple[fx.Node, fx.Node],
) -> None:
    new, old = pair
    copy_keys(new, old, ["torch_fn", "val", "missing"])
    assert new.meta == {"torch_fn": ("conv_1", "conv")}


def test_provenance_names_the_rule_and_the_replaced_node(
    pair: tuple[fx.Node, fx.Node],
) -> None:
    _, old = pair
    (source,) = provenance("fuse (qat.rules:12)", [old])
    assert source.pass_name == "fuse (qat.rules:12)"
    assert source.name == "old"
    assert source.action == [NodeSourceAction.REPLACE, NodeSourceAction.CREATE]
    assert [entry.pass_name for entry in source.from_node] == ["before"]


def test_provenance_of_nothing_still_names_the_rule() -> None:
    (source,) = provenance("make (a.rules:1)", [])
    assert source.pass_name == "make (a.rules:1)"
    assert source.action == [NodeSourceAction.CREATE]


def test_provenance_survives_copies_and_prints(pair: tuple[fx.Node, fx.Node]) -> None:
    sources = provenance("fuse (qat.rules:12)", [pair[1]])
    assert copy.deepcopy(sources) == sources
    assert pickle.loads(pickle.dumps(sources)) == sources
    assert "fuse (qat.rules:12)" in repr(sources)


def test_a_history_of_many_rewrites_stays_short() -> None:
    graph = fx.Graph()
    nodes = [graph.placeholder("a"), graph.placeholder("b")]
    for step in range(100):
        sources = provenance(f"again (r.rules:{step})", nodes)
        for node in nodes:
            node.meta["from_node"] = list(sources)
    assert size_of(nodes[0].meta["from_node"]) <= 2 * 65


def size_of(sources: list[NodeSource]) -> int:
    return sum(1 + size_of(source.from_node) for source in sources)


def test_provenance_survives_export_save() -> None:
    program = torch.export.export(torch.nn.ReLU(), (torch.ones(2),))
    relu = next(n for n in program.graph.nodes if n.op == "call_function")
    relu.meta["from_node"] = provenance("fuse (qat.rules:12)", [relu])
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file)
    again = next(n for n in loaded.graph.nodes if n.op == "call_function")
    assert again.meta["from_node"][0].pass_name == "fuse (qat.rules:12)"
