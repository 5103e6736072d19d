"""The closed table of operators that a rule file may name, read without torch.

`grammar/operators.txt` holds one schema a line, grouped by operator, overloads in the
order in which torch declares them. The file is indexed by name once; a schema is
parsed when somebody asks for it.
"""

from __future__ import annotations

import ast
import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from rewrite_engine.assets import grammar_directory
from rewrite_engine.signatures import REQUIRED, Kind, Parameter, Signature

OVERLOAD_NAMESPACES: Final = frozenset({"aten", "quantized_decomposed", "torchao"})
"""Namespaces of registered schemas: their paths are `namespace.operator.overload`."""

MODULE_NAMESPACES: Final = frozenset({"nn", "nni", "ao", "equalization"})
"""Module classes: torch's, its fused sequences, its observers."""

NAMESPACES: Final = OVERLOAD_NAMESPACES | MODULE_NAMESPACES | {"torch", "F", "operator"}
"""What a path may start with, beside the bare dot of a tensor method."""

_LONG_FORMS: Final = {
    "torch.ops.": "",
    "torch.nn.functional.": "F.",
    "torch.ao.nn.intrinsic.": "nni.",
    "torch.ao.quantization.": "ao.",
    "torch.nn.": "nn.",
    "torch.Tensor.": ".",
    "Tensor.": ".",
}
# The order of suggestions from other namespaces; "" holds the tensor methods.
_PREFERENCE: Final = (
    *("aten", "quantized_decomposed", "torchao"),
    *("torch", "F", "operator", "nn", "nni", "ao", ""),
)
_LONGEST_SUGGESTED: Final = 64
_MOST_SUGGESTED: Final = 3

# An out variant writes a keyword-only argument: `*, Tensor(a!) out`.
_OUT_VARIANT: Final = re.compile(r"\*, .*!.*\) -> ")
# One element of a list of parameters: commas in brackets or strings do not end it.
_ELEMENT: Final = re.compile(r'(?:"(?:[^"\\]|\\.)*"|\([^()]*\)|\[[^\]]*\]|[^,])+')
_ALIAS: Final = re.compile(r"\([a-z*!|> -]+\)")
_FIXED_LENGTH: Final = re.compile(r"\[(\d+)\]$")
_NUMBER_WORDS: Final = {"inf": float("inf"), "-inf": -float("inf")}


_ASSUMED_OPERANDS: Final = 16


class Catalog:
    """Operators by the name they have in rule files.

    `extra` grants further operators: path to signatures, in order of preference.
    """

    def __init__(self, extra: Mapping[str, Sequence[Signature]] | None = None) -> None:
        self._extra = {path: tuple(found) for path, found in (extra or {}).items()}

    def lookup(self, path: str) -> tuple[Signature, ...]:
        """The signatures of `path`, `()` if it is unknown.

        A path without its overload (`aten.conv2d`) means all the operator's overloads
        but its out variants, in torch's order. `nn.Linear+` also means subclasses.
        """
        if path.endswith("+"):
            found = self.lookup(path[:-1])
            modules = (s for s in found if s.kind == "module")
            return tuple(attrs.evolve(s, path=path) for s in modules)
        return self._extra.get(path) or _lookup(path)

    def paths(self) -> tuple[str, ...]:
        """Every full path, the extra ones last."""
        return (*_index().schemas, *self._extra)

    def suggest(self, path: str) -> tuple[str, ...]:
        """Known paths that `path` may have been meant to be, the likeliest first."""
        if len(path) > _LONGEST_SUGGESTED:
            return ()
        granted = difflib.get_close_matches(path, self._extra)
        return tuple(dict.fromkeys((*granted, *_suggest(path))))[:_MOST_SUGGESTED]


