"""Steps of a rule: where they are written, and how many there are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import attrs
from torch import fx

from rewrite_engine.lowering import markers
from rewrite_engine.lowering.operators import OperatorPattern
from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.source import Span

_CALLEE: Final = re.compile(r"[\w.]+\??(?=\()")


@attrs.frozen(eq=False)
class Place:
    """Where a pattern stands: the operand `key` of the call `pattern`, for which
    `reader` is taken in the graph. Without a key it is the pattern's own place.
    """

    pattern: fx.Node
    key: int | str | None = None
    reader: fx.Node | None = None

    def span(self, rule: CompiledRule) -> Span:
        """Where the rule says what is wanted here."""
        operands: Mapping[int | str, Span] = self.pattern.meta.get("operands", {})
        if self.key is not None and self.key in operands:
            return operands[self.key]
        return callee_span(rule, self.pattern)

    @property
    def argument(self) -> str | None:
        """The name of the parameter, if it is an operand."""
        operator = self.pattern.target
        if self.key is None or not isinstance(operator, OperatorPattern):
            return None
        parameter = operator.canonical(0).parameter(self.key)
        assert parameter is not None
        return parameter.name


def is_call(pattern: Any) -> bool:
    """Whether a pattern is matched by a call of its own."""
    return isinstance(pattern, fx.Node) and isinstance(pattern.target, OperatorPattern)


def callee_span(rule: CompiledRule, pattern: fx.Node) -> Span:
    """Where the rule names the operator of a call; all of it, if it has a sign."""
    span: Span = pattern.meta["span"]
    callee = _CALLEE.match(rule.source.text, span.start, span.end)
    return span if callee is None else Span(*callee.span())


def counts(pattern: Any, env: Mapping[Any, Any]) -> int:
    """1 if a pattern that held says something: a fresh name takes any value."""
    if not isinstance(pattern, fx.Node):
        return 1
    if pattern.op == "placeholder":
        return int(pattern in env)
    return int(isinstance(pattern.target, OperatorPattern))


def steps_below(pattern: Any, env: Mapping[Any, Any]) -> int:
    """The steps of a pattern that is not looked at.

    Options are left out, and what other parts of the rule refer to: it is looked at
    there.
    """
    total, todo, seen = 0, [pattern], set(env)
    while todo:
        item = todo.pop()
        if isinstance(item, (list, tuple)):
            total += 1
            todo += item
        elif not isinstance(item, fx.Node):
            total += item is not ...
        elif item not in seen and (item is pattern or not _is_shared(item)):
            seen.add(item)
            total += isinstance(item.target, OperatorPattern)
            todo += _inner(item)
    return total


def _is_shared(pattern: fx.Node) -> bool:
    """Whether more than one pattern reads it."""
    asides = (markers.where, markers.captured)
    return sum(user.target not in asides for user in pattern.users) > 1


def _inner(pattern: fx.Node) -> list[Any]:
    """What must hold below a pattern node."""
    if isinstance(pattern.target, OperatorPattern):
        return [*pattern.args, *pattern.kwargs.values()]
    if pattern.target is markers.captured:
        return [pattern.args[1]]
    if pattern.target is markers.chain:
        link, _, inner, least = pattern.args
        return [link, inner] if least else [inner]
    if pattern.target is markers.either:
        return [pattern.args[0]]
    if pattern.target is markers.skippable:
        return [pattern.args[0].args[0]]
    return []
