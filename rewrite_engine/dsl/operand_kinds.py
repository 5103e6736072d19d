"""What an operand is known to be, and whether the type of a parameter takes it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.calls import schema_text
from rewrite_engine.dsl.checked import (
    Computed,
    MakeList,
    Operator,
    TorchConstant,
    Value,
)
from rewrite_engine.dsl.scopes import Scope
from rewrite_engine.errors import Note
from rewrite_engine.signatures import Parameter, Signature
from rewrite_engine.source import Span

Kind = str | tuple["Kind", ...]
"""What is known of an operand: `any`, `value` (of the graph, a tensor or a number),
`tensor`, `literal` (of a type that the match decides), `none`, the schema's name for
the type of a literal (`bool`, `int`, `float`, `str`, `ScalarType`, `Layout`,
`MemoryFormat`), or the kinds of a list's items.
"""

NUMBERS: Final = frozenset({"bool", "int", "float"})

_TAKEN: Final[Mapping[str, frozenset[str]]] = {
    "Tensor": frozenset({"value", "tensor"}),
    "Scalar": frozenset({"value", "literal", *NUMBERS}),
    "SymInt": frozenset({"value", "literal", "bool", "int"}),
    "int": frozenset({"literal", "bool", "int"}),
    "float": frozenset({"literal", *NUMBERS}),
    "bool": frozenset({"literal", "bool", "int"}),
    "str": frozenset({"literal", "str"}),
    "Device": frozenset({"literal", "str"}),
    "ScalarType": frozenset({"literal", "ScalarType"}),
    "Layout": frozenset({"literal", "Layout"}),
    "MemoryFormat": frozenset({"literal", "MemoryFormat"}),
}
"""The kinds that torch takes for a type; a type that is not here may take anything."""

# torch wraps a number that takes the place of a tensor in the arithmetic of Python.
WRAPPING: Final = frozenset(
    name + ending
    for name in (
        *("add", "sub", "subtract", "mul", "multiply"),
        *("div", "divide", "true_divide", "floor_divide", "copy"),
    )
    for ending in ("", "_")
)

_RESULTS: Final[Mapping[str, Kind]] = {
    "rank": "int",
    "size": "int",
    "numel": "int",
    "uses": "int",
    "len": "int",
    "sibling_uses": "int",
    "shape": ("int",),
    "along": ("int",),
    "dtype": "ScalarType",
    "device": "str",
    "state_name": "str",
    "is_contiguous": "bool",
    "positive": "bool",
    "distinct": "bool",
}
"""What the functions of the language return, where that is always of one type."""

_LIST: Final = re.compile(r"(.+)\[(\d*)\]")
_REMEMBERED: Final = 4096
"""Operators, each with one of its operands, about which answers are kept."""


def constant_kind(value: object) -> Kind:
    """The kind of a literal that is written out."""
    if isinstance(value, tuple):
        return tuple(map(constant_kind, value))
    if isinstance(value, TorchConstant):
        return _constant_type(value.name)
    return "none" if value is None else type(value).__name__


def is_literal(kind: Kind) -> bool:
    """Whether an operand is known to hold no graph value."""
    if isinstance(kind, tuple):
        return all(map(is_literal, kind))
    return kind not in ("any", "value", "tensor")


def literal_kind(expr: nodes.Expr) -> Kind:
    """What is known of a literal that is computed in a match."""
    match expr:
        case nodes.Constant(value):
            return constant_kind(value)
        case nodes.Name(id):
            return _constant_type(id)
        case nodes.ListExpr(items):
            return tuple(map(literal_kind, items))
        case nodes.Compare() | nodes.And() | nodes.Or() | nodes.Not():
            return "bool"
        case nodes.Negate(value):
            return literal_kind(value)
        case nodes.Call(callee):
            return _RESULTS.get(callee.id, "literal")
        case nodes.Star():
            return "any"
    return "literal"


def check_kind(
    scope: Scope,
    operators: Iterable[Operator],
    key: int | str,
    kind: Kind,
    at: nodes.Expr | Value,
    *,
    builds: bool = False,
) -> None:
    """Report an operand that no spelling of an operator takes, `at` its place.

    `operators` holds the operator of every family row. A call that is built (`builds`)
    is one of a function, not of a module.
    """
    for operator in operators:
        refusing = _refusing(operator, key, kind, builds)
        if refusing is None:
            continue
        signature, parameter = refusing
        wanted = f"`{parameter.name}` of `{signature.path}` is `{parameter.type}`"
        notes = (Note(f"the schema is {schema_text(signature)}"),)
        odd, span = _odd_item(kind, at, parameter.type)
        message = f"{wanted}, and this is {_described(odd, parameter.type)}"
        hint = _hint(signature, parameter, kind)
        scope.report("E305", message, span, notes=notes, hint=hint)
        return


def takes(declared: str, kind: Kind, *, wraps_numbers: bool = False) -> bool:
    """Whether a parameter of a declared type takes an operand of a kind."""
    base = declared.removesuffix("?")
    listed = _LIST.fullmatch(base)
    if kind == "none":
        return declared.endswith("?") or declared == ""
    if kind == "any" or (listed is None and base not in _TAKEN):
        return True
    if listed is not None:
        return _list_takes(listed[1], kind, has_length=listed[2] != "")
    if base == "Tensor" and wraps_numbers:
        return kind in _TAKEN["Tensor"] | _TAKEN["Scalar"]
    return kind in _TAKEN[base]


@lru_cache(maxsize=_REMEMBERED)
def takes_none(operator: Operator, key: int | str) -> bool:
    """Whether a parameter may be absent in the schema of some spelling."""
    parameters = (s.parameter(key) for s in operator.spellings)
    return any(p is not None and p.type.endswith("?") for p in parameters)


@lru_cache(maxsize=_REMEMBERED)
def wants_tensor(operator: Operator, key: int | str) -> bool:
    """Whether a graph value at a parameter is a tensor, in each spelling."""
    found = [(s, s.parameter(key)) for s in _other_than_matmul(operator)]
    return all(
        p is not None and p.type in ("Tensor", "Tensor?") and not wraps_numbers(s)
        for s, p in found
    )


@lru_cache(maxsize=_REMEMBERED)
def returns_tensor(operator: Operator) -> bool:
    """Whether the result is a tensor, in each spelling."""
    return all(each.result == "Tensor" for each in _other_than_matmul(operator))


def wraps_numbers(signature: Signature) -> bool:
    """Whether an operator takes Python numbers for tensors, as arithmetic does."""
    parts = signature.path.split(".")
    return parts[1 if signature.kind == "overload" else -1] in WRAPPING


def _other_than_matmul(operator: Operator) -> Iterator[Signature]:
    """The spellings without `@`, the one sign of Python's that no number has."""
    return (s for s in operator.spellings if s.path != "operator.matmul")


