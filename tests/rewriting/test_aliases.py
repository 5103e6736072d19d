"""Storage classes and writers of whole graphs."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx, nn
from torch.ao.quantization import MinMaxObserver

from rewrite_engine import engine, loads
from rewrite_engine.matching.match import Match
from rewrite_engine.rewriting.aliases import AliasIndex, storage_keys
from rewrite_engine.rewriting.build import Built
from rewrite_engine.rewriting.removal import Removal
from rewrite_engine.rewriting.safety import Refused

aten = torch.ops.aten


def share(index: AliasIndex, a: fx.Node, b: fx.Node) -> bool:
    """Whether two values may share storage."""
    return index.classes((a,)) == index.classes((b,))


class Traced:
    """A traced function or module, its index, and its nodes by name."""

    def __init__(self, root: nn.Module | Callable[..., Any]) -> None:
        self.module = fx.symbolic_trace(root)
        self.index = AliasIndex.of(self.module.graph, self.module)

    def __getitem__(self, name: str) -> fx.Node:
        return next(node for node in self.module.graph.nodes if node.name == name)

    def same(self, a: str, b: str) -> bool:
        return share(self.index, self[a], self[b])

    def write(self, value: str, start: str, end: str, *ignoring: str) -> str | None:
        skipped = [self[name] for name in ignoring]
        values = (self[value],)
        found = self.index.writes_between(values, self[start], self[end], skipped)
        return None if found is None else found.name


def test_graph_without_writes() -> None:
    traced = Traced(lambda x: (x + 1).relu())
    assert traced.write("x", "x", "output") is None
    assert traced.index.written(traced["x"]) is None
    assert not traced.same("x", "add")


def test_write_through_a_view() -> None:
    def function(x: Tensor) -> Tensor:
        y = x + 1
        row = y.view(-1)[0]
        row.mul_(2)
        return y + x

    traced = Traced(function)
    assert traced.same("add", "getitem")
    assert traced.same("add", "mul_")
    assert not traced.same("add", "x")
    assert traced.write("add", "add", "output") == "mul_"
    assert traced.write("add", "add", "output", "mul_") is None
    assert traced.write("x", "x", "output") is None


def test_bounds_are_exclusive_and_the_first_write_is_found() -> None:
    def function(x: Tensor) -> Tensor:
        a = x.add_(1)
        b = a.mul_(2)
        return b.sub_(3)

    traced = Traced(function)
    assert traced.write("x", "x", "output") == "add_"
    assert traced.write("x", "add_", "output") == "mul_"
    assert traced.write("x", "add_", "mul_") is None
    assert traced.write("x", "x", "output", "add_", "mul_") == "sub_"
    assert traced.index.written(traced["x"]) is traced["add_"]


def test_python_operators_write() -> None:
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    copy = graph.call_function(operator.add, (x, 0))
    total = graph.call_function(operator.iadd, (copy, y))
    store = graph.call_function(operator.setitem, (total, 0, 1))
    end = graph.output(total)
    index = AliasIndex.of(graph, None)
    assert share(index, copy, total)
    assert index.writes_between((copy,), copy, end) is total
    assert index.writes_between((copy,), total, end) is store
    assert index.writes_between((x, y), x, end) is None


def test_out_argument_is_written() -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        torch.add(x, 1, out=y)
        return x * y

    traced = Traced(function)
    assert traced.write("y", "y", "output") == "add"
    assert traced.write("x", "x", "output") is None


def test_unknown_function_may_write_anything() -> None:
    def function(x: Tensor) -> Tensor:
        y = x + 1
        return y * x

    traced = Traced(function)
    graph = traced.module.graph
    with graph.inserting_before(traced["mul"]):
        opaque = graph.call_function(lambda value: value, (traced["x"],))
    traced.index.add(opaque)
    assert traced.write("add", "add", "mul") == opaque.name
    assert traced.index.written(traced["add"]) is opaque
    assert traced.same("x", opaque.name)
    traced.index.discard(opaque)
    assert traced.write("add", "add", "mul") is None


class Normalized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.other = nn.BatchNorm1d(2)
        self.other.running_mean = self.norm.running_mean

    def forward(self, x: Tensor) -> Tensor:
        mean = self.norm.running_mean
        weight = self.norm.weight
        bias = self.norm.bias
        y = self.norm(x)
        return self.other(y) + weight + mean + bias


def test_training_norm_writes_its_own_statistics() -> None:
    traced = Traced(Normalized())
    assert traced.write("norm_running_mean", "x", "output") == "norm"
    assert traced.write("norm", "norm", "output") == "other"
    assert traced.write("x", "x", "output") is None


def test_norm_in_evaluation_writes_nothing() -> None:
    traced = Traced(Normalized().eval())
    assert traced.write("norm_running_mean", "x", "output") is None


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.register_buffer("row", self.first.weight.detach()[0])

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(x)
        self.first.weight.mul_(2)
        return self.second(y) + self.row + self.first.bias


def test_attributes_are_one_value_if_they_share_storage() -> None:
    traced = Traced(Tied())
    assert traced.same("first_weight", "row")
    assert not traced.same("first_weight", "first_bias")


def test_a_called_module_reads_its_own_tensors() -> None:
    traced = Traced(Tied())
    assert traced.write("second", "second", "second_1") == "mul_"
    assert traced.write("x", "second", "second_1") is None


def test_attributes_without_a_module_are_told_apart_by_name() -> None:
    graph = fx.Graph()
    a, b, c = (graph.get_attr(name) for name in ("w", "w", "v"))
    index = AliasIndex.of(graph, None)
    assert share(index, a, b)
    assert not share(index, a, c)


def test_lifted_state() -> None:
    graph = fx.Graph()
    a, b, c = (graph.placeholder(name) for name in ("p_a", "p_b", "c"))
    shared = torch.ones(2)
    index = AliasIndex.of(graph, None, {"p_a": shared, "p_b": shared.view(2, 1)})
    assert share(index, a, b)
    assert not share(index, a, c)


def test_storage_keys() -> None:
    x = torch.ones(2, 2)
    meta = torch.ones(2, device="meta")
    assert set(storage_keys(x)) == set(storage_keys(x[1:]))
    assert set(storage_keys(meta)) == set(storage_keys(meta[1:]))
    assert set(storage_keys(meta)) != set(storage_keys(torch.ones(2, device="meta")))
    assert len(list(storage_keys(x.to_sparse()))) == 1


def test_random_effects_keep_their_order() -> None:
    def function(x: Tensor) -> Tensor:
        return F.dropout(x + 1) + F.dropout(x)

    traced = Traced(function)
    first, second = traced["dropout"], traced["dropout_1"]
    obstacle, end = traced.index.obstacle, traced["output"]
    assert obstacle(second, traced["x"], end) is first
    assert obstacle(first, traced["x"], end, (first,)) is second
    assert obstacle(second, first, second) is None


def test_what_writes_its_own_state_only_moves_past_others_of_its_kind() -> None:
    graph, root = fx.Graph(), nn.Module()
    root.a, root.b = MinMaxObserver(), MinMaxObserver()
    x = graph.placeholder("x")
    first, second, again = (graph.call_module(name, (x,)) for name in "aba")
    end = graph.output((first, second, again))
    index = AliasIndex.of(graph, root)
    assert index.obstacle(first, first, again) is None
    assert index.obstacle(first, first, end) is again
    assert index.obstacle(second, x, end, (second,)) is None


def test_readers_of_a_written_value() -> None:
    def function(x: Tensor) -> Tensor:
        y = x.view(-1)
        z = y.relu_()
        return z + x.sum() + x.new_zeros(1)

    traced = Traced(function)
    start, end = traced["relu_"], traced["output"]
    obstacle, relu = traced.index.obstacle, traced["relu_"]
    assert obstacle(relu, start, end) is traced["sum_1"]
    assert obstacle(relu, start, traced["sum_1"]) is None
    skipped = (traced["sum_1"], traced["new_zeros"], traced["add"])
    assert obstacle(relu, start, end, skipped) is None


def test_nodes_added_and_discarded_by_a_rewrite() -> None:
    traced = Traced(lambda x: (x + 1).relu().sum())
    graph = traced.module.graph
    with graph.inserting_before(traced["sum_1"]):
        view = graph.call_method("view", (traced["add"], -1))
        write = graph.call_function(aten.relu_.default, (view,))
    for node in (view, write):
        traced.index.add(node)
    assert traced.write("add", "add", "sum_1") == write.name
    traced.index.discard(write)
    assert traced.write("add", "add", "sum_1") is None


def test_joining_two_written_classes_keeps_both_writers() -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        x.add_(1)
        y.mul_(2)
        return torch.broadcast_tensors(x, y)[0]

    traced = Traced(function)
    assert traced.same("x", "y")
    assert traced.write("x", "add_", "output") == "mul_"
    assert traced.write("y", "y", "output") == "add_"


class Exported(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.linear(x).relu_())
        z = torch.cond(x.sum() > 0, lambda a: a + 1, lambda a: a - 1, (y,))
        return z + y.view(-1)[0]


def test_exported_program() -> None:
    program = torch.export.export(Exported(), (torch.randn(3, 4),))
    state = {
        name: program.state_dict[target]
        for name, target in (
            program.graph_signature.inputs_to_parameters
            | program.graph_signature.inputs_to_buffers
        ).items()
    }
    nodes = {node.name: node for node in program.graph.nodes}
    index = AliasIndex.of(program.graph, program.graph_module, state)
    end = nodes["output"]

    def writer(name: str, start: str, *ignoring: str) -> fx.Node | None:
        skipped = [nodes[skip] for skip in ignoring]
        return index.writes_between((nodes[name],), nodes[start], end, skipped)

    assert writer("linear", "linear") is nodes["relu_"]
    assert writer("linear", "relu_") is None  # the branches of cond write nothing
    assert writer("b_norm_running_mean", "x") is nodes["batch_norm"]
    assert writer("batch_norm", "batch_norm") is None
    assert share(index, nodes["batch_norm"], nodes["view"])


# --- differential test: what is predicted against what happens ---


def _one(target: Any, *literals: Any) -> Callable[..., fx.Node]:
    return lambda graph, a, b: graph.call_function(target, (a, *literals))


def _two(target: Any) -> Callable[..., fx.Node]:
    return lambda graph, a, b: graph.call_function(target, (a, b))


def _part(graph: fx.Graph, a: fx.Node, b: fx.Node) -> fx.Node:
    parts = graph.call_function(aten.split.Tensor, (a, 3))
    return graph.call_function(operator.getitem, (parts, 0))


def _broadcast(graph: fx.Graph, a: fx.Node, b: fx.Node) -> fx.Node:
    both = graph.call_function(aten.broadcast_tensors.default, ([a, b],))
    return graph.call_function(operator.getitem, (both, 1))


def _norm(training: bool) -> Callable[..., fx.Node]:
    def step(graph: fx.Graph, a: fx.Node, b: fx.Node) -> fx.Node:
        statistics = (graph.get_attr("mean"), graph.get_attr("variance"))
        args = (a, None, None, *statistics, training, 0.1, 1e-5, False)
        return graph.call_function(aten.batch_norm.default, args)

    return step


STEPS = [
    _two(aten.add.Tensor),
    _two(aten.type_as.default),
    _two(aten.view_as.default),
    _two(aten.add_.Tensor),
    _two(aten.copy_.default),
    _two(aten.set_.source_Tensor),
    _two(operator.imul),
    _one(aten.relu.default),
    _one(aten.clone.default),
    _one(aten.t.default),
    _one(aten.view.default, [3, 3]),
    _one(aten.slice.Tensor, 0, 0, 3),
    _one(aten.expand.default, [3, 3]),
    _one(aten.contiguous.default),
    _one(aten.reshape.default, [3, 3]),
    _one(aten.to.dtype, torch.float32),
    _one(aten.atleast_2d.default),
    _one(aten.dropout.default, 0.5, False),
    _one(aten.sum_to_size.default, [3, 3]),
    _one(aten._unsafe_view.default, [3, 3]),
    _one(aten.conj_physical.default),
    _one(aten.relu_.default),
    _one(aten.mul_.Scalar, 0.5),
    _one(aten.fill_.Scalar, 2.0),
    lambda graph, a, b: graph.call_function(aten.einsum.default, ("ij->ji", [a])),
    lambda graph, a, b: graph.call_function(aten.mul.out, (a, b), {"out": b}),
    lambda graph, a, b: graph.call_method("float", (a,)),
    lambda graph, a, b: graph.call_function(F.hardtanh, (a,), {"inplace": True}),
    _part,
    _broadcast,
    _norm(training=True),
    _norm(training=False),
]


def random_module(rng: random.Random) -> fx.GraphModule:
    """A module over 3 x 3 matrices, full of views and writes."""
    root = nn.Module()
    root.register_buffer("mean", torch.zeros(3))
    root.register_buffer("variance", torch.ones(3))
    graph = fx.Graph()
    values = [graph.placeholder(name) for name in ("x", "y")]
    for _ in range(12):
        a, b = rng.choices(values, k=2)
        values.append(rng.choice(STEPS)(graph, a, b))
    graph.output(values[-1])
    return fx.GraphModule(root, graph)


class Witness(fx.Interpreter):
    """Runs a graph and asserts that its index predicted all that happened."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.index = AliasIndex.of(module.graph, module)
        self.writes = self.shares = 0

    def run_node(self, n: fx.Node) -> Any:
        live = {k: v for k, v in self.env.items() if isinstance(v, Tensor)}
        before = {k: (v._version, v.clone()) for k, v in live.items()}
        result = super().run_node(n)
        if n.op == "output":
            return result
        for node, (version, copy) in before.items():
            if live[node]._version != version or not live[node].equal(copy):
                assert self.index.writes_between((node,), n.prev, n.next) is n
                self.writes += 1
        for node in live:
            if isinstance(result, Tensor) and self._share(result, live[node]):
                assert share(self.index, n, node)
                self.shares += 1
        return result

    def _share(self, a: Tensor, b: Tensor) -> bool:
        return set(storage_keys(a)) == set(storage_keys(b))


