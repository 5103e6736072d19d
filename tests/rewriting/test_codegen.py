"""The fast writer against torch's own: the same text, globals, lines and module."""

from __future__ import annotations

import copy
import math
import operator
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import fx, nn
from torch.export import Dim, ExportedProgram, export
from torch.fx._lazy_graph_module import _LazyGraphModule

from rewrite_engine.rewriting import codegen
from rewrite_engine.rewriting.codegen import python_code, recompile

aten = torch.ops.aten


def assert_written_as_torch_does(graph: fx.Graph) -> None:
    fast, slow = python_code(graph), graph.python_code("self")
    assert fast is not None, "left to torch"
    assert fast.src == slow.src
    assert list(fast.globals) == list(slow.globals)
    assert all(fast.globals[name] is slow.globals[name] for name in slow.globals)
    assert fast._lineno_map == slow._lineno_map
    assert fast._prologue_start == slow._prologue_start


def assert_all_written(program: ExportedProgram) -> None:
    for root in (program.graph_module, program.module()):
        for module in root.modules():
            if isinstance(module, fx.GraphModule):
                assert_written_as_torch_does(module.graph)


# --- exported programs ---


class Model(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


def branches(_: Model, x: Any) -> Any:
    return torch.cond(x.sum() > 0, lambda v: v.sin() + 1, lambda v: v.cos(), (x,))


def casts(_: Model, x: Any) -> Any:
    moved = x.to(device="cpu", dtype=torch.float64)
    return moved.contiguous(memory_format=torch.channels_last).to(torch.half)


def several(model: Model, x: Any) -> Any:
    left, right = torch.split(model.conv(x), [1, 2], dim=1)
    return {"left": left, "others": [right, (x, 3)]}


EXPORTED = {
    "layers": lambda model, x: model.norm(model.conv(x)).relu(),
    "literals": lambda _, x: F.gelu(x, approximate="tanh").clamp(-0.0, math.inf),
    "not a number": lambda _, x: torch.nan_to_num(x, math.nan, None, -math.inf),
    "slices": lambda _, x: x[:, 1:, ::2, None],
    "tensor indices": lambda _, x: x[:, torch.tensor([0, 2])],
    "lists": lambda _, x: torch.cat([x, torch.stack([x, x]).sum(0)], dim=1),
    "tuples": lambda _, x: torch.max(x, dim=1)[0] + x.mean((1, 2), keepdim=True),
    "empty list": lambda _, x: x.sum().reshape([]),
    "effects": lambda _, x: x.clone().add_(1),
    "einsum": lambda _, x: torch.einsum("abcd,abcd->ab", x, x),
    "new tensors": lambda _, x: x + torch.zeros(3, 4, 4, dtype=torch.float32),
    "casts": casts,
    "branches": branches,
    "several results": several,
    "input returned": lambda _, x: x,
}


@pytest.mark.parametrize("name", EXPORTED)
def test_exported_models(name: str) -> None:
    model = Model(EXPORTED[name]).train()
    assert_all_written(export(model, (torch.randn(2, 3, 4, 4),)))


def test_symbolic_shapes() -> None:
    model = Model(lambda _, x: x.reshape(x.shape[0] * 2, -1)[: x.shape[0] - 1])
    shapes = {"x": {0: Dim("batch", min=4)}}
    assert_all_written(export(model, (torch.randn(8, 4),), dynamic_shapes=shapes))


def test_keyword_inputs_and_names_of_builtins() -> None:
    class Inputs(nn.Module):
        def forward(self, input: Any, *rest: Any, max: Any, **more: Any) -> Any:
            return input + rest[0]["a"] - rest[1][0] * max * more["scale"]

    x = torch.randn(3)
    inputs = (x, {"a": x}, [x])
    assert_all_written(export(Inputs(), inputs, {"max": x, "scale": x}))


def test_inference_and_numbered_modules() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(nn.ReLU(), nn.Dropout()))
    assert_all_written(export(model, (torch.randn(1, 3, 4, 4),)).run_decompositions({}))


# --- traced and hand-built graphs ---


class Annotated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"a-b": nn.Linear(2, 2)})

    def forward(
        self, x: torch.Tensor, scale: float = math.inf, count: int = 2
    ) -> torch.Tensor:
        y = self.layers["a-b"](x) + self.layers["a-b"].bias
        return F.relu(-y @ y.transpose(0, 1), inplace=True) * scale**count


# Real types, as in a module whose annotations are evaluated.
Annotated.forward.__annotations__ = {
    "x": torch.Tensor,
    "scale": float,
    "count": int,
    "return": torch.Tensor,
}


def test_traced_module() -> None:
    assert_written_as_torch_does(fx.symbolic_trace(Annotated()).graph)


