"""References to nodes in metadata follow the rewrites."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, NamedTuple

import attrs
import pytest
import torch
from torch import fx

from rewrite_engine import engine, loads
from rewrite_engine.rewriting.annotations import keep_output_spec, retarget

aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Note:
    """A user's own frozen record that names a node."""

    about: Any
    text: str = "n"


@attrs.frozen
class AttrsNote:
    about: Any


class Pair(NamedTuple):
    first: Any
    second: Any


class PlainSpec:
    """No dataclass: recognised by its attribute."""

    def __init__(self, edge_or_node: Any) -> None:
        self.edge_or_node = edge_or_node


@dataclasses.dataclass
class Annotation:
    input_qspec_map: dict[Any, Any]
    output_qspec: Any = None


@pytest.fixture
def nodes() -> dict[str, fx.Node]:
    graph = fx.Graph()
    names = "x w b ws zeros conv conv2 conv3 relu other"
    return {name: graph.placeholder(name) for name in names.split()}


def moved_value(value: Any, nodes: dict[str, fx.Node]) -> Any:
    """`value`, held by `relu`, after `conv` became `conv2` and `w` there `ws`."""
    owner = nodes["relu"]
    owner.meta["note"] = value
    list(retarget([owner], {nodes["conv"]: nodes["conv2"]}, conv_edges(nodes)))
    return owner.meta["note"]


def conv_edges(n: dict[str, fx.Node]) -> dict[Any, Any]:
    return {
        (n["x"], n["conv"]): (n["x"], n["conv2"]),
        (n["w"], n["conv"]): (n["ws"], n["conv2"]),
        (n["b"], n["conv"]): (n["zeros"], n["conv2"]),
    }


def test_a_moved_node_is_followed_in_any_structure(nodes: dict[str, fx.Node]) -> None:
    old, new = nodes["conv"], nodes["conv2"]
    assert moved_value(old, nodes) is new
    assert moved_value([old, 1], nodes) == [new, 1]
    assert moved_value({old: {"k": (old, 2)}}, nodes) == {new: {"k": (new, 2)}}
    assert moved_value({old}, nodes) == {new}
    assert moved_value(Pair(old, 3), nodes) == Pair(new, 3)
    assert moved_value(Note(old), nodes) == Note(new)
    assert moved_value(AttrsNote(old), nodes) == AttrsNote(new)
    assert moved_value(PlainSpec(old), nodes).edge_or_node is new


def test_edges_follow_operand_by_operand(nodes: dict[str, fx.Node]) -> None:
    n = nodes
    assert moved_value(Note((n["w"], n["conv"])), n).about == (n["ws"], n["conv2"])
    assert moved_value(Note((n["x"], n["conv"])), n).about == (n["x"], n["conv2"])
    assert moved_value(Note((n["conv"], n["relu"])), n).about == (
        n["conv2"],
        n["relu"],
    )


def test_a_value_that_lives_on_keeps_its_name(nodes: dict[str, fx.Node]) -> None:
    note = Note(nodes["w"])
    assert moved_value(note, nodes) is note
    elsewhere = Note((nodes["w"], nodes["other"]))
    assert moved_value(elsewhere, nodes) is elsewhere


def test_rewrites_of_rewrites_compose(nodes: dict[str, fx.Node]) -> None:
    n = nodes
    moved = {n["conv"]: n["conv2"], n["conv2"]: n["conv3"]}
    edges = conv_edges(n) | {(n["ws"], n["conv2"]): (n["other"], n["conv3"])}
    n["relu"].meta["note"] = [(n["w"], n["conv"]), n["conv"], (n["ws"], n["conv2"])]
    list(retarget([n["relu"]], moved, edges))
    assert n["relu"].meta["note"] == [
        (n["other"], n["conv3"]),
        n["conv3"],
        (n["other"], n["conv3"]),
    ]


def test_an_edge_whose_operand_moved_first_is_found(nodes: dict[str, fx.Node]) -> None:
    n = nodes
    n["relu"].meta["note"] = Note((n["x"], n["conv"]))
    edges = {(n["other"], n["conv"]): (n["other"], n["conv2"])}
    list(retarget([n["relu"]], {n["x"]: n["other"], n["conv"]: n["conv2"]}, edges))
    assert n["relu"].meta["note"].about == (n["other"], n["conv2"])


