"""The places of a serialized program whose text torch turns into Python."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from typing import Any

# Names become parameters and variables of generated code.
_NAME = re.compile(r"[\w.]*")

# Operators are found by walking attributes: `torch.os.system` would be one. Few of them
# begin with two underscores: those of `a & b` and its like.
_NAMESPACED = r"torch\.ops\.(?!__)\w+\.((?!__)\w+|__i?(and|or|xor|[lr]shift)__)"
_OPERATOR = re.compile(
    rf"{_NAMESPACED}(\.(?!__)\w+)?|(_operator|math)\.(?!__)\w+|torch\._?sym_\w+"
)

# Sizes are evaluated: constructors of sympy and torch have capitals, builtins do not.
_CONSTRUCTOR = re.compile(r"[A-Z]\w*|floor|ceiling")
_SYMBOL_OR_NUMBER = re.compile(r"[\w.+-]{0,64}")
_EXPRESSION_NODES = (
    ast.Expression,
    ast.Call,
    ast.Name,
    ast.Load,
    ast.Constant,
    ast.keyword,
    ast.UnaryOp,
    ast.USub,
    ast.Tuple,
)

# Containers of inputs may name a module to import; an escaped letter could hide it.
_IMPORTING = re.compile(r"__enum__|default_factory_module|\\u00[0-7]")


def find_code(program: Any) -> str | None:
    """What in a program could run code while it is loaded, as a phrase, or None."""
    for key, text in _texts(program):
        harmless, phrase = _CHECKS.get(key, _ANYTHING)
        if not harmless(text):
            return f"{phrase} `{_shortened(text)}`"
    return None


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    """Every text with the key that it stands under; no recursion, files may be deep."""
    todo: list[tuple[str, Any]] = [("", value)]
    while todo:
        key, value = todo.pop()
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, dict):
            todo.extend(value.items())
        elif isinstance(value, list):
            todo.extend((key, item) for item in value)


def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def _is_operator(text: str) -> bool:
    return _OPERATOR.fullmatch(text) is not None


def _imports_nothing(text: str) -> bool:
    return _IMPORTING.search(text) is None


def _is_size(text: str) -> bool:
    """Whether a symbolic expression is nested constructors, symbols and numbers."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(map(_is_size_node, ast.walk(tree)))


def _is_size_node(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=called)):
            return _CONSTRUCTOR.fullmatch(called) is not None
        case ast.Call():
            return False
        case ast.Constant(value=str(text)):
            return _SYMBOL_OR_NUMBER.fullmatch(text) is not None
        case ast.Name(id=name):
            return not name.startswith("_")
    return isinstance(node, _EXPRESSION_NODES)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."


_CHECKS: dict[str, tuple[Callable[[str], bool], str]] = {
    "name": (_is_name, "the graph has the name"),
    "as_name": (_is_name, "the graph has the name"),
    "forward_arg_names": (_is_name, "the graph has the name"),
    "target": (_is_operator, "the graph calls"),
    "expr_str": (_is_size, "the graph has the size"),
    "in_spec": (_imports_nothing, "the inputs are described by"),
    "out_spec": (_imports_nothing, "the outputs are described by"),
}
_ANYTHING: tuple[Callable[[str], bool], str] = (lambda _: True, "")
