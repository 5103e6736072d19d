"""What a rule wants and what the graph has, in words."""

from __future__ import annotations

from typing import Any, Final

from torch import fx

from rewrite_engine.explaining.dialects import call_text
from rewrite_engine.explaining.steps import Place
from rewrite_engine.lowering.operators import OperatorPattern
from rewrite_engine.matching.reference import Env
from rewrite_engine.value_text import Symbols, literal_text

_ROWS_SHOWN: Final = 3


def called(node: fx.Node) -> str:
    """What a node is."""
    if node.op == "placeholder":
        return f"the input `%{node.name}`"
    if node.op == "get_attr":
        return f"the constant `{node.target}`"
    return f"`{call_text(node)}` (`%{node.name}`)"


def bound_elsewhere(pattern: fx.Node, env: Env, value: Any, place: Place) -> str:
    """A name that has another value elsewhere."""
    bound = env[pattern]
    names = pattern.meta.get("names") or [str(pattern.target)]
    sign = "$" if pattern.meta.get("role") == "literal" else ""
    known = "absent" if bound is None else quoted(bound)
    return f"`{sign}{names[0]}` is {known} elsewhere, {found_there(value, place)}"


def found_there(value: Any, place: Place) -> str:
    """What the graph has there: `argument `other` of `%add` is 2.0`."""
    where = "here it"
    if place.reader is not None and place.argument is not None:
        where = f"`{place.argument}` of `%{place.reader.name}`"
    return f"{where} is {'absent' if value is None else quoted(value)}"


def quoted(value: Any) -> str:
    """A literal, or a node by its name."""
    text = literal_text(value, lambda node: f"%{node.name}", Symbols())
    return f"`{text}`"


def operator_text(operator: OperatorPattern) -> str:
    """An operator by its name; of a family the operators of its rows, too."""
    if not operator.is_slot:
        return f"`{operator}`"
    names = [f"`{row.name}`" for row in operator.rows[:_ROWS_SHOWN]]
    more = ", …" if len(operator.rows) > _ROWS_SHOWN else ""
    return f"`{operator}` ({', '.join(names)}{more})"
