"""A call's arguments with some of them exchanged, everything else as it was written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from rewrite_engine.lowering.literals import literals_equal
from rewrite_engine.lowering.spellings import Spelling


def exchange(
    spelling: Spelling, call: fx.Node, operands: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call's arguments, positional and keyword as they were, with new operands.

    `operands` are keyed by the spelling's own parameter names. One that the call did
    not give is added only if it is not at its default, so no default ever appears that
    was not in the graph.
    """
    positions = {p.name: i for i, p in enumerate(spelling.signature.positional)}
    first_only = not any(positions.get(name, 0) for name in operands)
    given = call.args if first_only else spelling.signature.gathered(call.args)
    args, kwargs = list(given), dict(call.kwargs)
    for name, value in operands.items():
        position = positions.get(name, len(args) + 1)
        parameter = spelling.signature.parameter(name)
        assert parameter is not None
        if position < len(args):
            args[position] = value
        elif name in kwargs or not literals_equal(value, parameter.default):
            if position == len(args) and name not in kwargs:
                args.append(value)
            else:
                kwargs[name] = value
    return tuple(args), kwargs