@pytest.mark.parametrize("seed", range(5))
def test_predictions_hold_when_random_graphs_run(seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    writes = shares = 0
    with torch.no_grad():
        for _ in range(60):
            witness = Witness(random_module(rng))
            try:
                witness.run(torch.rand(3, 3), torch.rand(3, 3))
            except RuntimeError as error:  # a write to overlapping memory
                assert "memory" in str(error)
            writes += witness.writes
            shares += witness.shares
    assert writes > 300
    assert shares > 300


def test_what_is_taken_back_is_indexed_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rewrite that is refused when its nodes are there and the old ones gone."""
    indices = []

    remove = Removal.remove

    def refuse(removal: Removal, match: Match, built: Built) -> None:
        remove(removal, match, built)
        indices.append(removal.aliases)
        raise Refused("late")

    monkeypatch.setattr(Removal, "remove", refuse)
    graph = fx.Graph()
    x = graph.placeholder("x")
    first = graph.call_function(aten.add_.Tensor, (x, 1))
    graph.output(x)
    gm = fx.GraphModule(torch.nn.Module(), graph)
    rules = loads(
        "op plus = aten.add_.Tensor\n"
        "rule r { y = plus(x, $k, ..) => y' = plus(x, $k, ..y) }"
    )
    assert [r.reason for r in engine.apply(gm, rules).report.refusals] == ["late"]
    expected = AliasIndex.of(graph, gm)
    assert indices[0]._effectful == expected._effectful != []
    assert indices[0].written(x) is expected.written(x) is first
