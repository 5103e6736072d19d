"""Calls of a left side, and one call in another spelling of its operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import attrs

from rewrite_engine.lowering.instances import Instance
from rewrite_engine.lowering.literals import literals_equal
from rewrite_engine.lowering.spellings import Spelling
from rewrite_engine.signatures import Signature
from rewrite_engine.verification.operands import Names

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


def computes(spelling: Spelling) -> bool:
    """Whether it is a function, or a module that computes one."""
    return spelling.form is None or bool(spelling.signature.functions)


def operator_name(spelling: Spelling) -> str:
    """`conv2d` of `aten.conv2d.padding`, `torch.conv2d`, `F.conv2d` and `nn.Conv2d`."""
    signature = spelling.signature
    if signature.functions:
        return signature.functions[0].rpartition(".")[2]
    parts = signature.path.strip(".").split(".")
    return parts[1] if signature.kind == "overload" else parts[-1]


def calls_of(instance: Instance) -> Names:
    """The operator of each call of a left side, and its arguments by name."""
    return {
        node: (operator_name(s), s.signature.bind(node.args, node.kwargs) or {})
        for node, s in instance.spellings.items()
    }
