"""Graphs as text, and their canonical form."""

from __future__ import annotations

import enum
import functools
import operator
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812

from rewrite_engine.graph_order import storage_versions
from rewrite_engine.graph_text import (
    graph_text,
    structure_text,
)
from rewrite_engine.value_text import Symbols, literal_text, target_text

aten = torch.ops.aten


class Branching(nn.Module):
    """A training model with state of every kind, a branch and a dynamic batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.register_buffer("steps", torch.zeros(4, 1, 1))

    def forward(self, x: torch.Tensor) -> Any:
        y = self.bn(self.conv(x))
        self.steps.add_(1)
        z = torch.cond(x.shape[0] > 4, lambda a: a.relu(), lambda a: F.dropout(a), (y,))
        return {"a": z + self.steps, "b": [x.shape[0] * 2, x[:, ..., 1:3]]}


class Leaves(nn.Module):
    """What symbolic tracing leaves in a graph: modules, methods, functions."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4).eval())
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.table = torch.ones(2)

    def forward(self, x: torch.Tensor, factor: float = 2.0) -> Any:
        y = F.gelu(self.layer(x)).to(torch.float16, memory_format=torch.channels_last)
        y.mul_(factor)
        y = torch.relu(y).to(torch.device("cpu"))
        return y[:, ..., 1:3] + self.scale, operator.sub(y, float("inf")), self.table


def export_branching() -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=2)
    example = (torch.randn(3, 3, 8, 8),)
    return torch.export.export(Branching(), example, dynamic_shapes=({0: batch},))


def graph_of(build: Callable[[fx.Graph, fx.Node, fx.Node], Any]) -> fx.GraphModule:
    """A graph of two inputs; `build` adds nodes and returns the outputs."""
    graph = fx.Graph()
    outputs = build(graph, graph.placeholder("x"), graph.placeholder("y"))
    graph.output(outputs)
    return fx.GraphModule(nn.Module(), graph)


def call(graph: fx.Graph, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    return graph.call_function(target, args, kwargs)


@pytest.fixture(scope="module")
def program() -> torch.export.ExportedProgram:
    return export_branching()


def test_exported_program(
    program: torch.export.ExportedProgram, graph_snapshot: Any
) -> None:
    assert program == graph_snapshot


def test_functionalised_program_names_its_mutations(
    program: torch.export.ExportedProgram,
) -> None:
    text = graph_text(program.run_decompositions())
    assert "buffer_mutation 'bn.running_mean' = %getitem" in text
    assert "buffer_mutation 'steps' = %add" in text


def test_unlifted_module(
    program: torch.export.ExportedProgram, graph_snapshot: Any
) -> None:
    assert program.module() == graph_snapshot


def test_symbolically_traced_module(graph_snapshot: Any) -> None:
    assert fx.symbolic_trace(Leaves()) == graph_snapshot


def test_structure_of_an_exported_module(
    program: torch.export.ExportedProgram, graph_snapshot: Any
) -> None:
    assert structure_text(program.module()) == graph_snapshot


def test_a_called_container_shows_its_parts() -> None:
    class Shallow(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return True

    model = Leaves()
    text = graph_text(fx.GraphModule(model, Shallow().trace(model)))
    shown = text[text.index("%layer") : text.index("    0.bias")].splitlines()
    assert shown == [
        "%layer = nn.Sequential 'layer'(%x)",
        "    0: nn.Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))",
        "    1: nn.BatchNorm2d(4, eps=1e-05, momentum=0.1, affine=True, bias=True, "
        "track_running_stats=True, training=False)",
        "    0.weight: f32[4, 3, 3, 3]",
    ]


def test_lifted_constants_constant_outputs_and_unbacked_sizes() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.ones(2)

        def forward(self, x: torch.Tensor) -> Any:
            return x.nonzero(), x * torch.tensor([1.0, 2.0]), self.table, 3, None

    program = torch.export.export(Mixed(), (torch.randn(4, 2),))
    text = graph_text(program)
    assert ": f32[2] = constant_tensor 'lifted_tensor_0'" in text
    assert "%nonzero: i64[u0, 2] = aten.nonzero.default(%x)" in text
    assert "  user_output = 3\n  user_output = None\n" in text


def test_types_can_be_left_out(program: torch.export.ExportedProgram) -> None:
    text = graph_text(program, types=False)
    assert "%conv2d = aten.conv2d.default(" in text
    assert "%p_conv_bias: f32[4] = parameter 'conv.bias'" in text


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (aten.add.Tensor, "aten.add.Tensor"),
        (aten.add, "aten.add"),
        (torch.add, "torch.add"),
        (torch.conv2d, "torch.conv2d"),
        (F.relu, "F.relu"),
        (F.gelu, "F.gelu"),
        (operator.getitem, "operator.getitem"),
        (operator.iadd, "operator.iadd"),
        (torch.Tensor.add, "TensorBase.add"),
        (getattr, "builtins.getattr"),
        (torch.ops.higher_order.cond, "higher_order.cond"),
    ],
)
def test_call_targets(target: Any, expected: str) -> None:
    gm = graph_of(lambda graph, x, y: call(graph, target, x, y))
    assert f" = {expected}(%x, %y)\n" in graph_text(gm)