@lru_cache(maxsize=_REMEMBERED)
def _refusing(
    operator: Operator, key: int | str, kind: Kind, builds: bool
) -> tuple[Signature, Parameter] | None:
    """The first spelling that has a parameter, if no spelling takes such an operand."""
    spellings = _telling(operator, builds)
    found = [(s, p) for s in spellings if (p := s.parameter(key)) is not None]
    taken = (takes(p.type, kind, wraps_numbers=wraps_numbers(s)) for s, p in found)
    return None if any(taken) else next(iter(found), None)


def _telling(operator: Operator, builds: bool) -> Sequence[Signature]:
    """The spellings that say what an operator takes: Python's own have no types, and
    take what the methods of tensors take. A call that is built is one of no module.
    """
    typed = [s for s in operator.spellings if not s.path.startswith("operator.")]
    built = [s for s in typed if not (builds and s.kind == "module")]
    return built or typed or operator.spellings


def _list_takes(item: str, kind: Kind, *, has_length: bool) -> bool:
    if isinstance(kind, tuple):
        return all(takes(item, each) for each in kind)
    # A number stands for a list of fixed length, and a name for a list in the graph.
    is_list = has_length or kind not in NUMBERS
    return kind != "tensor" and is_list and takes(item, kind)


def _constant_type(name: str) -> str:
    if name == "torch.strided":
        return "Layout"
    is_format = "channels_last" in name or name.endswith("_format")
    return "MemoryFormat" if is_format else "ScalarType"


