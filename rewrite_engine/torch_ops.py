"""The boundary to torch's operators: spelling to fx target, fx target to signature."""

from __future__ import annotations

import functools
import importlib
import operator
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

import torch
import torch.nn.functional
from torch._ops import OpOverload, OpOverloadPacket

from rewrite_engine.dsl.catalog import NAMESPACES, default_catalog, parse_schema
from rewrite_engine.module_forms import module_form
from rewrite_engine.signatures import Signature

# Operators that torch knows only once their module is imported.
_REGISTERED_BY: Final = {
    "quantized_decomposed": "torch.ao.quantization.fx._decomposed",
    "torchao": "torchao.quantization.quant_primitives",
}
# Of other packages, which need not be installed and are slow to import.
_OPTIONAL: Final = frozenset({"torchao"})
# Of two names of one function, the earlier module's is preferred.
_MODULES: Final[Mapping[str, Any]] = {
    "torch": torch,
    "F": torch.nn.functional,
    "operator": operator,
}
_DTYPES: Final = {
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "f64": torch.float64,
    "i8": torch.int8,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
    "u8": torch.uint8,
    "bool": torch.bool,
    "c64": torch.complex64,
    "c128": torch.complex128,
}
_DTYPE_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}
_CONSTANTS: Final = {
    f"torch.{name}": value
    for name, value in vars(torch).items()
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format))
}


def resolve(signature: Signature) -> tuple[str, Any]:
    """The fx `op` and target of a spelling: a callable, a method name or a class.

    Raises: LookupError if the operator is not in the catalog, not registered, or if
    its library is not installed.
    """
    path = signature.path
    namespace, _, name = path.partition(".")
    _check_known(signature, namespace)
    if signature.kind == "overload":
        return "call_function", _overload(path)
    if signature.kind == "method":
        return "call_method", name
    if signature.kind == "hook":
        return "call_function", signature.granted
    if signature.kind == "module":
        return "call_module", module_form(signature).kind
    return "call_function", getattr(_MODULES[namespace], name)


def missing_libraries() -> frozenset[str]:
    """Namespaces whose operators no graph can hold: nothing has imported them yet."""
    return frozenset(n for n in _OPTIONAL if _REGISTERED_BY[n] not in sys.modules)


def signatures_of(target: object) -> tuple[Signature, ...]:
    """The signatures of a `call_function` target, or of a method's name.

    `()` if the target is neither an operator overload nor in the catalog.
    """
    if isinstance(target, OpOverloadPacket):
        target = only_overload(target)
    if isinstance(target, OpOverload):
        return (schema_signature(target),)
    if isinstance(target, str):
        return default_catalog().lookup(f".{target}")
    path = _function_paths().get(id(target))
    return () if path is None else default_catalog().lookup(path)


def only_overload(packet: OpOverloadPacket) -> OpOverload | None:
    """What a packet (`torch.ops.my.op`) runs, None if that depends on the operands."""
    names = packet.overloads()
    return getattr(packet, names[0]) if len(names) == 1 else None


def packet_of_one(target: object) -> OpOverloadPacket | None:
    """The packet of an operator whose only overload `target` is, None otherwise."""
    packet = getattr(target, "overloadpacket", None)
    return packet if packet is not None and only_overload(packet) is target else None


@functools.cache
def schema_signature(overload: OpOverload) -> Signature:
    """The signature of a registered overload, a custom library's included."""
    schema = overload._schema
    path = f"{schema.name.replace('::', '.')}.{schema.overload_name or 'default'}"
    text = str(schema)
    return parse_schema(path + text[text.index("(") :])


def granted_signatures(
    operators: Iterable[OpOverload | OpOverloadPacket],
) -> dict[str, list[Signature]]:
    """The signatures of operators by the paths that rule files give them.

    A path without its overload means all that are granted but out variants, as it does
    for torch's.

    Raises: TypeError, if something else is given.
    """
    found: dict[str, list[Signature]] = {}
    for overload in dict.fromkeys(o for each in operators for o in _overloads(each)):
        signature = schema_signature(overload)
        found[signature.path] = [signature]
        if not any(argument.is_out for argument in overload._schema.arguments):
            found.setdefault(signature.path.rpartition(".")[0], []).append(signature)
    return found


def _overloads(granted: OpOverload | OpOverloadPacket) -> list[OpOverload]:
    if isinstance(granted, OpOverloadPacket):
        return [getattr(granted, name) for name in granted.overloads()]
    if not isinstance(granted, OpOverload):
        raise TypeError(f"expected an operator, `torch.ops.acme.f`, got {granted!r}")
    return [granted]


def dtype_of(name: str) -> torch.dtype:
    """The dtype that rule files call `name` (`f32`).

    Raises: LookupError if there is none.
    """
    if name not in _DTYPES:
        raise LookupError(f"no dtype is called `{name}`; known: {', '.join(_DTYPES)}")
    return _DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype in rule files, or torch's own for those without one."""
    return _DTYPE_NAMES.get(dtype) or str(dtype).removeprefix("torch.")


def constant(path: str) -> Any:
    """The dtype, layout or memory format called `path` (`torch.channels_last`).

    Raises: LookupError if there is none.
    """
    if path not in _CONSTANTS:
        raise LookupError(f"`{path}` is no dtype, layout or memory format of torch")
    return _CONSTANTS[path]


def _check_known(signature: Signature, namespace: str) -> None:
    # Overloads of other namespaces were granted by the caller, with their schema.
    is_granted = signature.kind == "overload" and namespace not in NAMESPACES
    is_granted = is_granted or signature.granted is not None
    if not is_granted and not default_catalog().lookup(signature.path):
        raise LookupError(f"`{signature.path}` is not in the catalog of operators")


def _overload(path: str) -> OpOverload:
    namespace, name, overload = _parts(path)
    if not _is_registered(namespace, name, overload):
        _import_library(path, namespace)
    if not _is_registered(namespace, name, overload):
        raise LookupError(f"no operator `{path}` is registered with torch")
    # Only now are attributes read: exactly the three names of a registered schema.
    return getattr(getattr(getattr(torch.ops, namespace), name), overload)


def _parts(path: str) -> tuple[str, str, str]:
    parts = path.split(".")
    if len(parts) != 3:
        raise LookupError(f"`{path}` is not of the form `namespace.operator.overload`")
    return parts[0], parts[1], parts[2]


def _is_registered(namespace: str, name: str, overload: str) -> bool:
    if overload.startswith("__"):  # torch raises instead of saying no
        return False
    suffix = "" if overload == "default" else f".{overload}"
    return torch._C._dispatch_has_kernel(f"{namespace}::{name}{suffix}")


def _import_library(path: str, namespace: str) -> None:
    module = _REGISTERED_BY.get(namespace)
    if module is None:
        return
    try:
        importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise LookupError(
            f"`{path}` needs {library}, which is not installed"
        ) from error


@functools.cache
def _function_paths() -> dict[int, str]:
    """Catalog paths by the identity of their function."""
    paths: dict[int, str] = {}
    known = [path.partition(".") for path in default_catalog().paths()]
    for namespace, module in _MODULES.items():
        for start, _, name in known:
            if start == namespace:
                paths.setdefault(id(getattr(module, name)), f"{namespace}.{name}")
    return paths