@pytest.mark.parametrize(
    ("literal", "expected"),
    [
        (1e-5, "1e-05"),
        (float("nan"), "nan"),
        (True, "True"),
        ("same", "'same'"),
        (None, "None"),
        (torch.bfloat16, "torch.bfloat16"),
        (torch.device("cuda", 1), "device('cuda:1')"),
        (torch.preserve_format, "torch.preserve_format"),
        (torch.strided, "torch.strided"),
        (torch.ops.aten.add.Tensor, "aten.add.Tensor"),
        ([1, (2,), ()], "[1, (2,), ()]"),
        ({"k": [None]}, "{'k': [None]}"),
        (slice(None, 3), "slice(None, 3, None)"),
        (..., "..."),
    ],
)
def test_literals(literal: Any, expected: str) -> None:
    gm = graph_of(lambda graph, x, y: call(graph, torch.add, x, literal))
    assert f"torch.add(%x, {expected})\n" in graph_text(gm)


def test_functions_without_a_stable_repr_show_no_address() -> None:
    gm = graph_of(lambda graph, x, y: call(graph, lambda a, b: a, x, y))
    text = graph_text(gm)
    assert ".<lambda>(%x, %y)" in text
    assert "0x" not in text


def test_objects_are_shown_without_their_address() -> None:
    class Opaque:
        def __call__(self, *args: Any) -> None: ...

    class Mode(enum.Enum):
        FAST = object()

    symbols = Symbols()
    assert literal_text(Mode.FAST, str, symbols) == "Mode.FAST"
    assert literal_text(torch.ones(2), str, symbols) == "f32[2]"
    assert literal_text(Opaque(), str, symbols).endswith(".Opaque object>")
    assert target_text(functools.partial(Opaque())).endswith(".Opaque object>)")


def test_symbolic_sizes_in_arguments_share_the_names_of_types(
    program: torch.export.ExportedProgram,
) -> None:
    gm = graph_of(lambda graph, x, y: call(graph, aten.view.default, x, [2, 3]))
    x, _, view, _ = gm.graph.nodes
    (given,) = program.graph.find_nodes(
        op="call_function", target=aten.batch_norm.default
    )
    x.meta["val"] = given.meta["val"]
    view.args = (x, [given.meta["val"].shape[0] * 2, -1])
    text = graph_text(gm)
    assert "%x: f32[s0, 4, 6, 6] = input" in text
    assert "aten.view.default(%x, [2*s0, -1])" in text


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.bool, "bool[2]"),
        (torch.uint8, "u8[2]"),
        (torch.int64, "i64[2]"),
        (torch.bfloat16, "bf16[2]"),
        (torch.complex64, "c64[2]"),
        (torch.float8_e4m3fn, "f8_e4m3fn[2]"),
    ],
)
def test_dtypes(dtype: torch.dtype, expected: str) -> None:
    gm = graph_of(lambda graph, x, y: x)
    next(iter(gm.graph.nodes)).meta["val"] = torch.empty(2, dtype=dtype, device="meta")
    assert f"%x: {expected} = input" in graph_text(gm)


def test_a_missing_attribute_is_shown_rather_than_raised() -> None:
    gm = fx.symbolic_trace(Leaves())
    del gm.scale
    assert "%scale: NoneType = constant 'scale'" in graph_text(gm)


def test_structure_ignores_names() -> None:
    gm, renamed = export_branching().module(), export_branching().module()
    for number, node in enumerate(renamed.graph.nodes):
        node._rename(f"renamed_{number}")
    assert graph_text(gm) != graph_text(renamed)
    assert structure_text(gm) == structure_text(renamed)


