"""Writes `operators.txt`, the operators that rule files may name, from torch itself.

Run it with the torch (and torchao) release that the package supports:

    python grammar/generate_operators.py
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import json
import operator
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed
from torch._jit_internal import boolean_dispatched
from torch.jit._builtins import _find_builtin
from torch.overrides import get_testing_overrides

# These reach files, print, swap storages, skip their checks, or are no operators.
EXCLUDED = frozenset(
    {
        "_backward",
        "_print",
        "_sparse_bsc_tensor_unsafe",
        "_sparse_bsr_tensor_unsafe",
        "_sparse_compressed_tensor_unsafe",
        "_sparse_coo_tensor_unsafe",
        "_sparse_csc_tensor_unsafe",
        "_sparse_csr_tensor_unsafe",
        "assert_int_or_pair",
        "backward",
        "from_file",
        "set_",
        "set_data",
    }
)
TORCHAO = (
    "choose_qparams_affine",
    "choose_scale_float8",
    "dequantize_affine",
    "dequantize_affine_float8_non_decomposed",
    "quantize_affine",
    "quantize_affine_float8_non_decomposed",
)
# fmt: off
OPERATOR = (
    "abs", "add", "and_", "contains", "delitem", "eq", "floordiv", "ge", "getitem",
    "gt", "iadd", "iand", "ifloordiv", "imatmul", "imod", "imul", "index", "inv",
    "invert", "ior", "ipow", "isub", "itruediv", "ixor", "le", "lshift", "lt",
    "matmul", "mod", "mul", "ne", "neg", "not_", "or_", "pos", "pow", "rshift",
    "setitem", "sub", "truediv", "truth", "xor",
)
# Tensor methods that are written in Python's C interface and carry no schema.
CONVERSIONS = (
    "bfloat16", "bool", "byte", "char", "cpu", "double", "float", "half", "int",
    "long", "short",
)
# fmt: on

# Module classes that compute one function of their input, their tensors and their
# settings, which they keep under the names of its parameters.
MODULE_FUNCTIONS = {
    **{
        f"{kind}{n}d": f"F.{function}{n}d"
        for n in (1, 2, 3)
        for kind, function in (
            ("AdaptiveAvgPool", "adaptive_avg_pool"),
            ("AdaptiveMaxPool", "adaptive_max_pool"),
            ("AvgPool", "avg_pool"),
            ("Conv", "conv"),
            ("ConvTranspose", "conv_transpose"),
            ("Dropout", "dropout"),
            ("MaxPool", "max_pool"),
        )
    },
    **{f"BatchNorm{n}d": "F.batch_norm" for n in (1, 2, 3)},
    **{
        kind: f"F.{function}"
        for kind, function in (
            ("Bilinear", "bilinear"),
            ("CELU", "celu"),
            ("Dropout", "dropout"),
            ("ELU", "elu"),
            ("Embedding", "embedding"),
            ("GELU", "gelu"),
            ("GLU", "glu"),
            ("GroupNorm", "group_norm"),
            ("Hardshrink", "hardshrink"),
            ("Hardsigmoid", "hardsigmoid"),
            ("Hardswish", "hardswish"),
            ("Hardtanh", "hardtanh"),
            ("LayerNorm", "layer_norm"),
            ("LeakyReLU", "leaky_relu"),
            ("Linear", "linear"),
            ("LogSigmoid", "logsigmoid"),
            ("LogSoftmax", "log_softmax"),
            ("Mish", "mish"),
            ("PReLU", "prelu"),
            ("PixelShuffle", "pixel_shuffle"),
            ("PixelUnshuffle", "pixel_unshuffle"),
            ("RMSNorm", "rms_norm"),
            ("ReLU", "relu"),
            ("ReLU6", "relu6"),
            ("SELU", "selu"),
            ("SiLU", "silu"),
            ("Softmax", "softmax"),
            ("Softmin", "softmin"),
            ("Softplus", "softplus"),
            ("Softshrink", "softshrink"),
            ("Softsign", "softsign"),
            ("Tanhshrink", "tanhshrink"),
            ("Threshold", "threshold"),
        )
    },
    "Flatten": "torch.flatten",
    "Sigmoid": "torch.sigmoid",
    "Tanh": "torch.tanh",
}
# Sequences that quantization fuses into one module, by the functions of their parts.
FUSED = {
    "LinearReLU": ("F.linear", "F.relu"),
    "ConvReLU1d": ("F.conv1d", "F.relu"),
    "ConvReLU2d": ("F.conv2d", "F.relu"),
    "ConvReLU3d": ("F.conv3d", "F.relu"),
}
# Modules that watch a value, and the state that they keep.
OBSERVERS = {
    "HistogramObserver": ("min_val", "max_val"),
    "MinMaxObserver": ("min_val", "max_val"),
    "MovingAverageMinMaxObserver": ("min_val", "max_val"),
    "MovingAveragePerChannelMinMaxObserver": ("min_val", "max_val"),
    "PerChannelMinMaxObserver": ("min_val", "max_val"),
    "PlaceholderObserver": (),
    "FakeQuantize": ("min_val", "max_val", "scale", "zero_point"),
    "FusedMovingAvgObsFakeQuantize": ("min_val", "max_val", "scale", "zero_point"),
    "_InputEqualizationObserver": ("min_val", "max_val", "equalization_scale"),
    "_WeightEqualizationObserver": ("min_val", "max_val", "equalization_scale"),
}

TYPES: dict[Any, str] = {
    torch.Tensor: "Tensor",
    torch.dtype: "ScalarType",
    torch.device: "Device",
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
}


def lines(with_torchao: bool) -> list[str]:
    """Every line of the file, grouped by operator."""
    found = [
        *overload_lines("aten"),
        *overload_lines("quantized_decomposed"),
        *(torchao_lines() if with_torchao else ()),
        *function_lines("torch", torch),
        *function_lines("F", torch.nn.functional),
        *operator_lines(),
        *method_lines(),
        *module_lines(),
    ]
    return sorted(found, key=_operator_of)


def overload_lines(namespace: str) -> Iterator[str]:
    """Registered schemas, the overloads of each operator in torch's order."""
    for name in _registered(namespace):
        if name in EXCLUDED:
            continue
        for schema in _schemas(f"{namespace}::{name}"):
            if _is_dispatched(schema):
                overload = schema.overload_name or "default"
                yield _renamed(schema, f"{namespace}.{name}.{overload}")