# --- in words ---


def _odd_item(kind: Kind, at: nodes.Expr | Value, declared: str) -> tuple[Kind, Span]:
    """What is wrong with an operand, and where: of a list, the first wrong item."""
    items: Sequence[nodes.Expr | Value] = ()
    match at:
        case nodes.ListExpr(found) | MakeList(found):
            items = found
        case Computed(nodes.ListExpr(found)):
            items = found
    odd = _first_odd(kind, declared)
    if odd is None or len(items) != len(kind):
        return kind, at.span
    return kind[odd], items[odd].span


def _described(kind: Kind, declared: str) -> str:
    if isinstance(kind, str):
        return _KINDS[kind]
    odd = _first_odd(kind, declared)
    return "a list" if odd is None else f"a list that holds {_described(kind[odd], '')}"


def _first_odd(kind: Kind, declared: str) -> int | None:
    """The position of the first item that a list of a declared type does not take."""
    listed = _LIST.fullmatch(declared.removesuffix("?"))
    if listed is None or isinstance(kind, str):
        return None
    odd = (i for i, each in enumerate(kind) if not takes(listed[1], each))
    return next(odd, None)


def _hint(signature: Signature, parameter: Parameter, kind: Kind) -> str:
    wanted = _wanted(parameter.type)
    if parameter.type == "Tensor" and wraps_numbers(signature):
        wanted = f"{wanted} or a number"
    takes_literals = not parameter.type.startswith("Tensor")
    is_name = kind in ("value", "tensor") and takes_literals
    rest = "; `$name` stands for a literal" if is_name else ""
    return f"`{parameter.name}` takes {wanted}{rest}"


def _wanted(declared: str) -> str:
    """What a type takes, in words."""
    if declared.endswith("?"):
        return f"{_wanted(declared[:-1])} or `none`"
    listed = _LIST.fullmatch(declared)
    if listed is None:
        return _ONE[declared]
    items, length = _MANY[listed[1]], listed[2]
    if length in ("", "1"):
        return f"a list of {items}, `[…]`"
    return f"a list of {length} {items}, or one that stands for all of them"


_KINDS: Final[Mapping[str, str]] = {
    "value": "a graph value",
    "tensor": "a tensor",
    "literal": "a literal",
    "none": "`none`",
    "bool": "a truth value",
    "int": "a whole number",
    "float": "a decimal number",
    "str": "a string",
    "ScalarType": "a dtype",
    "Layout": "a layout",
    "MemoryFormat": "a memory format",
}

_ONE: Final[Mapping[str, str]] = {
    "Tensor": "a graph value",
    "Scalar": "a number",
    "SymInt": "a whole number",
    "int": "a whole number",
    "float": "a number",
    "bool": "`true` or `false`",
    "str": "a string",
    "Device": 'a device, as in `"cpu"`',
    "ScalarType": "a dtype, as in `torch.float32`",
    "Layout": "a layout, as in `torch.strided`",
    "MemoryFormat": "a memory format, as in `torch.channels_last`",
}

_MANY: Final[Mapping[str, str]] = {
    "Tensor": "graph values",
    "Tensor?": "graph values or `none`",
    "Scalar": "numbers",
    "SymInt": "whole numbers",
    "int": "whole numbers",
    "float": "numbers",
    "bool": "truth values",
}