def test_structure_ignores_the_order_of_independent_nodes() -> None:
    def build(first: Any, second: Any) -> fx.GraphModule:
        def nodes(graph: fx.Graph, x: fx.Node, y: fx.Node) -> Any:
            made = {op: call(graph, op, x) for op in (first, second)}
            return made[torch.exp], made[torch.sin]

        return graph_of(nodes)

    one, other = build(torch.exp, torch.sin), build(torch.sin, torch.exp)
    assert structure_text(one) == structure_text(other)


def spellings(target: Any, *calls: tuple[tuple[Any, ...], dict[str, Any]]) -> set[str]:
    """The structures of calls on x, y; "x" and "y" stand for the inputs."""
    texts = set()
    for args, kwargs in calls:

        def build(graph: fx.Graph, x: fx.Node, y: fx.Node) -> Any:
            inputs = {"x": x, "y": y}

            def given(value: Any) -> Any:
                return inputs.get(value, value) if isinstance(value, str) else value

            named = {key: given(value) for key, value in kwargs.items()}  # noqa: B023
            return call(graph, target, *map(given, args), **named)  # noqa: B023

        texts.add(structure_text(graph_of(build)))
    return texts


def test_structure_spells_calls_by_the_schema() -> None:
    assert (
        len(
            spellings(
                aten.conv2d.default,
                (("x", "y"), {}),
                (("x",), {"weight": "y"}),
                ((), {"weight": "y", "input": "x"}),
                (("x", "y", None, [1, 1]), {}),
                (("x", "y", None, (1, 1), 0), {"groups": 1}),
            )
        )
        == 1
    )
    assert (
        len(
            spellings(
                aten.add.Tensor, (("x", "y"), {}), (("x",), {"other": "y", "alpha": 1})
            )
        )
        == 1
    )


def test_integers_given_as_floats_are_spelled_as_floats() -> None:
    calls = ((("x", 1, True), {}), (("x", 1.0), {"train": True}))
    assert len(spellings(aten.dropout.default, *calls)) == 1


def test_called_graph_modules_are_shown_as_graphs() -> None:
    inner = graph_of(lambda graph, x, y: call(graph, torch.exp, x))
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    graph.output(graph.call_module("inner", (y, x)))
    lines = graph_text(fx.GraphModule({"inner": inner}, graph)).splitlines()
    assert lines[3:7] == [
        "  %inner = GraphModule 'inner'(%y, %x)",
        "    %x = input",
        "    %y = input",
        "    %exp = torch.exp(%x)",
    ]


def test_structure_tells_different_arguments_apart() -> None:
    assert (
        len(
            spellings(
                aten.add.Tensor,
                (("x", "y"), {}),
                (("y", "x"), {}),
                (("x", "x"), {}),
                (("x", "y"), {"alpha": 2}),
                (("x", "y"), {"alpha": 1.0}),
            )
        )
        == 5
    )


def relu_and_write(*, write_first: bool, in_place: Any = None) -> fx.GraphModule:
    def nodes(graph: fx.Graph, x: fx.Node, y: fx.Node) -> Any:
        def write() -> None:
            if in_place is None:
                graph.call_method("add_", (x, 1))
            else:
                call(graph, in_place, x, 1)

        view = call(graph, aten.view.default, x, [-1])
        if write_first:
            write()
        read = call(graph, aten.relu.default, view)
        if not write_first:
            write()
        return read

    return graph_of(nodes)


@pytest.mark.parametrize(
    "in_place", [None, aten.add_.Tensor, operator.iadd, torch.relu_]
)
def test_structure_tells_a_read_before_a_write_from_one_after(in_place: Any) -> None:
    before = relu_and_write(write_first=False, in_place=in_place)
    after = relu_and_write(write_first=True, in_place=in_place)
    assert structure_text(before) != structure_text(after)
    assert "aten.relu.default(%2@1)" in structure_text(after)


@pytest.mark.parametrize(
    ("target", "kwargs"),
    [(F.relu, {"inplace": True}), (torch.add, {"out": "x"})],
)
def test_writes_by_keyword_are_seen(target: Any, kwargs: dict[str, Any]) -> None:
    def nodes(graph: fx.Graph, x: fx.Node, y: fx.Node) -> Any:
        named = {key: x if value == "x" else value for key, value in kwargs.items()}
        call(graph, target, x, **named)
        return call(graph, torch.exp, x)

    assert "torch.exp(%0@1)" in structure_text(graph_of(nodes))