def torchao_lines() -> Iterator[str]:
    """The operators that torchao's quantization primitives register."""
    importlib.import_module("torchao.quantization.quant_primitives")
    for name in TORCHAO:
        for schema in _schemas(f"torchao::{name}"):
            yield _renamed(
                schema, f"torchao.{name}.{schema.overload_name or 'default'}"
            )


def function_lines(prefix: str, namespace: Any) -> Iterator[str]:
    """Public functions on tensors: by schema if built in, else as Python has them."""
    for name in dir(namespace):
        if not name.startswith("_") and name not in EXCLUDED:
            yield from function_lines_of(prefix, namespace, name)


def function_lines_of(prefix: str, namespace: Any, name: str) -> Iterator[str]:
    """The lines of one function, none if it is no public function on tensors."""
    function = getattr(namespace, name)
    if not callable(function):
        return
    if not inspect.isfunction(function):
        yield from _builtin_lines(f"{prefix}.{name}", function)
    elif function in _overridable() or function.__module__ == "torch.nn.functional":
        yield from _python_lines(f"{prefix}.{name}", function)


@functools.cache
def _overridable() -> Mapping[Any, Any]:
    return get_testing_overrides()


def operator_lines() -> Iterator[str]:
    """Functions of the `operator` module; they take positional arguments only."""
    for name in OPERATOR:
        parameters = inspect.signature(getattr(operator, name)).parameters
        yield f"operator.{name}({', '.join(parameters)}) -> Any"


def method_lines() -> Iterator[str]:
    """Tensor methods that carry a schema, and the conversions."""
    for name in dir(torch.Tensor):
        if name in CONVERSIONS:
            option = "*, MemoryFormat memory_format=torch.preserve_format"
            yield f".{name}(Tensor self, {option}) -> Tensor"
        elif not name.startswith("_") and name not in EXCLUDED:
            schemas = filter(_takes_self, _schemas(f"aten::{name}"))
            yield from _plain(f".{name}", schemas)


def module_lines() -> Iterator[str]:
    """Public module classes, with the parameters of `forward`."""
    for name in torch.nn.modules.__all__:
        cls = getattr(torch.nn, name)
        if name in MODULE_FUNCTIONS:
            yield _module_line(f"nn.{name}", (MODULE_FUNCTIONS[name],))
        elif issubclass(cls, torch.nn.Module):
            yield from _python_lines(f"nn.{name}", cls.forward)
    for name, functions in FUSED.items():
        yield _module_line(f"nni.{name}", functions)
    for name, state in OBSERVERS.items():
        tensors = "".join(f", Tensor {tensor}" for tensor in state)
        yield f"ao.{name}(Tensor input{', *' * bool(state)}{tensors}) -> Tensor"
    watched = "Tensor input, *, Tensor min_val, Tensor max_val, Tensor alpha"
    yield f"equalization.InputEqualizationObserver({watched}) -> Tensor"


