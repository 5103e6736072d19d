"""Values derived for new nodes equal those of a run, in the graph's fake mode."""

from __future__ import annotations

import itertools
import logging
import operator
import threading
from typing import Any

import pytest
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from rewrite_engine import engine, load
from rewrite_engine.rewriting import calls, fake_runs
from rewrite_engine.rewriting.fake_runs import ValueInferenceError
from rewrite_engine.rewriting.values import ValueTypes
from rewrite_engine.tensor_types import compatible, type_of

aten = torch.ops.aten


class Sketch:
    """A graph whose placeholders have fake values."""

    def __init__(self, *tensors: torch.Tensor, key: str = "val") -> None:
        self.mode = FakeTensorMode()
        self.module = fx.GraphModule(torch.nn.Module(), fx.Graph())
        self.graph = self.module.graph
        self.inputs = [self.graph.placeholder(f"x{i}") for i in range(len(tensors))]
        for node, tensor in zip(self.inputs, tensors, strict=True):
            node.meta[key] = self.mode.from_tensor(tensor)
        self.types = ValueTypes(self.module)

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = self.graph.call_function(target, args, kwargs)
        self.types.infer(node)
        return node


def runs_of(sketch: Sketch, monkeypatch: pytest.MonkeyPatch) -> list[fx.Node]:
    """The nodes whose operator is run, filled as it happens."""
    run, ran = sketch.types._run, []

    def recorded(node: fx.Node) -> Any:
        ran.append(node)
        return run(node)

    monkeypatch.setattr(sketch.types, "_run", recorded)
    return ran


SHAPES: list[tuple[int, ...]] = [(), (1,), (3,), (2, 3), (2, 1), (1, 3), (4, 2, 3)]
SHAPES += [(1, 1), (0, 3), (4, 1, 1)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool]
OPERATORS = [aten.add.Tensor, aten.div.Tensor, aten.ne.Tensor, aten.pow.Tensor_Tensor]


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
@pytest.mark.parametrize("dtypes", list(itertools.combinations(DTYPES, 2)), ids=str)
def test_elementwise_results_equal_real_ones(operator: Any, dtypes: Any) -> None:
    pairs = list(itertools.product(SHAPES, repeat=2))
    tensors = [torch.ones(a, dtype=dtypes[0]) for a, _ in pairs]
    others = [torch.ones(b, dtype=dtypes[1]) for _, b in pairs]
    sketch = Sketch(*tensors, *others)
    for i, (left, right) in enumerate(zip(tensors, others, strict=True)):
        args = sketch.inputs[i], sketch.inputs[i + len(pairs)]
        try:
            expected = operator(left, right)
        except RuntimeError:
            with pytest.raises(ValueInferenceError):
                sketch.call(operator, *args)
            continue
        assert type_of(sketch.call(operator, *args).meta["val"]) == type_of(expected)


@pytest.mark.parametrize(
    ("operator", "args"),
    [
        (aten.add.Tensor, (1e-3,)),
        (aten.add.Tensor, (1,)),
        (aten.ne.Scalar, (0,)),
        (aten.sqrt.default, ()),
        (aten.zeros_like.default, ()),
        (aten.clone.default, ()),
        (aten.reshape.default, ([-1, 1],)),
        (aten.reshape.default, ([-1],)),
        (aten.sum.dim_IntList, ([0],)),
        (aten.permute.default, ([1, 0],)),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64], ids=str)
def test_calls_on_one_tensor_equal_real_ones(
    operator: Any, args: tuple[Any, ...], dtype: torch.dtype
) -> None:
    dense = [torch.ones(3, 4), torch.ones(5, 6), torch.ones(1, 2), torch.ones(4, 1)]
    dense += [torch.ones(6, 3).t(), torch.ones(4, 8)[:, ::2], torch.ones(4, 8)[1:3]]
    tensors = [tensor.to(dtype) for tensor in dense]
    sketch = Sketch(*tensors)
    for _ in range(2):
        for node, tensor in zip(sketch.inputs, tensors, strict=True):
            value = sketch.call(operator, node, *args).meta["val"]
            assert type_of(value) == type_of(operator(tensor, *args))
            assert value.fake_mode is sketch.mode