def test_nothing_shared_is_written_and_restoring_undoes_all(
    nodes: dict[str, fx.Node],
) -> None:
    shared = Note(nodes["conv"])
    before = [shared, {"k": [nodes["conv"]]}]
    owners = [nodes["relu"], nodes["other"]]
    for owner in owners:
        owner.meta["a"], owner.meta["b"] = before
    undo = list(retarget(owners, {nodes["conv"]: nodes["conv2"]}, {}))
    assert shared.about is nodes["conv"]
    assert before[1] == {"k": [nodes["conv"]]}
    assert all(owner.meta["a"].about is nodes["conv2"] for owner in owners)
    for entry in reversed(undo):
        entry.restore()
    assert len(undo) == 4
    assert all(owner.meta["a"] is shared for owner in owners)
    assert all(owner.meta["b"] is before[1] for owner in owners)


@pytest.mark.parametrize("key", ["val", "from_node", "nn_module_stack"])
def test_values_and_history_are_left_alone(key: str, nodes: dict[str, fx.Node]) -> None:
    nodes["relu"].meta[key] = held = [nodes["conv"]]
    assert list(retarget([nodes["relu"]], {nodes["conv"]: nodes["conv2"]}, {})) == []
    assert nodes["relu"].meta[key] is held


def test_values_without_references_are_kept_as_they_are(
    nodes: dict[str, fx.Node],
) -> None:
    value = {"a": [1, Note("t")], "b": torch.ones(1), "c": torch.nn.ReLU()}
    assert moved_value(value, nodes) is value


def test_dictionaries_keep_their_kind(nodes: dict[str, fx.Node]) -> None:
    value = collections.defaultdict(list, {nodes["conv"]: 1})
    moved = moved_value(value, nodes)
    assert moved == {nodes["conv2"]: 1} and moved.default_factory is list
    assert value == {nodes["conv"]: 1}


def test_keys_of_operands_may_be_names(nodes: dict[str, fx.Node]) -> None:
    moved = moved_value(Annotation({"x": nodes["conv"], nodes["conv"]: 1}), nodes)
    assert moved.input_qspec_map == {"x": nodes["conv2"], nodes["conv2"]: 1}


def test_a_rewrite_moves_what_is_said_of_operands() -> None:
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    add = graph.call_function(aten.add.Tensor, (x,), {"other": y})
    reader = graph.call_function(aten.neg.default, (add,))
    add.meta["note"] = Annotation({x: "of x", y: "of y"}, Note([(x, add)]))
    reader.meta["note"] = Annotation({add: Note((y, add))})
    graph.output(reader)
    gm = fx.GraphModule(torch.nn.Module(), graph)
    rule = "z = add(x, y) => z' = add(relu(x), other=sigmoid(y), ..z)"
    assert engine.apply(gm, loads(f"rule r once {{ {rule} }}")).modified
    new = reader.args[0]
    assert [op.target for op in new.all_input_nodes] == [
        aten.relu.default,
        aten.sigmoid.default,
    ]
    relu, sigmoid = new.all_input_nodes
    assert new.meta["note"] == Annotation(
        {relu: "of x", sigmoid: "of y"}, Note([(relu, new)])
    )
    assert reader.meta["note"] == Annotation({new: Note((sigmoid, new))})


def test_metadata_of_another_node_leaves_a_value_its_own_spec() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    inner = graph.call_function(aten.neg.default, (x,))
    outer = graph.call_function(aten.relu.default, (inner,))
    key = "quantization_annotation"
    inner.meta[key] = Annotation({x: "of x"}, "of inner")
    outer.meta[key] = Annotation({inner: "of inner"}, "of outer")
    graph.output(outer)
    gm = fx.GraphModule(torch.nn.Module(), graph)
    rule = "a = neg(x)  z = relu(a) => z' = abs(x)  meta z' <- a"
    assert engine.apply(gm, loads(f"rule r once {{ {rule} }}")).modified
    (new,) = graph.find_nodes(op="call_function", target=aten.abs.default)
    assert new.meta[key] == Annotation({x: "of x"}, "of outer")


def test_a_structure_that_contains_itself_ends(nodes: dict[str, fx.Node]) -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    assert moved_value(loop, nodes) is loop