def test_an_in_place_module_writes_its_input() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.relu(x)
            return x.exp()

    assert ".exp(%0@1)" in structure_text(fx.symbolic_trace(InPlace()))


def test_training_norms_that_share_statistics_keep_their_order() -> None:
    class Shared(nn.Module):
        def __init__(self, *, swapped: bool) -> None:
            super().__init__()
            self.bn, self.swapped = nn.BatchNorm1d(3, affine=False), swapped

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
            if self.swapped:
                b, a = self.bn(y), self.bn(x)
            else:
                a, b = self.bn(x), self.bn(y)
            return a, b

    inputs = torch.randn(4, 3), torch.randn(4, 3)
    plain, swapped = (
        torch.export.export(Shared(swapped=swapped), inputs).module()
        for swapped in (False, True)
    )
    assert structure_text(plain) != structure_text(swapped)


def test_structure_keeps_the_order_of_random_draws() -> None:
    def build(first: str, second: str) -> fx.GraphModule:
        def nodes(graph: fx.Graph, x: fx.Node, y: fx.Node) -> Any:
            inputs = {"x": x, "y": y}
            made = {
                name: call(graph, aten.dropout.default, inputs[name], 0.5, True)
                for name in (first, second)
            }
            return made["x"], made["y"]

        return graph_of(nodes)

    assert structure_text(build("x", "y")) != structure_text(build("y", "x"))


def test_reads_of_other_storages_do_not_depend_on_a_write() -> None:
    def nodes(graph: fx.Graph, x: fx.Node, y: fx.Node) -> Any:
        call(graph, aten.add_.Tensor, x, 1)
        return call(graph, aten.relu.default, y)

    assert storage_versions(graph_of(nodes).graph) == {}


def test_structure_has_state_by_name_and_shape_but_not_by_value() -> None:
    gm, other = fx.symbolic_trace(Leaves()), fx.symbolic_trace(Leaves())
    with torch.no_grad():
        other.scale.fill_(7)
    assert structure_text(gm) == structure_text(other)
    other.scale = nn.Parameter(torch.ones(4, 1, 2))
    assert structure_text(gm) != structure_text(other)


def test_structure_has_the_settings_of_called_modules() -> None:
    gm, other = fx.symbolic_trace(Leaves()), fx.symbolic_trace(Leaves())
    other.get_submodule("layer.0").stride = (2, 2)
    assert structure_text(gm) != structure_text(other)
    assert structure_text(gm) != structure_text(fx.symbolic_trace(Leaves()).eval())


def test_dead_nodes_count() -> None:
    gm, other = fx.symbolic_trace(Leaves()), fx.symbolic_trace(Leaves())
    with other.graph.inserting_after(next(iter(other.graph.nodes))) as _:
        other.graph.call_function(torch.exp, (next(iter(other.graph.nodes)),))
    assert structure_text(gm) != structure_text(other)


def test_deep_graphs_need_no_recursion() -> None:
    def nodes(graph: fx.Graph, x: fx.Node, y: fx.Node) -> Any:
        for _ in range(3 * sys.getrecursionlimit()):
            x = call(graph, aten.relu.default, x)
        call(graph, aten.add_.Tensor, y, 1)
        return x

    gm = graph_of(nodes)
    assert len(structure_text(gm).splitlines()) == len(gm.graph.nodes) + 1


_PRINT_TEXTS = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("models", sys.argv[1])
models = importlib.util.module_from_spec(spec)
sys.modules["models"] = models  # dynamo looks a model's module up there
spec.loader.exec_module(models)
print(models.all_texts())
"""


def all_texts() -> str:
    program, traced = export_branching(), fx.symbolic_trace(Leaves())
    return "\n".join(
        f(m) for m in (program, traced) for f in (graph_text, structure_text)
    )


def test_texts_are_the_same_in_every_process() -> None:
    # Strings hash differently here: this process draws its seed, or was given one.
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    root = str(Path(__file__).parents[1])
    output = subprocess.run(
        [sys.executable, "-c", _PRINT_TEXTS, __file__],
        env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert output == all_texts() + "\n"