def test_an_elementwise_operator_is_run_once_for_all_shapes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "_DTYPES", {})
    sketch = Sketch(torch.ones(2, 3), torch.ones(4, 5), torch.ones(6))
    ran = runs_of(sketch, monkeypatch)
    results = [sketch.call(aten.add.Tensor, x, 1e-3) for x in sketch.inputs]
    assert ran == results[:1]
    sketch.call(aten.add.Tensor, sketch.inputs[0], True)
    assert len(ran) == 2


def test_a_reshape_shares_memory_and_other_results_do_not() -> None:
    sketch = Sketch(torch.ones(2, 3))
    base = sketch.inputs[0].meta["val"]
    view = sketch.call(aten.reshape.default, sketch.inputs[0], [3, -1]).meta["val"]
    first = sketch.call(aten.sqrt.default, sketch.inputs[0]).meta["val"]
    second = sketch.call(aten.sqrt.default, sketch.inputs[0]).meta["val"]
    memory = [v.untyped_storage()._cdata for v in (base, view, first, second)]
    assert memory[0] == memory[1]
    assert len(set(memory)) == 3


def test_a_wrong_call_says_why() -> None:
    sketch = Sketch(torch.ones(2, 3), torch.ones(4))
    with pytest.raises(ValueInferenceError, match="cannot be derived") as caught:
        sketch.call(aten.add.Tensor, *sketch.inputs)
    assert caught.value.reason
    assert "\n" not in caught.value.reason
    with pytest.raises(ValueInferenceError):
        sketch.call(aten.reshape.default, sketch.inputs[0], [4, -1])


def test_module_calls_and_shape_changing_writes_are_refused() -> None:
    sketch = Sketch(torch.ones(2, 3))
    with pytest.raises(ValueInferenceError, match="shape of its operand"):
        sketch.call(aten.t_.default, sketch.inputs[0])
    assert sketch.inputs[0].meta["val"].shape == (2, 3)
    node = sketch.graph.create_node("call_module", "m", (sketch.inputs[0],))
    with pytest.raises(ValueInferenceError, match="calls a module"):
        sketch.types.infer(node)


def test_methods_are_run() -> None:
    sketch = Sketch(torch.ones(2, 3))
    node = sketch.graph.call_method("sum", (sketch.inputs[0], 1))
    sketch.types.infer(node)
    assert node.meta["val"].shape == (2,)


def test_like_is_taken_over_only_for_the_same_call() -> None:
    sketch = Sketch(torch.ones(2, 3), torch.ones(2, 3), torch.ones(4))
    x, same, other = sketch.inputs
    like = sketch.call(aten.sum.dim_IntList, x, [0])
    for args, taken in [
        ((same, [0]), True),
        ((same, [1]), False),
        ((other, [0]), False),
    ]:
        node = sketch.graph.call_function(aten.sum.dim_IntList, args)
        sketch.types.infer(node, like=like)
        assert (node.meta["val"] is like.meta["val"]) is taken


def test_literals_that_are_no_numbers_count() -> None:
    sketch = Sketch(torch.ones(2, 3))
    for dtype in (torch.float16, torch.float64, torch.float16):
        node = sketch.call(aten._to_copy.default, sketch.inputs[0], dtype=dtype)
        assert node.meta["val"].dtype == dtype


def test_what_is_elementwise_for_some_sizes_only_is_run() -> None:
    """A product of square matrices has the shape of a sum of them."""
    sketch = Sketch(torch.ones(3, 3), torch.ones(1, 3))
    square, row = sketch.inputs
    for x in (square, row):
        node = sketch.call(aten.mm.default, x, square)
        assert node.meta["val"].shape == x.meta["val"].shape


def test_operands_that_are_no_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    sketch = Sketch(torch.ones(2, 3))
    ran = runs_of(sketch, monkeypatch)
    pair = sketch.call(aten.max.dim, sketch.inputs[0], 1)
    assert [value.dtype for value in pair.meta["val"]] == [torch.float32, torch.int64]
    for index, dtype in enumerate([torch.float32, torch.int64]):
        node = sketch.call(operator.getitem, pair, index)
        assert node.meta["val"].dtype == dtype
    size = sketch.call(aten.sym_size.int, sketch.inputs[0], 1)
    doubled = sketch.call(operator.mul, size, 2)
    assert (size.meta["val"], doubled.meta["val"]) == (3, 6)
    flat = sketch.call(aten.view.default, sketch.inputs[0], [doubled])
    assert flat.meta["val"].shape == (6,)
    assert ran == [n for n in sketch.graph.nodes if n not in (*sketch.inputs, flat)]


