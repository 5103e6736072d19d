"""How rule files write the calls and literals of a graph."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs
import torch
from torch import fx

from rewrite_engine import torch_ops
from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.catalog import default_catalog
from rewrite_engine.dsl.checked import Operator
from rewrite_engine.dsl.expression_builder import RESERVED
from rewrite_engine.dsl.functions import FUNCTIONS, TORCH_CONSTANTS
from rewrite_engine.dsl.loader import prelude_scope
from rewrite_engine.dsl.operators import Operators
from rewrite_engine.errors import GraphError
from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.lowering.literals import literals_equal
from rewrite_engine.lowering.operators import OperatorPattern, operator_pattern
from rewrite_engine.signatures import Parameter, Signature
from rewrite_engine.value_text import target_text

_LARGEST: Final = 2**63 - 1


@attrs.frozen(eq=False)
class Argument:
    """An argument of a call: its canonical position (None: keyword only) and name."""

    position: int | None
    name: str
    value: Any


@attrs.frozen(eq=False)
class SpelledCall:
    """A call as a rule file writes it: the operator, and what is not at its default."""

    name: str
    arguments: tuple[Argument, ...]


def spelled(node: fx.Node, *, exactly: bool = False) -> SpelledCall:
    """The name and the arguments of a call; `exactly` as its graph spells it.

    Raises: GraphError, if rule files have no name for it.
    """
    if node.op == "call_module":
        raise GraphError(
            f"'{node.name}' calls a module; `torch.export.export` gives functions"
        )
    facts = GraphFacts(node.graph.owning_module)
    for name, pattern in (*(() if exactly else _classes(node)), *_own(node)):
        for spelling in pattern.spellings_of(node):
            arguments = spelling.arguments(node, facts)
            if arguments is not None:
                mentioned = _mentioned(spelling.canonical, arguments)
                return SpelledCall(name, tuple(mentioned))
    raise GraphError(f"rule files have no name for `{target_text(node.target)}`")


def _mentioned(
    signature: Signature, arguments: Mapping[str, Any]
) -> Iterator[Argument]:
    for position, parameter in enumerate(signature.parameters):
        value = arguments[parameter.name]
        if not _is_default(value, parameter):
            place = None if parameter.keyword_only else position
            yield Argument(place, parameter.name, value)


def _is_default(value: Any, parameter: Parameter) -> bool:
    return not isinstance(value, fx.Node) and literals_equal(value, parameter.default)


def _classes(node: fx.Node) -> Iterator[tuple[str, OperatorPattern]]:
    """The prelude's operator classes that cover a call."""
    paths = {signature.path for signature in torch_ops.signatures_of(node.target)}
    for name, operator in _prelude().items():
        # Patterns are built only here: building one may import its library.
        if any(spelling.path in paths for spelling in operator.spellings):
            yield name, operator_pattern(operator, builds=False)


@functools.cache
def _prelude() -> Mapping[str, Operator]:
    operators = Operators()
    found = {
        name: operators.operator_class(definition)
        for name, definition in prelude_scope().definitions.items()
        if isinstance(definition.item, nodes.OpDef)
    }
    return {name: each for name, each in found.items() if each is not None}


def _own(node: fx.Node) -> Iterator[tuple[str, OperatorPattern]]:
    """The call under its own path."""
    for signature in torch_ops.signatures_of(node.target):
        if default_catalog().lookup(signature.path):
            operator = Operator(signature.path, (signature,))
            yield signature.path, operator_pattern(operator)


def literal_text(value: Any) -> str | None:
    """A literal as rule files write it; None if they cannot."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value) if abs(value) <= _LARGEST else None
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else None
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if value.isprintable() else None
    if isinstance(value, torch.dtype | torch.layout | torch.memory_format):
        return str(value) if str(value) in TORCH_CONSTANTS else None
    if isinstance(value, list | tuple):
        parts = [literal_text(item) for item in value]
        known = [part for part in parts if part is not None]
        return f"[{', '.join(known)}]" if len(known) == len(parts) else None
    return None


@functools.cache
def words_taken() -> frozenset[str]:
    """Names that would hide, or be taken for, something else in a rule."""
    return RESERVED | FUNCTIONS.keys() | prelude_scope().definitions.keys()