def helper(x: Any, *, power: int = 1) -> Any:
    return x**power


@pytest.fixture
def graph() -> fx.Graph:
    graph = fx.Graph()
    graph.placeholder("x")
    return graph


def finished(graph: fx.Graph, *results: fx.Node) -> fx.Graph:
    graph.output(results[0] if len(results) == 1 else results)
    return graph


ARGUMENTS = (
    [1, -0.0, math.inf, -math.inf, math.nan, 1e-5, 1j, True, None, ...],
    ["it's", 'say "x"', "two\nlines", "ünï"],
    [torch.half, torch.device("cuda:1"), torch.channels_last, torch.sparse_coo],
    [(), (1,), (1, (2.5,)), [], [[1, [None]]], slice(None, -1), slice(1, None, 2)],
    [aten.add.Tensor],
)


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_literals_in_lists_and_keywords(graph: fx.Graph, arguments: list[Any]) -> None:
    (x,) = graph.nodes
    call = graph.call_function(torch.add, (x, *arguments), {"alpha": arguments})
    assert_written_as_torch_does(finished(graph, call))


def test_nodes_inside_lists_slices_and_keywords(graph: fx.Graph) -> None:
    (x,) = graph.nodes
    part = graph.call_function(operator.getitem, (x, (slice(x, None), x)))
    call = graph.call_method("a.b-c", (part, [x, (part,)]), {"key": [x]})
    assert_written_as_torch_does(finished(graph, call, x))


def test_unused_values_are_released(graph: fx.Graph) -> None:
    (x,) = graph.nodes
    graph.call_function(aten.neg.default, (x,))
    y = graph.call_method("sin", (x,))
    z = graph.call_function(operator.add, (y, x))
    graph.call_function(operator.mul, (z, y))
    graph.get_attr("table.0.weight")
    assert_written_as_torch_does(finished(graph, z))


def test_operators(graph: fx.Graph) -> None:
    (x,) = graph.nodes
    y = graph.call_function(operator.iadd, (x, 1))
    graph.call_function(operator.setitem, (y, slice(1, None), x))
    z = graph.call_function(operator.invert, (y,))
    truth = graph.call_function(operator.not_, (z,))
    assert_written_as_torch_does(finished(graph, truth))


def test_functions_from_elsewhere_are_globals(graph: fx.Graph) -> None:
    (x,) = graph.nodes
    clash = f"{helper.__module__}.helper".replace(".", "_")
    x.name = clash
    y = graph.call_function(helper, (x,), {"power": 2})
    z = graph.call_function(helper, (y,))
    root = graph.call_function(math.sqrt, (z,))
    size = graph.call_function(len, (root,))
    assert_written_as_torch_does(finished(graph, graph.call_function(max, (size, 1))))


@pytest.mark.parametrize(
    "name", ["input", "class", "nan", "torch", "inf", "len", "a b"]
)
def test_names_that_cannot_be_used(graph: fx.Graph, name: str) -> None:
    (x,) = graph.nodes
    x._rename(name)
    y = graph.call_function(aten.neg.default, (x,))
    y.name = name
    assert_written_as_torch_does(finished(graph, y))


def test_edited_graph(graph: fx.Graph) -> None:
    (x,) = graph.nodes
    y = graph.call_function(aten.neg.default, (x,))
    z = graph.call_function(aten.add.Tensor, (y, x))
    finished(graph, z)
    with graph.inserting_before(z):
        first = graph.call_function(aten.sin.default, (x,))
    y.replace_all_uses_with(first)
    graph.erase_node(y)
    assert_written_as_torch_does(graph)


def test_graph_of_inputs_only(graph: fx.Graph) -> None:
    assert_written_as_torch_does(graph)


# --- what is left to torch ---


def unusual_codegen(graph: fx.Graph) -> None:
    graph.set_codegen(type("Own", (fx.graph.CodeGen,), {})())


def unusual_body(graph: fx.Graph) -> None:
    graph._codegen._body_transformer = lambda lines: lines


def unusual_type(graph: fx.Graph) -> None:
    next(iter(graph.nodes)).type = list[torch.Tensor]


def unusual_type_of_a_call(graph: fx.Graph) -> None:
    graph.call_function(torch.neg, (next(iter(graph.nodes)),)).type = torch.Tensor


class Owner:
    def method(self, value: Any) -> Any:
        return value


def unusual_functions_that_are_equal(graph: fx.Graph) -> None:
    x, owner = next(iter(graph.nodes)), Owner()
    for function in (owner.method, owner.method):  # each is an object of its own
        graph.call_function(function, (x,))


def unusual_text(graph: fx.Graph) -> None:
    graph.call_function(torch.neg, ("# COUNTER: 7",))


