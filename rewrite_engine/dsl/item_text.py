"""Items of a rule file as canonical lines, in units that comments attach to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import attrs

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.expression_text import (
    WIDTH,
    LineBreaker,
    break_expr,
    break_list,
    print_expr,
    print_number,
    print_string,
    print_type,
)
from rewrite_engine.source import NOWHERE, Span


@attrs.frozen
class Unit:
    """Lines that stay together: a statement, a short item, or a line of a frame.

    `mark` finds a line of a frame in the source: the first such sign after the unit
    before. `doc_lines` of the lines are documentation.
    """

    lines: tuple[str, ...]
    indent: int = 0
    span: Span = NOWHERE
    mark: str = ""
    doc_lines: int = 0
    starts_item: bool = False
    short: str = ""
    """The kind of an item that is one line: such items need no blank line between."""
    opens: bool = False
    closes: bool = False


def item_units(item: nodes.Item) -> list[Unit]:
    """The units of one item, the first of them with its documentation."""
    first, *others = _ITEMS[type(item)](item)
    doc = [f"## {line}".rstrip() for line in _doc(item)]
    lines = (*doc, *first.lines)
    short = _SHORT.get(type(item), "") if len(lines) == 1 else ""
    first = attrs.evolve(
        first, lines=lines, doc_lines=len(doc), starts_item=True, short=short
    )
    return [first, *others]


_SHORT: dict[type, str] = {
    nodes.Use: "use",
    nodes.UseHooks: "use",
    nodes.OpDef: "op",
    nodes.FamilyDef: "family",
    nodes.PatternDef: "pattern",
}


def _doc(item: nodes.Item) -> list[str]:
    doc = getattr(item, "doc", "")
    return doc.split("\n") if doc else []


# --- items of one unit ---


def _use(item: nodes.Use) -> Iterator[Unit]:
    head = f"use {print_string(item.path)}"
    lines = _enclosed(f"{head} (", item.names, ")") if item.names else (head,)
    yield Unit(lines, span=item.span)


def _use_hooks(item: nodes.UseHooks) -> Iterator[Unit]:
    yield Unit(_enclosed(f"use {item.module} (", item.names, ")"), span=item.span)


def _op(item: nodes.OpDef) -> Iterator[Unit]:
    positions = ", ".join(map(str, item.commutes))
    clauses = [f"commutes({positions})"] if item.commutes else []
    clauses += [] if item.when is None else [f"when {print_expr(item.when)}"]
    spellings = [name.id for name in item.spellings]
    lines = _options(f"op {item.name} =", spellings, " ".join(clauses))
    yield Unit(lines, span=item.span)


def _family(item: nodes.FamilyDef) -> Iterator[Unit]:
    rows = [_row(row) for row in item.rows]
    head = f"family {item.name}({_parameters(item.parameters)}) ="
    yield Unit(_options(head, rows), span=item.span)


def _row(row: nodes.Row) -> str:
    values = ", ".join(map(print_expr, row.values))
    bare = len(row.values) == 1 and isinstance(row.values[0], nodes.Name)
    return values if bare else f"({values})"


def _pattern(item: nodes.PatternDef) -> Iterator[Unit]:
    head = f"pattern {item.name}({_parameters(item.parameters)}) = "
    yield Unit(tuple(break_expr(head, item.value, 0)), span=item.span)


def _parameters(parameters: Sequence[nodes.Name | nodes.LiteralName]) -> str:
    return ", ".join(map(print_expr, parameters))


def _enclosed(
    head: str, items: Sequence[str], tail: str, indent: int = 0
) -> tuple[str, ...]:
    """`head a, b tail` on one line, or one item a line."""
    flat = " " * indent + head + ", ".join(items) + tail
    if len(flat) <= WIDTH or not items:
        return (flat,)
    printers = [_padded(item) for item in items]
    return tuple(break_list(head, printers, indent, tail))


def _padded(text: str) -> LineBreaker:
    return lambda indent, tail: [" " * indent + text + tail]


def _options(head: str, options: Sequence[str], clauses: str = "") -> tuple[str, ...]:
    """`head a | b clauses` on one line, or the options filled into lines below."""
    flat = f"{head} {' | '.join(options)} {clauses}".rstrip()
    if len(flat) <= WIDTH:
        return (flat,)
    lines, line = [head], f"    {options[0]}"
    for option in options[1:]:
        longer = f"{line} | {option}"
        if len(longer) > WIDTH:
            lines.append(line)
            longer = f"  | {option}"
        line = longer
    return (*lines, line, *([f"  {clauses}"] if clauses else []))


_Part = Callable[[str, str], list[str]]
"""Lines of a part of a statement, for the text before it and after it."""


def _hanging(head: str, parts: Sequence[_Part]) -> tuple[str, ...]:
    """`head a, b` on one line of a body, or the parts one below the other."""
    last = len(parts) - 1
    broken = [
        part(" " * len(head) if index else head, "," if index < last else "")
        for index, part in enumerate(parts)
    ]
    joined = "  " + " ".join(lines[0].strip() for lines in broken)
    if len(joined) <= WIDTH and all(len(lines) == 1 for lines in broken):
        return (joined,)
    return tuple(chain.from_iterable(broken))


# --- items with a body ---


def _rule(rule: nodes.RuleDef) -> Iterator[Unit]:
    start = Span(rule.span.start, rule.span.start)
    yield Unit((f"{_rule_header(rule)} {{",), span=start, opens=True)
    yield from map(_statement, rule.left)
    yield Unit(("=>",), mark="=>", opens=True, closes=True)
    yield from map(_statement, rule.right)
    yield Unit(("}",), mark="}", closes=True)


def _rule_header(rule: nodes.RuleDef) -> str:
    parts = [f"rule {rule.name}"]
    if rule.family is not None:
        parts.append(f"for {_family_use(rule.family)}")
    if rule.strategy is not None:
        parts.append(rule.strategy)
    if rule.benefit is not None:
        parts.append(f"benefit {rule.benefit}")
    if rule.precision is not None:
        parts.append(_precision(rule.precision))
    return " ".join(parts)


def _family_use(use: nodes.ForFamily) -> str:
    names = _parameters(use.parameters)
    names = names if len(use.parameters) == 1 else f"({names})"
    return f"{names} in {use.family}"


def _precision(precision: nodes.Precision) -> str:
    word = "exact" if precision.tolerance == 0 else "inexact"
    if precision.tolerance:
        word += f" {print_number(precision.tolerance)}"
    if precision.when is not None:
        word += f" when {print_expr(precision.when)}"
    return word


def _pipeline(item: nodes.PipelineDef) -> Iterator[Unit]:
    start = Span(item.span.start, item.span.start)
    yield Unit((f"pipeline {item.name} {{",), span=start, opens=True)
    for phase in item.phases:
        lines = _enclosed(f"{phase.strategy} {{", phase.rules, "}", 2)
        yield Unit(lines, 2, phase.span)
    yield Unit(("}",), mark="}", closes=True)


def _test(test: nodes.TestDef) -> Iterator[Unit]:
    start = Span(test.span.start, test.span.start)
    yield Unit((f"test {print_string(test.title)} {{",), span=start, opens=True)
    given = _enclosed("given (", [_given(given) for given in test.given], ") {", 2)
    yield Unit(given, 2, mark="(", opens=True)
    for bind in test.body:
        lines = break_expr(f"{bind.name} = ", bind.value, 4)
        yield Unit(tuple(lines), 4, bind.span)
    returns = ["    return " + ", ".join(map(print_expr, test.returns))]
    yield Unit(tuple(returns), 4, _around(test.returns))
    yield Unit(("  }",), 2, mark="}", closes=True)
    expected = [_expected(expect) for expect in test.expect]
    yield Unit(_hanging("expect ", expected), 2, _around(test.expect))
    yield Unit(("}",), mark="}", closes=True)


def _around(parts: Sequence[Any]) -> Span:
    first, last = parts[0].span, parts[-1].span
    return Span(first.start, last.end)


def _given(given: nodes.Given) -> str:
    role = "" if given.role == "input" else f"{given.role} "
    return f"{given.name}: {role}{print_type(given.type)}"


def _expected(
    expect: nodes.ExpectCount | nodes.ExpectEqual | nodes.ExpectRefusal,
) -> _Part:
    text = _EXPECTED[type(expect)](expect)
    return lambda head, tail: [f"  {head}{text}{tail}"]


def _equal(expect: nodes.ExpectEqual) -> str:
    if expect.tolerance is None:
        return "equal"
    return f"equal {print_number(expect.tolerance)}"


_EXPECTED: dict[type, Callable[[Any], str]] = {
    nodes.ExpectCount: lambda expect: f"{expect.rule} * {expect.count}",
    nodes.ExpectEqual: _equal,
    nodes.ExpectRefusal: lambda expect: (
        f"refused {expect.rule} {print_string(expect.reason)}"
    ),
}

_ITEMS: dict[type, Callable[[Any], Iterator[Unit]]] = {
    nodes.Use: _use,
    nodes.UseHooks: _use_hooks,
    nodes.OpDef: _op,
    nodes.FamilyDef: _family,
    nodes.PatternDef: _pattern,
    nodes.RuleDef: _rule,
    nodes.PipelineDef: _pipeline,
    nodes.TestDef: _test,
}


# --- statements of a rule ---


def _statement(statement: nodes.LeftStatement | nodes.RightStatement) -> Unit:
    if isinstance(statement, nodes.Where):
        return Unit(_where(statement), 2, statement.span)
    if isinstance(statement, nodes.Meta | nodes.Keep | nodes.Erase):
        return Unit((f"  {_SIMPLE[type(statement)](statement)}",), 2, statement.span)
    head = _HEADS[type(statement)](statement)
    return Unit(tuple(break_expr(head, statement.value, 2)), 2, statement.span)


def _where(where: nodes.Where) -> tuple[str, ...]:
    guards = _hanging("where ", [_guard(guard) for guard in where.guards])
    if where.reason is None:
        return guards
    reason = f"else {print_string(where.reason)}"
    if len(guards) == 1 and len(guards[0]) + 1 + len(reason) <= WIDTH:
        return (f"{guards[0]} {reason}",)
    return (*guards, f"    {reason}")


def _guard(guard: nodes.Expr) -> _Part:
    return lambda head, tail: break_expr(head, guard, 2, tail)


def _meta(meta: nodes.Meta) -> str:
    keys = f" {{{', '.join(meta.keys)}}}" if meta.keys else ""
    return f"meta {', '.join(meta.names)} <- {meta.source}{keys}"


_SIMPLE: dict[type, Callable[[Any], str]] = {
    nodes.Meta: _meta,
    nodes.Keep: lambda keep: f"keep {', '.join(keep.names)}",
    nodes.Erase: lambda erase: f"erase {', '.join(erase.names)}",
}

_HEADS: dict[type, Callable[[Any], str]] = {
    nodes.Bind: lambda bind: f"{bind.name} = ",
    nodes.Replace: lambda replace: f"{replace.name}' = ",
    nodes.Constructed: lambda made: f"{made.kind} {made.name} = ",
    nodes.Assign: lambda write: f"{'own ' * write.own}{write.target} <- ",
}
