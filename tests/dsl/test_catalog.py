"""The operator table: what is found, how it is parsed, what is refused."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from types import ModuleType

import pytest

from rewrite_engine.assets import grammar_directory
from rewrite_engine.dsl.catalog import Catalog, default_catalog, parse_schema
from rewrite_engine.signatures import REQUIRED, Parameter, Signature

HAS_TORCHAO = importlib.util.find_spec("torchao") is not None


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    path = grammar_directory() / "generate_operators.py"
    spec = importlib.util.spec_from_file_location("generate_operators", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def paths(path: str) -> list[str]:
    return [signature.path for signature in default_catalog().lookup(path)]


def test_the_file_is_what_this_torch_generates(generator: ModuleType) -> None:
    text = (grammar_directory() / "operators.txt").read_text(encoding="utf-8")
    shipped = [
        line
        for line in text.splitlines()
        if HAS_TORCHAO or not line.startswith("torchao.")
    ]
    assert shipped == generator.lines(HAS_TORCHAO)


def test_an_operator_without_overload_means_its_functional_overloads() -> None:
    assert paths("aten.conv2d") == ["aten.conv2d.default", "aten.conv2d.padding"]
    assert paths("aten.add") == ["aten.add.Tensor", "aten.add.Scalar"]
    assert "aten.min.dim_min" not in paths("aten.min")
    assert paths("aten.add_") == ["aten.add_.Tensor", "aten.add_.Scalar"]


@pytest.mark.parametrize(
    ("path", "kind", "names"),
    [
        ("aten.relu.default", "overload", ["self"]),
        ("torch.relu", "function", ["input"]),
        ("F.relu", "function", ["input", "inplace"]),
        ("operator.add", "function", ["a", "b"]),
        (".relu", "method", ["self"]),
        ("nn.ReLU", "module", ["input", "inplace"]),
        ("nn.Linear", "module", ["input", "weight", "bias"]),
        ("nni.LinearReLU", "module", ["input", "weight", "bias"]),
        ("ao.MinMaxObserver", "module", ["input", "min_val", "max_val"]),
        ("nn.LSTM", "module", ["input", "hx"]),
        ("torchao.quantize_affine.default", "overload", None),
    ],
)
def test_each_namespace_is_found(path: str, kind: str, names: list[str] | None) -> None:
    (signature,) = default_catalog().lookup(path)
    assert (signature.path, signature.kind) == (path, kind)
    assert names is None or [p.name for p in signature.parameters] == names


def test_a_function_has_one_signature_for_each_of_its_variants() -> None:
    kinds = [s.parameters[1].type for s in default_catalog().lookup("torch.add")]
    assert kinds == ["Tensor", "Scalar"]


@pytest.mark.parametrize(
    ("path", "name", "expected"),
    [
        ("aten.conv2d.default", "bias", Parameter("bias", "Tensor?", None)),
        ("aten.conv2d.default", "stride", Parameter("stride", "SymInt[2]", [1, 1])),
        ("aten.conv2d.padding", "padding", Parameter("padding", "str", "valid")),
        ("aten.max_pool2d.default", "padding", Parameter("padding", "int[2]", [0, 0])),
        ("aten.add.Tensor", "alpha", Parameter("alpha", "Scalar", 1, True)),
        ("aten.layer_norm.default", "eps", Parameter("eps", "float", 1e-5)),
        ("F.dropout", "training", Parameter("training", "bool", True)),
        ("aten.relu_.default", "self", Parameter("self", "Tensor", REQUIRED)),
        ("aten.split.Tensor", "self", Parameter("self", "Tensor", REQUIRED)),
    ],
)
def test_parameters_are_parsed(path: str, name: str, expected: Parameter) -> None:
    (signature,) = default_catalog().lookup(path)
    assert signature.parameter(name) == expected


def test_torch_constants_stay_text_and_infinity_is_a_number() -> None:
    text = "f.g.default(Tensor x, *, Layout l=torch.strided, float p=-inf) -> ()"
    layout, power = parse_schema(text).parameters[1:]
    assert (layout.default, power.default) == ("torch.strided", -float("inf"))
    assert layout.keyword_only and power.keyword_only


@pytest.mark.parametrize(
    ("path", "returns"),
    [
        ("aten.relu.default", 1),
        ("aten.split.Tensor", 1),
        ("aten.native_batch_norm.default", 3),
        ("aten.max.dim", 2),
        ("aten._assert_async.default", 0),
        ("F.max_pool2d_with_indices", 2),
    ],
)
def test_returned_values_are_counted(path: str, returns: int) -> None:
    (signature,) = default_catalog().lookup(path)
    assert signature.returns == returns


@pytest.mark.parametrize(
    ("path", "first"),
    [
        ("conv2", "aten.conv2d"),
        ("aten.conv2", "aten.conv2d"),
        ("F.reluu", "F.relu"),
        (".rel", ".relu"),
        ("torch.nn.functional.relu", "F.relu"),
        ("torch.ops.aten.relu.default", "aten.relu.default"),
        ("torch.nn.ReLU", "nn.ReLU"),
        ("aten.relu.Tensor", "aten.relu.default"),
        ("torch.layernorm", "torch.layer_norm"),
    ],
)
def test_suggestions(path: str, first: str) -> None:
    suggested = default_catalog().suggest(path)
    assert suggested[0] == first
    assert all(default_catalog().lookup(known) for known in suggested)
    assert len(suggested) <= 3


@pytest.mark.parametrize("path", ["", "x" * 10_000, "zzzzqqqq", "aten."])
def test_nothing_is_suggested_for_noise(path: str) -> None:
    assert default_catalog().suggest(path) == ()


def test_extra_operators_are_granted_to_one_catalog_only() -> None:
    signature = Signature("mylib.scale.default", "overload", (Parameter("x"),))
    catalog = Catalog({"mylib.scale.default": [signature]})
    assert catalog.lookup("mylib.scale.default") == (signature,)
    assert catalog.lookup("aten.relu") == default_catalog().lookup("aten.relu")
    assert catalog.suggest("mylib.scale.defaul")[0] == "mylib.scale.default"
    assert catalog.paths()[-1] == "mylib.scale.default"
    assert default_catalog().lookup("mylib.scale.default") == ()


ATTACKS = [
    "aten.relu.__init__.__globals__",
    "aten.__class__",
    "aten.from_file",
    "aten.from_file.default",
    "aten.set_data.default",
    "torch.from_file",
    "torch.load",
    "torch.save",
    "torch.compile",
    "torch.ops.load_library",
    "torch.ops.aten.relu.default",
    "torch.classes.load_library",
    "torch.hub.load",
    "torch._C._jit_get_all_schemas",
    "operator.attrgetter",
    "operator.methodcaller",
    "operator.call",
    "os.system",
    "builtins.eval",
    "F.handle_torch_function",
    "nn.Module.__subclasses__",
    "nn.functional",
    ".apply_",
    ".data_ptr",
    ".numpy",
    ".backward",
    ".register_hook",
    ".__reduce_ex__",
    ".__class__",
    "..",
    "aten.relu.default\n",
    "aten.relu.default(",
]


@pytest.mark.parametrize("path", ATTACKS)
def test_what_is_not_an_operator_is_unknown(path: str) -> None:
    assert default_catalog().lookup(path) == ()


def test_a_path_is_words_and_dots_and_only_schemas_are_called_like_dunders() -> None:
    for path in default_catalog().paths():
        namespace, *names = path.split(".")
        assert all(name.isidentifier() for name in names), path
        assert namespace == "aten" or not path.count("__"), path
        assert not names[-1].startswith("__"), path


def test_reading_the_catalog_does_not_import_torch() -> None:
    code = (
        "import sys; from rewrite_engine.dsl.catalog import default_catalog;"
        "default_catalog().lookup('aten.conv2d'); default_catalog().suggest('conv2');"
        "sys.exit('torch' in sys.modules)"
    )
    root = str(grammar_directory().parent)
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