def _module_line(path: str, functions: tuple[str, ...]) -> str:
    """A module class with the parameters of the function that it computes."""
    space, _, name = functions[0].partition(".")
    namespace = torch.nn.functional if space == "F" else torch
    first = next(line for line in function_lines_of(space, namespace, name))
    schema = first.removeprefix(functions[0])
    return f"{path}{schema} = {' > '.join(functions)}"


def _builtin_lines(path: str, function: Any) -> Iterator[str]:
    qualified = _find_builtin(function)
    if qualified is None:
        return
    # The Python interface of built-in functions calls its first parameter `input`.
    for line in _plain(path, _schemas(qualified)):
        yield line.replace(" self,", " input,", 1).replace(" self)", " input)", 1)


def _python_lines(path: str, function: Callable[..., Any]) -> Iterator[str]:
    """One line, or none if the function takes `*args`."""
    dispatch = boolean_dispatched.get(function)
    signature = inspect.signature(dispatch["if_false"] if dispatch else function)
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return
    yield f"{path}({', '.join(_declarations(parameters))}) -> {_returned(signature)}"


def _declarations(parameters: Iterable[inspect.Parameter]) -> Iterator[str]:
    keyword_only = False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            yield "*"
        yield _declaration(parameter)


def _declaration(parameter: inspect.Parameter) -> str:
    text = f"{_type(parameter.annotation)} {parameter.name}".strip()
    if parameter.default is parameter.empty:
        return text
    return f"{text}={_default(parameter.default)}"


def _default(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _type(annotation: Any) -> str:
    """A schema's type for an annotation; empty for what may be several things."""
    if annotation in TYPES:
        return TYPES[annotation]
    arguments = typing.get_args(annotation)
    rest = [a for a in arguments if a is not type(None)]
    if len(arguments) == 2 and len(rest) == 1 and rest[0] in TYPES:
        return f"{TYPES[rest[0]]}?"
    if typing.get_origin(annotation) is list and rest[0] in TYPES:
        return f"{TYPES[rest[0]]}[]"
    return ""


def _returned(signature: inspect.Signature) -> str:
    annotation = signature.return_annotation
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple and Ellipsis not in arguments:
        return f"({', '.join('Tensor' for _ in arguments)})"
    return "Tensor"


def _registered(namespace: str) -> list[str]:
    qualified = torch._C._dispatch_get_all_op_names()
    mine = [name for name in qualified if name.startswith(f"{namespace}::")]
    return sorted({name.partition("::")[2].partition(".")[0] for name in mine})


def _schemas(qualified: str) -> list[Any]:
    """Schemas of an operator, the one without an overload name first."""
    found = torch._C._jit_get_schemas_for_operator(qualified)
    return sorted(found, key=lambda schema: schema.overload_name != "")


@functools.cache
def _dispatched() -> frozenset[str]:
    return frozenset(torch._C._dispatch_get_all_op_names())


def _is_dispatched(schema: Any) -> bool:
    """Whether the dispatcher knows it; others are TorchScript's own, on scalars."""
    overload = f".{schema.overload_name}" if schema.overload_name else ""
    return f"{schema.name}{overload}" in _dispatched()


def _takes_self(schema: Any) -> bool:
    arguments = schema.arguments
    return bool(arguments) and (arguments[0].name, str(arguments[0].type)) == (
        "self",
        "Tensor",
    )


def _plain(path: str, schemas: Iterable[Any]) -> Iterator[str]:
    """Schemas a Python call can reach: no out variant, no named dimension."""
    for schema in schemas:
        text = str(schema)
        is_out = any(a.is_out for a in schema.arguments)
        if is_out or "Dimname" in text:
            continue
        if _is_dispatched(schema) or _takes_self(schema):
            yield _renamed(schema, path)


def _renamed(schema: Any, path: str) -> str:
    return path + str(schema)[str(schema).index("(") :]


def _operator_of(line: str) -> str:
    path = line[: line.index("(")]
    namespace, _, rest = path.partition(".")
    is_overload = namespace in ("aten", "quantized_decomposed", "torchao")
    return f"{namespace}.{rest.partition('.')[0]}" if is_overload else path


def main() -> None:
    """Write the file beside this script."""
    if importlib.util.find_spec("torchao") is None:
        raise SystemExit("torchao is needed: its operators are part of the file")
    text = "\n".join(lines(with_torchao=True)) + "\n"
    Path(__file__).with_name("operators.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
