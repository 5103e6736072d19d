"""Expressions as canonical text: on one line, or broken over several."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import chain
from typing import Any, cast

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.nodes import Expr

WIDTH = 88

LineBreaker = Callable[[int, str], list[str]]
"""Lines of something, for an indentation and the text that follows it."""

_CHOICE, _OR, _AND, _NOT, _TEST, _UNION, _SUM, _PRODUCT, _UNARY, _POSTFIX, _ATOM = (
    range(11)
)
_ESCAPES = str.maketrans({'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"})


def print_expr(expr: Expr) -> str:
    """An expression on one line."""
    return _PRINTERS[type(expr)](expr)


def print_type(type_: nodes.TensorType) -> str:
    """`f16|bf16[$B, *S]`"""
    dtypes = "|".join(type_.dtypes)
    return dtypes if type_.shape is None else f"{dtypes}[{_join(type_.shape)}]"


def print_string(text: str) -> str:
    """A string in double quotes, escaped."""
    return f'"{text.translate(_ESCAPES)}"'


def print_number(value: float) -> str:
    """A number as a rule file writes it: `1e-5`."""
    plain = repr(value)
    if "e" not in plain and 0 < abs(value) < 0.01:
        plain = min(plain, _scientific(value), key=len)
    return re.sub(r"e([+-]?)0*(\d)", _exponent, plain)


def break_expr(head: str, expr: Expr, indent: int, tail: str = "") -> list[str]:
    """Lines of `head`, the expression and `tail`, within the width where possible."""
    flat = f"{' ' * indent}{head}{print_expr(expr)}{tail}"
    if len(flat) <= WIDTH:
        return [flat]
    breaker = _BREAKERS.get(type(expr))
    return [flat] if breaker is None else breaker(head, expr, indent, tail)


def break_list(
    head: str, items: Sequence[LineBreaker], indent: int, tail: str
) -> list[str]:
    """`head` and `tail` on lines of their own; between, one line or one line an item.

    An item is given its indentation and what follows it.
    """
    pad = " " * indent
    ends = [","] * (len(items) - 1) + [""]
    broken = [
        item(indent + 2, end) for item, end in zip(items, ends, strict=bool(items))
    ]
    joined = pad + "  " + " ".join(lines[0].strip() for lines in broken)
    if len(joined) <= WIDTH and all(len(lines) == 1 for lines in broken):
        return [pad + head, joined, pad + tail]
    return [pad + head, *chain.from_iterable(broken), pad + tail]


# --- one line ---


def _scientific(value: float) -> str:
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    first, *others = map(str, digits)
    point = f".{''.join(others)}" if others else ""
    return f"{'-' * sign}{first}{point}e{cast(int, exponent) + len(others)}"


def _exponent(found: re.Match[str]) -> str:
    return f"e{found[1].replace('+', '')}{found[2]}"


def _join(parts: Sequence[Any]) -> str:
    return ", ".join(map(print_expr, parts))


def _level(expr: Expr) -> int:
    if isinstance(expr, nodes.Infix):
        return _SUM if expr.operator in ("+", "-") else _PRODUCT
    if isinstance(expr, nodes.Constant):
        return _UNARY if repr(expr.value).startswith("-") else _ATOM
    return _LEVELS.get(type(expr), _ATOM)


def _inside(expr: Expr, level: int) -> str:
    """An operand, in parentheses where it binds looser than its place asks for."""
    text = print_expr(expr)
    return text if _level(expr) >= level else f"({text})"


def _constant(node: nodes.Constant) -> str:
    if isinstance(node.value, str):
        return print_string(node.value)
    if node.value is None or isinstance(node.value, bool):
        return str(node.value).lower()
    return print_number(node.value)


def _call_head(node: nodes.Call) -> str:
    mark = "?" if node.optional else f"^{node.chain}" if node.chain else ""
    return f"{node.callee.id}{mark}("


def _arguments(node: nodes.Call) -> list[Any]:
    rest = [] if node.rest is None else [node.rest]
    return [*node.args, *node.keywords, *rest]


def _infix(node: nodes.Infix) -> str:
    level = _level(node)
    return (
        f"{_inside(node.left, level)} {node.operator} {_inside(node.right, level + 1)}"
    )


def _if_else(node: nodes.IfElse) -> str:
    then, condition = _inside(node.then, _OR), _inside(node.condition, _OR)
    return f"{then} if {condition} else {print_expr(node.otherwise)}"


_PRINTERS: dict[type, Callable[[Any], str]] = {
    nodes.Name: lambda node: node.id,
    nodes.LiteralName: lambda node: f"${node.id}",
    nodes.Constant: _constant,
    nodes.Wildcard: lambda node: "_",
    nodes.Rest: lambda node: f"..{node.of or ''}",
    nodes.Star: lambda node: f"*{node.id}",
    nodes.StateRead: lambda node: f"{node.module}.{node.attribute}",
    nodes.ListExpr: lambda node: f"[{_join(node.items)}]",
    nodes.Keyword: lambda node: f"{node.name}={print_expr(node.value)}",
    nodes.Call: lambda node: f"{_call_head(node)}{_join(_arguments(node))})",
    nodes.Capture: lambda node: f"{node.id}@{_inside(node.value, _ATOM)}",
    nodes.Optional: lambda node: f"{_inside(node.value, _ATOM)}?",
    nodes.Negate: lambda node: f"-{_inside(node.value, _UNARY)}",
    nodes.Infix: _infix,
    nodes.Alternatives: lambda node: " | ".join(_inside(o, _SUM) for o in node.options),
    nodes.Compare: lambda node: (
        f"{_inside(node.left, _UNION)} {node.operator} {_inside(node.right, _UNION)}"
    ),
    nodes.HasType: lambda node: f"{node.id}: {print_type(node.type)}",
    nodes.IsConst: lambda node: f"{node.id} is const",
    nodes.Matches: lambda node: f"{_tested(node)} ~ {_inside(node.pattern, _UNION)}",
    nodes.Not: lambda node: f"not {_inside(node.value, _NOT)}",
    nodes.And: lambda n: f"{_inside(n.left, _AND)} and {_inside(n.right, _NOT)}",
    nodes.Or: lambda node: f"{_inside(node.left, _OR)} or {_inside(node.right, _AND)}",
    nodes.IfElse: _if_else,
}

_LEVELS: dict[type, int] = {
    nodes.IfElse: _CHOICE,
    nodes.Or: _OR,
    nodes.And: _AND,
    nodes.Not: _NOT,
    nodes.Compare: _TEST,
    nodes.HasType: _TEST,
    nodes.IsConst: _TEST,
    nodes.Matches: _TEST,
    nodes.Alternatives: _UNION,
    nodes.Negate: _UNARY,
    nodes.Optional: _POSTFIX,
}


# --- several lines ---


def _tested(node: nodes.Matches) -> str:
    return f"readers({node.id})" if node.of_readers else node.id


def _item(expr: Expr) -> LineBreaker:
    return lambda indent, tail: break_expr("", expr, indent, tail)


def _break_call(head: str, node: nodes.Call, indent: int, tail: str) -> list[str]:
    items = [_item(argument) for argument in _arguments(node)]
    return break_list(head + _call_head(node), items, indent, f"){tail}")


def _break_items(head: str, node: nodes.ListExpr, indent: int, tail: str) -> list[str]:
    items = [_item(item) for item in node.items]
    return break_list(f"{head}[", items, indent, f"]{tail}")


def _break_keyword(head: str, node: nodes.Keyword, indent: int, tail: str) -> list[str]:
    return break_expr(f"{head}{node.name}=", node.value, indent, tail)


def _break_capture(head: str, node: nodes.Capture, indent: int, tail: str) -> list[str]:
    return _break_operand(f"{head}{node.id}@", node.value, _ATOM, indent, tail)


def _break_optional(
    head: str, node: nodes.Optional, indent: int, tail: str
) -> list[str]:
    return _break_operand(head, node.value, _ATOM, indent, f"?{tail}")


def _break_operand(
    head: str, expr: Expr, level: int, indent: int, tail: str
) -> list[str]:
    if _level(expr) >= level:
        return break_expr(head, expr, indent, tail)
    return break_expr(f"{head}(", expr, indent, f"){tail}")


def _break_infix(head: str, node: nodes.Infix, indent: int, tail: str) -> list[str]:
    level = _level(node)
    left = _break_operand(head, node.left, level, indent, "")
    operator = f"{node.operator} "
    return left + _break_operand(operator, node.right, level + 1, indent + 2, tail)


def _break_union(
    head: str, node: nodes.Alternatives, indent: int, tail: str
) -> list[str]:
    lines = [" " * indent + head.rstrip()] if head.strip() else []
    last = len(node.options) - 1
    for index, option in enumerate(node.options):
        sign = "| " if index else "  "
        end = tail if index == last else ""
        lines += _break_operand(sign, option, _SUM, indent + 2, end)
    return lines


def _break_choice(head: str, node: nodes.IfElse, indent: int, tail: str) -> list[str]:
    return [
        *_break_operand(head, node.then, _OR, indent, ""),
        *_break_operand("if ", node.condition, _OR, indent + 2, ""),
        *break_expr("else ", node.otherwise, indent + 2, tail),
    ]


def _break_and(head: str, node: nodes.And, indent: int, tail: str) -> list[str]:
    left = _break_operand(head, node.left, _AND, indent, "")
    return left + _break_operand("and ", node.right, _NOT, indent + 2, tail)


def _break_or(head: str, node: nodes.Or, indent: int, tail: str) -> list[str]:
    left = _break_operand(head, node.left, _OR, indent, "")
    return left + _break_operand("or ", node.right, _AND, indent + 2, tail)


_BREAKERS: dict[type, Callable[[str, Any, int, str], list[str]]] = {
    nodes.Call: _break_call,
    nodes.ListExpr: _break_items,
    nodes.Keyword: _break_keyword,
    nodes.Capture: _break_capture,
    nodes.Optional: _break_optional,
    nodes.Infix: _break_infix,
    nodes.Alternatives: _break_union,
    nodes.IfElse: _break_choice,
    nodes.And: _break_and,
    nodes.Or: _break_or,
}