class TestQuantizationAnnotations:
    """With the classes of torchao, which the engine itself never imports."""

    @pytest.fixture
    def q(self) -> Any:
        return pytest.importorskip("torchao.quantization.pt2e.quantizer")

    def specs(self, q: Any, n: dict[str, fx.Node]) -> tuple[Any, Any, Any]:
        act = q.QuantizationSpec(torch.int8, torch.ao.quantization.MinMaxObserver)
        weight = q.QuantizationSpec(
            torch.int8, torch.ao.quantization.MinMaxObserver, -127, 127
        )
        bias = q.DerivedQuantizationSpec(
            derived_from=[(n["x"], n["conv"]), (n["w"], n["conv"])],
            derive_qparams_fn=max,
            dtype=torch.int32,
        )
        return act, weight, bias

    @pytest.mark.parametrize("order", ["xwb", "bwx", "wbx"])
    def test_operands_by_identity_not_by_position(
        self, q: Any, nodes: dict[str, fx.Node], order: str
    ) -> None:
        n = nodes
        act, weight, bias = self.specs(q, n)
        specs = {"x": act, "w": weight, "b": bias}
        annotation = q.QuantizationAnnotation(
            {n[name]: specs[name] for name in order}, output_qspec=act, _annotated=True
        )
        n["conv2"].meta["quantization_annotation"] = annotation
        list(retarget([n["conv2"]], {n["conv"]: n["conv2"]}, conv_edges(n)))
        new = n["conv2"].meta["quantization_annotation"]
        assert new.input_qspec_map[n["x"]] is act
        assert new.input_qspec_map[n["ws"]] is weight
        assert new.input_qspec_map[n["zeros"]].derived_from == [
            (n["x"], n["conv2"]),
            (n["ws"], n["conv2"]),
        ]
        assert len(new.input_qspec_map) == 3
        assert new.output_qspec is act
        assert new._annotated
        assert n["w"] in annotation.input_qspec_map

    def test_another_reader_of_the_weight_keeps_its_key(
        self, q: Any, nodes: dict[str, fx.Node]
    ) -> None:
        n = nodes
        _, weight, _ = self.specs(q, n)
        annotation = q.QuantizationAnnotation({n["w"]: weight})
        n["other"].meta["quantization_annotation"] = annotation
        list(retarget([n["other"]], {n["conv"]: n["conv2"]}, conv_edges(n)))
        assert n["other"].meta["quantization_annotation"] is annotation

    def test_shared_specs_outside_the_match(
        self, q: Any, nodes: dict[str, fx.Node]
    ) -> None:
        n = nodes
        annotation = q.QuantizationAnnotation(
            {n["conv"]: q.SharedQuantizationSpec((n["w"], n["conv"]))},
            output_qspec=q.SharedQuantizationSpec(n["conv"]),
        )
        n["relu"].meta["quantization_annotation"] = annotation
        list(retarget([n["relu"]], {n["conv"]: n["conv2"]}, conv_edges(n)))
        new = n["relu"].meta["quantization_annotation"]
        assert new.input_qspec_map == {
            n["conv2"]: q.SharedQuantizationSpec((n["ws"], n["conv2"]))
        }
        assert new.output_qspec == q.SharedQuantizationSpec(n["conv2"])

    def test_keys_compose_over_two_rewrites(
        self, q: Any, nodes: dict[str, fx.Node]
    ) -> None:
        n = nodes
        _, weight, _ = self.specs(q, n)
        n["conv3"].meta["quantization_annotation"] = q.QuantizationAnnotation(
            {n["w"]: weight}
        )
        edges = conv_edges(n) | {(n["ws"], n["conv2"]): (n["other"], n["conv3"])}
        list(retarget([n["conv3"]], {}, edges))
        new = n["conv3"].meta["quantization_annotation"]
        assert new.input_qspec_map == {n["other"]: weight}


def test_a_value_is_quantized_as_its_annotation_says(nodes: dict[str, fx.Node]) -> None:
    conv, norm, x = nodes["conv"], nodes["relu"], nodes["x"]
    key = "quantization_annotation"
    keep_output_spec(conv, norm)
    assert key not in conv.meta
    norm.meta[key] = Annotation({conv: 1}, "int8")
    keep_output_spec(conv, norm)
    assert conv.meta[key] == Annotation({}, "int8")
    conv.meta[key] = mine = Annotation({x: 2})
    keep_output_spec(conv, norm)
    assert conv.meta[key] == Annotation({x: 2}, "int8")
    assert mine.output_qspec is None and norm.meta[key].input_qspec_map == {conv: 1}