def test_dynamic_numbers_are_told_apart_by_what_they_are() -> None:
    gm = exported(dynamic_shapes=({0: torch.export.Dim("n")},))
    types = ValueTypes(gm)
    relu = next(n for n in gm.graph.nodes if n.name == "relu")
    size = gm.graph.call_function(aten.sym_size.int, (relu, 0))
    types.infer(size)
    for factor in (1, 2, 3, 2):
        number = gm.graph.call_function(operator.mul, (size, factor))
        full = gm.graph.call_function(aten.full.default, ([number], 1.0))
        types.infer(number)
        types.infer(full)
        assert str(full.meta["val"].shape[0]) == str(number.meta["val"])
        flat = gm.graph.call_function(aten.reshape.default, (full, [number, 1]))
        types.infer(flat)
        assert str(flat.meta["val"].shape[0]) == str(number.meta["val"])
    assert len({str(n.meta["val"]) for n in gm.graph.nodes if n.target is full.target})


def test_values_that_cannot_be_hashed_equal_no_others() -> None:
    assert calls.identity({}) != calls.identity({})
    assert calls.identity([1, {}]) != calls.identity([1, {}])
    assert calls.identity([1, (2.0, None)]) == calls.identity((1, [2.0, None]))
    assert calls.identity(1) != calls.identity(1.0) != calls.identity(True)


def test_dtypes_of_many_calls_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_DTYPES", known := {})
    monkeypatch.setattr(calls, "_MOST_DTYPES", 2)
    sketch = Sketch(torch.ones(2, 3))
    for number in range(5):
        node = sketch.call(aten.add.Tensor, sketch.inputs[0], number)
        assert node.meta["val"].dtype == torch.float32
    assert len(known) == 1


class OwnParameter(torch.nn.Parameter):
    pass


@pytest.mark.parametrize(
    "tensor",
    [torch.eye(2).to_sparse(), OwnParameter(torch.eye(2))],
    ids=["sparse", "own"],
)
def test_constants_of_other_kinds_are_recorded_as_torch_does(
    tensor: torch.Tensor,
) -> None:
    sketch = Sketch(torch.ones(2))
    found, wanted = sketch.types.of_tensor(tensor), sketch.mode.from_tensor(tensor)
    assert type(found) is type(wanted) and found.layout is tensor.layout
    assert found.requires_grad is tensor.requires_grad


def test_a_graph_without_values_stays_without() -> None:
    graph = fx.Graph()
    node = graph.call_function(aten.neg.default, (graph.placeholder("x"),))
    types = ValueTypes(fx.GraphModule(torch.nn.Module(), graph))
    types.infer(node)
    assert node.meta == {}
    assert types.of_tensor(torch.ones(2)) is None


def test_an_operand_without_a_value_leaves_the_result_without() -> None:
    sketch = Sketch(torch.ones(2))
    node = sketch.call(aten.add.Tensor, sketch.inputs[0], sketch.graph.placeholder("y"))
    assert "val" not in node.meta


def test_the_key_of_dynamo_is_kept() -> None:
    sketch = Sketch(torch.ones(2), key="example_value")
    node = sketch.call(aten.neg.default, sketch.inputs[0])
    assert set(node.meta) == {"example_value"}


def test_attributes_are_read_from_the_module_and_from_those_staged() -> None:
    sketch = Sketch(torch.ones(2))
    sketch.module.register_buffer("there", torch.ones(3))
    types = ValueTypes(sketch.module, {"staged": torch.ones(4)})
    for name, shape in [("there", (3,)), ("staged", (4,))]:
        node = sketch.graph.create_node("get_attr", name)
        types.infer(node)
        assert node.meta["val"].shape == shape
    absent = sketch.graph.create_node("get_attr", "absent")
    types.infer(absent)
    assert absent.meta == {}


def exported(**kwargs: Any) -> fx.GraphModule:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    args = (torch.randn(2, 3, 8, 8),)
    return torch.export.export(model, args, **kwargs).module()


def test_tensor_meta_is_written_where_the_graph_has_it() -> None:
    gm = exported()
    relu = next(n for n in gm.graph.nodes if n.name == "relu")
    node = gm.graph.call_function(aten.relu.default, relu.args)
    ValueTypes(gm).infer(node)
    assert node.meta["tensor_meta"] == relu.meta["tensor_meta"]
    assert not node.meta["val"].requires_grad
    assert node.meta["tensor_meta"].requires_grad
    compared = gm.graph.call_function(aten.gt.Scalar, (relu, 0))
    ValueTypes(gm).infer(compared)
    assert not compared.meta["tensor_meta"].requires_grad