def unusual_dict(graph: fx.Graph) -> None:
    graph.call_function(torch.neg, ({"a": next(iter(graph.nodes))},))


def unusual_getattr(graph: fx.Graph) -> None:
    graph.call_function(getattr, (next(iter(graph.nodes)), "shape"))


def unusual_wrapping(graph: fx.Graph) -> None:
    x = next(iter(graph.nodes))
    graph.call_function(helper, (x,)).meta["is_wrapped"] = True


UNUSUAL = (
    unusual_codegen,
    unusual_body,
    unusual_type,
    unusual_type_of_a_call,
    unusual_functions_that_are_equal,
    unusual_text,
    unusual_dict,
    unusual_getattr,
    unusual_wrapping,
)


@pytest.mark.parametrize("make", UNUSUAL)
def test_unusual_graphs_are_left_to_torch(
    graph: fx.Graph, make: Callable[[fx.Graph], None]
) -> None:
    make(graph)
    finished(graph, next(iter(graph.nodes)))
    module = fx.GraphModule(nn.Module(), graph)
    assert python_code(graph) is None
    module._code = ""
    recompile(module)
    assert module.code == graph.python_code("self").src


def test_a_line_is_one_line(graph: fx.Graph) -> None:
    graph.call_method("no\nname", (next(iter(graph.nodes)),))
    graph.output(None)
    assert python_code(graph) is None


def test_graph_that_writes_itself() -> None:
    class Own(fx.Graph):
        def python_code(self, *args: Any, **options: Any) -> Any:
            return super().python_code(*args, **options)

    graph = Own()
    finished(graph, graph.placeholder("x"))
    assert python_code(graph) is None


def test_settings_that_change_the_text(
    graph: fx.Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FX_GRAPH_SHOW_META", "1")
    assert python_code(graph) is None


def test_other_versions_of_torch_write_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = fx.symbolic_trace(nn.ReLU())
    monkeypatch.setattr(codegen, "_WRITES_AS_TORCH", False)
    with calls_of_torchs_writer() as written:
        recompile(module)
    assert written == [module.graph]


# --- recompiled modules ---


@contextmanager
def calls_of_torchs_writer() -> Iterator[list[fx.Graph]]:
    written: list[fx.Graph] = []
    original = fx.Graph.python_code

    def spy(graph: fx.Graph, *args: Any, **options: Any) -> Any:
        written.append(graph)
        return original(graph, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fx.Graph, "python_code", spy)
        yield written


def state_of(module: fx.GraphModule) -> dict[str, Any]:
    code = type(module).forward.__code__
    state = {
        "attributes": {key for key in vars(module) if key != "_graph"},
        "class": set(vars(type(module))),
        "globals": set(type(module).forward.__globals__),
        "bytecode": code.co_code,
        "lines": list(code.co_lines()),
        "graph": set(vars(module.graph)),
    }
    keys = ("_code", "_lineno_map", "_prologue_start")
    return state | {key: vars(module)[key] for key in keys}


def test_recompiled_module_is_as_torch_leaves_it() -> None:
    root = export(Model(branches), (torch.randn(2, 3, 4, 4),)).module()
    modules = [m for m in root.modules() if isinstance(m, fx.GraphModule)]
    assert len(modules) > 1
    root.recompile()
    expected = [state_of(module) for module in modules]
    for module in modules:
        module._code = module._lineno_map = module._prologue_start = None
        del type(module).forward
    with calls_of_torchs_writer() as written:
        recompile(root)
    assert [state_of(module) for module in modules] == expected
    assert [graph for graph in written if python_code(graph)] == []


def test_edits_take_effect_in_the_module_and_its_copies() -> None:
    module = fx.symbolic_trace(Annotated())
    x = torch.randn(2, 2)
    before = module(x, 1.0)
    (relu,) = module.graph.find_nodes(op="call_function", target=F.relu)
    relu.target = torch.neg
    relu.kwargs = {}
    recompile(module)
    after = module(x, 1.0)
    assert not torch.equal(after, before)
    restored = pickle.loads(pickle.dumps(module))
    for copied in (copy.deepcopy(module), restored):
        assert torch.equal(copied(x, 1.0), after)
    assert copy.deepcopy(module).code == module.code


def test_lazy_module_stays_lazy(graph: fx.Graph) -> None:
    module = _LazyGraphModule(nn.Module(), finished(graph, *graph.nodes))
    recompile(module)
    assert type(module)._needs_recompile()
    assert "python_code" not in vars(module.graph)


def test_graph_writes_itself_again_after_a_failure() -> None:
    module = fx.symbolic_trace(nn.ReLU())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fx.graph_module, "_forward_from_src", None)
        with pytest.raises(TypeError):
            recompile(module)
    assert "python_code" not in vars(module.graph)
