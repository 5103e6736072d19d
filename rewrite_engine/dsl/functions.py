"""The functions of the language: what may be asked about values and literals.

They are evaluated while matching and stand in guards, conditions and literal
arithmetic. What they compute is defined where they are compiled, in `lowering`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from typing import Literal as OneOf

import attrs

ParameterKind = OneOf["value", "literal", "list", "any"]


@attrs.frozen
class Function:
    """A function and what it takes: graph values, literals, lists or any of them."""

    name: str
    parameters: tuple[ParameterKind, ...]
    variadic: bool = False
    """Whether the last parameter may be given any number of times, at least once."""
    is_condition: bool = False
    """Whether the result is a truth value."""
    gives_list: bool = False

    def parameter(self, position: int) -> ParameterKind | None:
        """What stands at a position; None if the function takes fewer arguments."""
        if position < len(self.parameters):
            return self.parameters[position]
        return self.parameters[-1] if self.variadic else None

    def __str__(self) -> str:
        last = ", …" if self.variadic else ""
        return f"{self.name}({', '.join(self.parameters)}{last})"


_ALL: Final = (
    Function("rank", ("value",)),
    Function("shape", ("value",), gives_list=True),
    Function("size", ("value", "literal")),
    Function("numel", ("value",)),
    Function("dtype", ("value",)),
    Function("device", ("value",)),
    Function("is_contiguous", ("value",), is_condition=True),
    Function("uses", ("value",)),
    Function("positive", ("value",), is_condition=True),
    Function("state_name", ("value",)),
    Function("sibling_uses", ("value", "literal")),
    Function("distinct", ("value", "value"), variadic=True, is_condition=True),
    Function("along", ("literal", "literal", "literal"), gives_list=True),
    Function("min", ("literal",), variadic=True),
    Function("max", ("literal",), variadic=True),
    Function("abs", ("literal",)),
    Function("len", ("list",)),
    Function("prod", ("list",)),
)

FUNCTIONS: Final[Mapping[str, Function]] = {f.name: f for f in _ALL}

ATTRIBUTES: Final[Mapping[str, str]] = {
    "dtype": "dtype({})",
    "device": "device({})",
    "shape": "shape({})",
    "size": "size({}, 0)",
    "ndim": "rank({})",
    "dim": "rank({})",
    "numel": "numel({})",
    "is_contiguous": "is_contiguous({})",
}
"""What an attribute or a method of a tensor says, as the language asks for it."""

DTYPES: Final[Mapping[str, str]] = {
    "bool": "bool",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "u64": "uint64",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "f16": "float16",
    "bf16": "bfloat16",
    "f32": "float32",
    "f64": "float64",
    "c64": "complex64",
    "c128": "complex128",
    "f8e4m3": "float8_e4m3fn",
    "f8e5m2": "float8_e5m2",
}
"""Element types as rule files write them, and their names in torch."""

TORCH_CONSTANTS: Final = frozenset(
    f"torch.{name}"
    for name in (
        *DTYPES.values(),
        "strided",
        "contiguous_format",
        "preserve_format",
        "channels_last",
        "channels_last_3d",
    )
)
"""What a dotted name may stand for where a literal is expected."""