def test_a_lifted_constant_has_the_metadata_of_the_others() -> None:
    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)
    model, x = torch.nn.Sequential(*layers).eval(), torch.randn(2, 3, 8, 8)
    program = torch.export.export(model, (x,))
    engine.apply(program, load("bn_fold"))
    folded = next(n for n in program.graph.nodes if n.name == "p_0_weight_wf")
    weight = folded.meta["val"]
    assert folded.meta["tensor_meta"].shape == weight.shape == (4, 3, 3, 3)
    assert folded.meta["tensor_meta"].requires_grad and weight.requires_grad


def test_dynamic_sizes_are_kept_and_never_specialised() -> None:
    gm = exported(dynamic_shapes=({0: torch.export.Dim("n")},))
    types = ValueTypes(gm)
    relu = next(n for n in gm.graph.nodes if n.name == "relu")
    shapes = relu.meta["val"].fake_mode.shape_env
    known = len(shapes.guards)
    node = gm.graph.call_function(aten.mul.Tensor, (relu, relu))
    types.infer(node)
    assert compatible(relu, node) is None
    assert isinstance(node.meta["val"].shape[0], torch.SymInt)
    fixed = gm.graph.create_node("get_attr", "fixed")
    fixed.meta["val"] = types.of_tensor(torch.ones(2, 4, 6, 6))
    with pytest.raises(ValueInferenceError):
        types.infer(gm.graph.call_function(aten.add.Tensor, (relu, fixed)))
    assert "shape" in str(compatible(relu, fixed))
    assert len(shapes.guards) == known


def test_a_size_that_depends_on_data_is_refused() -> None:
    gm = exported(dynamic_shapes=({0: torch.export.Dim("n")},))
    relu = next(n for n in gm.graph.nodes if n.name == "relu")
    shapes = relu.meta["val"].fake_mode.shape_env
    with pytest.raises(ValueInferenceError):
        ValueTypes(gm).infer(gm.graph.call_function(aten.nonzero.default, (relu,)))
    assert shapes.pending_fresh_unbacked_symbols == []


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (torch.ones(2, 3), torch.ones(2, 3), None),
        (torch.ones(2, 3), torch.ones(2, 3).double(), "dtype float32"),
        (torch.ones(2, 3), torch.ones(3, 2), "shape [2, 3]"),
        (torch.ones(2, 3), torch.ones(2, 3, device="meta"), "device cpu"),
        (torch.ones(2, 3), torch.ones(3, 2).t(), "stride [3, 1]"),
        (torch.ones(2, 1), torch.ones(2, 1).as_strided((2, 1), (1, 7)), None),
        (torch.ones(0, 3), torch.ones(3, 0).t(), None),
        ((torch.ones(1),), (torch.ones(1), torch.ones(1)), "1 results"),
        ((torch.ones(1),), (torch.ones(2),), "result 0: shape"),
        (torch.ones(1), 3, "Tensor would become int"),
        (3, 4, None),
    ],
)
def test_compatible_says_what_differs(old: Any, new: Any, reason: str | None) -> None:
    graph = fx.Graph()
    a, b = graph.placeholder("a"), graph.placeholder("b")
    a.meta["val"], b.meta["val"] = old, new
    found = compatible(a, b)
    assert found is None if reason is None else reason in str(found)
    assert compatible(a, graph.placeholder("unknown")) is None


def test_what_other_threads_log_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    """Torch logs an error before an operator raises: here that answers a question."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    log.addHandler(caplog.handler)
    try:
        with fake_runs._unlogged():
            log.warning("here")
            other = threading.Thread(target=log.warning, args=("elsewhere",))
            other.start()
            other.join()
        log.warning("afterwards")
    finally:
        log.removeHandler(caplog.handler)
    assert {each.getMessage() for each in caplog.records} == {"elsewhere", "afterwards"}


def test_types_are_read_without_what_is_torchs_own() -> None:
    class Plain(torch.Tensor):
        @property
        def _has_symbolic_sizes_strides(self) -> bool:
            raise AttributeError

    tensor = torch.rand(2, 3)
    assert type_of(tensor.as_subclass(Plain)) == type_of(tensor)
