"""One call in another spelling of its operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import attrs

from rewrite_engine.lowering.literals import literals_equal
from rewrite_engine.lowering.operators import Spelling
from rewrite_engine.signatures import Signature

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""


@attrs.frozen(eq=False)
class Call:
    """A spelling and its arguments by the spelling's own parameter names."""

    spelling: Spelling
    arguments: Mapping[str, Any]


def respelled(call: Call, other: Spelling) -> Arguments | None:
    """The positional and keyword arguments of the same call in another spelling.

    None if that spelling has no place for one of them.
    """
    if other is call.spelling:
        return placed(other.signature, call.arguments)
    own = {mine: canonical for canonical, mine in call.spelling.names.items()}
    given: dict[str, Any] = {}
    for name, value in call.arguments.items():
        place = other.names.get(own.get(name, ""))
        if place is not None:
            given[place] = value
        elif not _is_default(call.spelling.signature, name, value):
            return None
    return placed(other.signature, given)


def placed(signature: Signature, given: Mapping[str, Any]) -> Arguments:
    """Arguments by name as positional ones, by keyword from the first gap on."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    gap = False
    for parameter in signature.parameters:
        if parameter.name not in given:
            gap = True
        elif gap or parameter.keyword_only:
            kwargs[parameter.name] = given[parameter.name]
        else:
            args.append(given[parameter.name])
    return tuple(args), kwargs


def _is_default(signature: Signature, name: str, value: Any) -> bool:
    parameter = signature.parameter(name)
    return parameter is not None and literals_equal(value, parameter.default)
