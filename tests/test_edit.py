"""The quick edits leave what fx's own functions leave."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import fx

from rewrite_engine import edit
from tests.graphs import graph_of

aten = torch.ops.aten


def chain() -> fx.GraphModule:
    return graph_of(
        lambda f, x, y: f(aten.cat.default, ([f(aten.add.Tensor, (x, y)), x, y], 1))
    )


def state(graph: fx.Graph) -> dict[str, Any]:
    names = vars(graph._graph_namespace)
    found = graph.find_nodes(op="call_function", target=aten.cat.default)
    return {
        "nodes": list(map(described, graph.nodes)),
        "names": {k: str(v) if k == "_obj_to_name" else v for k, v in names.items()},
        "found": list(map(str, found)),
        "length": len(graph.nodes),
    }


def described(node: fx.Node) -> tuple[Any, ...]:
    args, kwargs = node.args, node.kwargs
    users = list(map(str, node.users))
    shown = str(args), str(kwargs), type(kwargs), [type(arg) for arg in args], users
    return node.name, node.op, node.target, node.type, node._erased, *shown


def test_the_internals_of_this_torch_are_known() -> None:
    assert edit._INTERNALS_KNOWN


@pytest.mark.parametrize("name", [None, "add", "mul", "print", "cat_1", "new-name"])
@pytest.mark.parametrize(
    ("op", "target"),
    [
        ("call_function", aten.cat.default),
        ("call_function", operator.getitem),
        ("call_method", "cat"),
        ("get_attr", "layer.weight"),
    ],
)
@pytest.mark.parametrize("with_operands", [False, True])
def test_create(op: str, target: Any, name: str | None, with_operands: bool) -> None:
    states = []
    for known in (True, False):
        module = chain()
        x, y, total, *_ = module.graph.nodes
        args = ([x, y, 3], total) if with_operands else ()
        kwargs = {"out": y, "sizes": [1]} if with_operands else {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(edit, "_INTERNALS_KNOWN", known)
            node = edit.new_node(module.graph, op, target, name)
            edit.insert(node, total.next, args, kwargs)
        assert total.next is node
        assert module.graph._graph_namespace._obj_to_name[node] == node.name
        states.append(state(module.graph))
    assert states[0] == states[1]


def test_create_tells_the_observers_of_the_module() -> None:
    module = chain()
    seen: list[fx.Node] = []
    module._register_create_node_hook(seen.append)
    before = module.graph.output_node()
    node = edit.new_node(module.graph, "call_function", aten.relu.default)
    edit.insert(node, before, (before.prev,), {})
    assert seen == [node]


def test_set_arguments() -> None:
    states = []
    for known in (True, False):
        graph = chain().graph
        x, _, total, joined, _ = graph.nodes
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(edit, "_INTERNALS_KNOWN", known)
            edit.set_arguments(joined, ([x, x, total],), {"dim": 0})
        states.append(state(graph))
    assert states[0] == states[1]


def test_a_target_is_set_however_far_an_attempt_came() -> None:
    graph = chain().graph
    joined, before = graph.output_node().prev, state(graph)
    graph._find_nodes_lookup_table.remove(joined)
    edit.set_target(joined, joined.target)
    assert state(graph) == before
    edit.set_target(joined, aten.stack.default)
    edit.set_target(joined, aten.cat.default)
    assert state(graph) == before


def test_insert_again_undoes_an_erasure() -> None:
    graph = chain().graph
    joined = graph.output_node().prev
    graph.output_node().args = (None,)
    edit.set_arguments(joined, (), {})
    before = state(graph)
    following = joined.next
    graph.erase_node(joined)
    assert state(graph) != before
    edit.insert_again(joined, following)
    assert state(graph) == before


def test_erase() -> None:
    states = []
    for known in (True, False):
        module = chain()
        seen: list[fx.Node] = []
        module._register_erase_node_hook(seen.append)
        joined = module.graph.output_node().prev
        module.graph.output_node().args = (None,)
        edit.set_arguments(joined, (), {})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(edit, "_INTERNALS_KNOWN", known)
            edit.erase(joined)
        assert seen == [joined]
        assert joined._erased
        states.append(state(module.graph))
    assert states[0] == states[1]


@pytest.mark.parametrize("taken", [(), ("add",), ("add", "add_1", "add_3")])
@pytest.mark.parametrize("name", ["add", "add_1", "add_3", "a_1_2", "_1", "print", "é"])
def test_unique_names_are_those_of_fx(name: str, taken: tuple[str, ...]) -> None:
    found = []
    for known in (True, False):
        names = fx.graph._Namespace()
        for other in taken:
            names.create_name(other, None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(edit, "_INTERNALS_KNOWN", known)
            given = [edit.unique_name(names, name) for _ in range(3)]
        found.append((given, names._used_names, names._base_count))
    assert found[0] == found[1]


@pytest.mark.parametrize("known", [True, False])
def test_append_is_what_the_graph_itself_does(
    known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edit, "_INTERNALS_KNOWN", known)
    ours, theirs = fx.Graph(), fx.Graph()
    x = edit.append(ours, "placeholder", "x")
    y = edit.append_call(ours, aten.relu.default, (x,))
    z = edit.append_call(ours, aten.cat.default, ([x, y],), {"dim": 1}, "joined")
    edit.append(ours, "output", "output", ((z,),))
    x = theirs.placeholder("x")
    y = theirs.call_function(aten.relu.default, (x,))
    args = "call_function", aten.cat.default, ([x, y],), {"dim": 1}, "joined"
    theirs.output((theirs.create_node(*args),))
    assert state(ours) == state(theirs)
    ours.lint()
