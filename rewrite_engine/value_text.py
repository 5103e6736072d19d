"""Types, call targets and literals of a graph as text that is the same in every run."""

from __future__ import annotations

import enum
import operator
import re
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import fx, nn
from torch._ops import HigherOrderOperator

_DTYPE = re.compile(r"(bfloat|float|complex|uint|int)(?=\d)")
_SHORT = {"bfloat": "bf", "float": "f", "complex": "c", "uint": "u", "int": "i"}
_ADDRESS = re.compile(r"( at)? 0x[0-9a-fA-F]+")
_NAMESPACES = (("operator", operator), ("torch", torch), ("F", nn.functional))


@attrs.frozen
class Symbols:
    """Symbolic sizes under names given in order of appearance (`u…` if unbacked)."""

    _names: dict[Any, Any] = attrs.field(factory=dict)

    def text(self, value: Any) -> str:
        """The expression of a SymInt, SymFloat or SymBool."""
        expression = value.node.expr
        for symbol in sorted(expression.free_symbols - self._names.keys(), key=str):
            self._names[symbol] = self._fresh(symbol)
        return str(expression.xreplace(self._names))

    def _fresh(self, symbol: Any) -> Any:
        letter = "u" if symbol.name.startswith("u") else "s"
        taken = sum(name.name.startswith(letter) for name in self._names.values())
        return type(symbol)(f"{letter}{taken}", **symbol.assumptions0)


def dtype_text(dtype: torch.dtype) -> str:
    """`f32`, `bf16`, `i64`, `u8`, `bool`, `f8_e4m3fn`."""
    name = str(dtype).removeprefix("torch.")
    return _DTYPE.sub(lambda found: _SHORT[found[1]], name, count=1)


def type_text(value: Any, symbols: Symbols) -> str:
    """`f32[2, s0]`, `Sym(s0)`, a tuple of these, or the name of a class."""
    if isinstance(value, torch.Tensor):
        sizes = ", ".join(_size_text(size, symbols) for size in value.shape)
        return f"{dtype_text(value.dtype)}[{sizes}]"
    if _is_symbolic(value):
        return f"Sym({symbols.text(value)})"
    if isinstance(value, list | tuple):
        return f"({', '.join(type_text(item, symbols) for item in value)})"
    return type(value).__name__


def literal_text(
    value: Any, node_text: Callable[[fx.Node], str], symbols: Symbols
) -> str:
    """An argument: nodes as `node_text` has them, containers in depth, else a repr."""

    def text(item: Any) -> str:
        return literal_text(item, node_text, symbols)

    if isinstance(value, fx.Node):
        return node_text(value)
    if isinstance(value, list):
        return f"[{', '.join(map(text, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(text, value))}{',' * (len(value) == 1)})"
    if isinstance(value, dict):
        items = (f"{text(key)}: {text(item)}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    if isinstance(value, slice):
        return f"slice({text(value.start)}, {text(value.stop)}, {text(value.step)})"
    if _is_symbolic(value):
        return symbols.text(value)
    return _atom_text(value, symbols)


def _atom_text(value: Any, symbols: Symbols) -> str:
    if value is ...:
        return "..."
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, torch.Tensor):
        return type_text(value, symbols)
    if isinstance(value, torch.device):
        return f"device({str(value)!r})"
    return target_text(value) if callable(value) else without_addresses(repr(value))


def target_text(target: Any) -> str:
    """What a node calls: `aten.add.Tensor`, `torch.add`, `F.relu`, `operator.add`."""
    if isinstance(target, HigherOrderOperator):
        return f"{target.namespace}.{target.name()}"
    if isinstance(target, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        return str(target)
    name = getattr(target, "__name__", None)
    if name is None:
        return without_addresses(repr(target))
    for prefix, namespace in _NAMESPACES:
        if getattr(namespace, name, None) is target:
            return f"{prefix}.{name}"
    module = getattr(target, "__module__", None)
    qualified = getattr(target, "__qualname__", name)
    return qualified if module is None else f"{module}.{qualified}"


def class_text(module: Any) -> str:
    """The class of a module: `nn.Conv2d`, or its full name outside `torch.nn`."""
    cls = type(module)
    if isinstance(module, fx.GraphModule):
        return "GraphModule"  # each one has a class of its own, made at run time
    if getattr(nn, cls.__name__, None) is cls:
        return f"nn.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def without_addresses(text: str) -> str:
    """A repr without the memory addresses in it."""
    return _ADDRESS.sub("", text)


def _size_text(size: Any, symbols: Symbols) -> str:
    return symbols.text(size) if isinstance(size, torch.SymInt) else str(size)


def _is_symbolic(value: Any) -> bool:
    return isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool)