class AssumingCatalog(Catalog):
    """A catalog for checking files before anybody runs them: the hooks that a file asks
    for are taken to be granted, with whatever operands it gives them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._assumed: dict[str, tuple[Signature, ...]] = {}

    def assume(self, path: str, keywords: Iterable[str]) -> None:
        """Take a hook to be granted; `keywords` may be given by name."""
        names = [*(f"operand {i}" for i in range(_ASSUMED_OPERANDS)), *keywords]
        parameters = tuple(Parameter(name, default=None) for name in names)
        self._assumed[path] = (Signature(path, "hook", parameters),)

    def lookup(self, path: str) -> tuple[Signature, ...]:
        return self._assumed.get(path) or super().lookup(path)


@functools.cache
def checking_catalog() -> AssumingCatalog:
    """The operators of torch, and hooks that are granted later."""
    return AssumingCatalog()


@functools.cache
def default_catalog() -> Catalog:
    """The operators of torch alone."""
    return Catalog()


def parse_schema(text: str) -> Signature:
    """The signature that `path(parameters) -> returns` states.

    Alias annotations (`Tensor(a!)`) are dropped from the types. The line of a module
    class ends with the functions that it computes, ` = F.linear > F.relu`.
    """
    head, _, returned = text.rpartition(") -> ")
    path, _, parameters = head.partition("(")
    returned, _, functions = returned.partition(" = ")
    return Signature(
        path,
        _kind(path),
        _parameters(parameters),
        _count(returned),
        _ALIAS.sub("", returned),
        tuple(functions.split(" > ")) if functions else (),
    )


@attrs.frozen
class _Index:
    """Lines by full path, and full paths by operator (`aten.add`)."""

    schemas: dict[str, list[str]]
    overloads: dict[str, list[str]]

    def operators(self, namespace: str) -> list[str]:
        """Names of the operators in a namespace, without the namespace."""
        start = f"{namespace}."
        known = self.overloads if namespace in OVERLOAD_NAMESPACES else self.schemas
        return [path[len(start) :] for path in known if path.startswith(start)]


@functools.cache
def _index() -> _Index:
    text = (grammar_directory() / "operators.txt").read_text(encoding="utf-8")
    index = _Index({}, {})
    for line in text.splitlines():
        path = line[: line.index("(")]
        index.schemas.setdefault(path, []).append(line)
    for path in index.schemas:
        namespace, _, name = path.partition(".")
        if namespace in OVERLOAD_NAMESPACES:
            operator = f"{namespace}.{name.partition('.')[0]}"
            index.overloads.setdefault(operator, []).append(path)
    return index


@functools.lru_cache(maxsize=4096)
def _lookup(path: str) -> tuple[Signature, ...]:
    index = _index()
    if path in index.schemas:
        return tuple(map(parse_schema, index.schemas[path]))
    lines = [index.schemas[full][0] for full in index.overloads.get(path, ())]
    return tuple(parse_schema(line) for line in lines if not _OUT_VARIANT.search(line))


def _kind(path: str) -> Kind:
    if path.startswith("."):
        return "method"
    if path.partition(".")[0] in MODULE_NAMESPACES:
        return "module"
    if path.startswith(("torch.", "F.", "operator.")):
        return "function"
    return "overload"


def _parameters(text: str) -> tuple[Parameter, ...]:
    found: list[Parameter] = []
    keyword_only = False
    for element in map(str.strip, _ELEMENT.findall(text)):
        if element == "*":
            keyword_only = True
        elif element:
            found.append(_parameter(element, keyword_only))
    return tuple(found)


def _parameter(text: str, keyword_only: bool) -> Parameter:
    declared, has_default, default = text.partition("=")
    annotated, _, name = declared.rpartition(" ")
    type_text = _ALIAS.sub("", annotated)
    value = _value(default, type_text) if has_default else REQUIRED
    return Parameter(name, type_text, value, keyword_only)


def _value(text: str, type_text: str) -> Any:
    """A default as Python has it; a torch constant stays text (`torch.strided`)."""
    if text in _NUMBER_WORDS:
        return _NUMBER_WORDS[text]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    length = _FIXED_LENGTH.search(type_text)
    if length is None or isinstance(value, list):
        return value
    # `int[2] padding=0` is short for `[0, 0]`.
    return [value] * int(length.group(1))


def _count(returned: str) -> int:
    if not returned.startswith("("):
        return 1
    return len([e for e in _ELEMENT.findall(returned[1:-1]) if e.strip()])


@functools.lru_cache(maxsize=256)
def _suggest(path: str) -> tuple[str, ...]:
    path = _short_form(path)
    if _lookup(path):
        return (path,)
    namespace, dot, rest = path.partition(".")
    name, _, overload = rest.partition(".") if dot else (path, "", "")
    siblings = _lookup(f"{namespace}.{name}") if overload else ()
    if siblings:
        return tuple(signature.path for signature in siblings)
    return tuple(_similar(name, namespace if dot else None))


def _short_form(path: str) -> str:
    for long, short in _LONG_FORMS.items():
        if path.startswith(long):
            return short + path.removeprefix(long)
    return path


def _similar(name: str, namespace: str | None) -> list[str]:
    """Operators called almost `name`, first those of `namespace`."""
    order = sorted(_PREFERENCE, key=lambda other: other != namespace)
    return [
        f"{other}.{close}"
        for other in order
        for close in difflib.get_close_matches(name, _index().operators(other), 1, 0.75)
    ]
