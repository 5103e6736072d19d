"""Spellings to fx targets and back."""

from __future__ import annotations

import importlib
import operator
import re

import pytest
import torch
from torch import fx

from rewrite_engine import torch_ops
from rewrite_engine.assets import rules_directory
from rewrite_engine.dsl.catalog import default_catalog
from rewrite_engine.signatures import REQUIRED, Signature

aten = torch.ops.aten
F = torch.nn.functional


def found(path: str) -> Signature:
    return default_catalog().lookup(path)[0]


def prelude_paths() -> list[str]:
    text = (rules_directory() / "prelude.rules").read_text(encoding="utf-8")
    code = re.sub(r"#.*", "", text)
    return re.findall(r"(?<![\w.])(?:\w+(?:\.\w+)+|\.\w+)", code)


@pytest.mark.parametrize(
    ("path", "op", "target"),
    [
        ("aten.relu.default", "call_function", aten.relu.default),
        ("aten.conv2d.padding", "call_function", aten.conv2d.padding),
        ("torch.add", "call_function", torch.add),
        ("F.relu", "call_function", F.relu),
        ("operator.add", "call_function", operator.add),
        (".relu", "call_method", "relu"),
        ("nn.ReLU", "call_module", torch.nn.ReLU),
    ],
)
def test_resolve(path: str, op: str, target: object) -> None:
    found_op, found_target = torch_ops.resolve(found(path))
    assert found_op == op
    assert found_target == target


def test_every_path_of_the_catalog_resolves() -> None:
    pytest.importorskip("torchao")
    for path in default_catalog().paths():
        op, target = torch_ops.resolve(found(path))
        assert op == "call_method" or callable(target), path


def test_every_path_of_the_prelude_resolves() -> None:
    pytest.importorskip("torchao")
    paths = prelude_paths()
    assert len(paths) > 200
    assert [p for p in paths if not default_catalog().lookup(p)] == []
    for path in paths:
        for signature in default_catalog().lookup(path):
            torch_ops.resolve(signature)


def test_parsed_schemas_agree_with_torch() -> None:
    for path in default_catalog().paths():
        if not path.startswith(("aten.", "quantized_decomposed.")):
            continue
        schema = torch_ops.resolve(found(path))[1]._schema
        assert len(schema.returns) == found(path).returns, path
        for argument, parameter in zip(
            schema.arguments, found(path).parameters, strict=True
        ):
            has_default = argument.has_default_value()
            default = argument.default_value if has_default else REQUIRED
            assert argument.name == parameter.name, path
            assert argument.kwarg_only == parameter.keyword_only, path
            assert repr(default) == repr(parameter.default), path


def test_an_overload_of_a_graph_has_the_catalog_signature() -> None:
    for path in ("aten.conv2d.default", "aten.batch_norm.default", "aten.add.Tensor"):
        _, target = torch_ops.resolve(found(path))
        assert torch_ops.signatures_of(target) == (found(path),)


class Everything(torch.nn.Module):
    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        y = F.conv2d(x, w)
        y = F.max_pool2d(y, 2)
        y = F.adaptive_max_pool2d(y, 2, return_indices=True)[0]
        y = F.gelu(F.relu(y)) + torch.split(y.relu(), 2)[0]
        return F.hardswish(torch.sigmoid(y).reshape((2, -1)))


def test_every_call_that_fx_traces_binds() -> None:
    calls = [
        node
        for node in fx.symbolic_trace(Everything()).graph.nodes
        if node.op in ("call_function", "call_method")
    ]
    assert len(calls) == 13
    for node in calls:
        signatures = torch_ops.signatures_of(node.target)
        assert any(s.bind(node.args, node.kwargs) is not None for s in signatures), node


@pytest.mark.parametrize("sizes", [(2, -1), ([2, -1],)])
def test_sizes_of_a_method_may_be_given_one_by_one(sizes: tuple[object, ...]) -> None:
    bound = found(".reshape").bind(("x", *sizes), {})
    assert bound == {"self": "x", "shape": [2, -1]}
    assert found(".reshape").bind(("x", -1), {}) == {"self": "x", "shape": [-1]}
    assert found(".relu").bind(("x", 1), {}) is None


def test_a_name_shared_by_two_modules_has_one_answer() -> None:
    assert F.conv2d is torch.conv2d
    assert {s.path for s in torch_ops.signatures_of(F.conv2d)} == {"torch.conv2d"}


@pytest.mark.parametrize("target", [print, len, object(), "no_such_method", "__init__"])
def test_an_unknown_target_has_no_signature(target: object) -> None:
    assert torch_ops.signatures_of(target) == ()


def test_a_custom_operator_is_granted_by_its_overload() -> None:
    library = torch.library.Library("rewrite_engine_test", "DEF")
    library.define("scale(Tensor x, float by=2.0) -> Tensor")
    overload = torch.ops.rewrite_engine_test.scale.default
    signature = torch_ops.schema_signature(overload)
    assert signature.path == "rewrite_engine_test.scale.default"
    assert [p.default for p in signature.parameters] == [REQUIRED, 2.0]
    assert torch_ops.resolve(signature) == ("call_function", overload)
    assert torch_ops.signatures_of(overload) == (signature,)
    # What `torch.fx.symbolic_trace` records of `torch.ops.rewrite_engine_test.scale`.
    assert torch_ops.signatures_of(overload.overloadpacket) == (signature,)
    assert torch_ops.signatures_of(torch.ops.aten.add) == ()


@pytest.mark.parametrize(
    "path",
    [
        "aten.relu.__init__.__globals__",
        "aten.relu.__init__",
        "aten.from_file.default",
        "load_library.x.default",
        "os.system",
        "torch.load",
        "F.handle_torch_function",
        "operator.attrgetter",
        "mylib.unknown.default",
        "mylib.__class__.__init__",
        "a.b",
    ],
)
@pytest.mark.parametrize("kind", ["overload", "function"])
def test_resolve_refuses_what_is_not_registered(path: str, kind: str) -> None:
    with pytest.raises(LookupError, match=re.escape(path)):
        torch_ops.resolve(Signature(path, kind, ()))  # type: ignore[arg-type]


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    monkeypatch.setattr(torch_ops, "_is_registered", lambda *names: False)
    with pytest.raises(LookupError, match="needs torchao, which is not installed"):
        torch_ops.resolve(found("torchao.quantize_affine.default"))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("f32", torch.float32), ("bf16", torch.bfloat16), ("u8", torch.uint8)],
)
def test_dtypes_have_short_names(name: str, dtype: torch.dtype) -> None:
    assert torch_ops.dtype_of(name) is dtype
    assert torch_ops.dtype_name(dtype) == name


def test_a_dtype_without_short_name_keeps_torchs() -> None:
    assert torch_ops.dtype_name(torch.float8_e4m3fn) == "float8_e4m3fn"
    with pytest.raises(LookupError, match="no dtype is called `f7`"):
        torch_ops.dtype_of("f7")


def test_constants_are_a_closed_set() -> None:
    assert torch_ops.constant("torch.int8") is torch.int8
    assert torch_ops.constant("torch.channels_last") is torch.channels_last
    for path in ("torch.load", "torch.ops", "int8", "torch.nn.ReLU"):
        with pytest.raises(LookupError, match=re.escape(path)):
            torch_ops.constant(path)
