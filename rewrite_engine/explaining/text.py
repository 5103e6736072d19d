"""Explanations as text: each miss as the rule, the graph and the model have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import attrs
from torch import fx

from rewrite_engine.errors import excerpt, place
from rewrite_engine.explaining.explanation import (
    Explanation,
    Mismatch,
    NearMiss,
    RuleExplanation,
)
from rewrite_engine.explaining.graphs import node_name
from rewrite_engine.graph_text import Model, line_writer
from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.model_source import model_source

NEAR: Final = 0.5
"""The share of a rule's steps that hold where a place is worth showing."""

_NODES: Final = 3
_FURTHER: Final = 3
_INDENT: Final = " " * 9


@attrs.frozen(eq=False)
class NodeText:
    """How nodes of a model are called, and their lines as `graph_text` has them."""

    model: Model
    graphs: Mapping[fx.Graph, str]
    _writers: dict[str, Callable[[fx.Node], str]] = attrs.field(factory=dict)

    def name(self, node: fx.Node) -> str:
        return node_name(self.graphs, node)

    def line(self, node: fx.Node) -> str:
        path = self.graphs[node.graph]
        if path not in self._writers:
            outermost = getattr(self.model, "graph_module", self.model)
            inner = outermost.get_submodule(path)
            self._writers[path] = line_writer(inner if path else self.model)
        return self._writers[path](node)


def explanation_text(explanation: Explanation, most: int = 3) -> str:
    """All of an explanation; of each rule, the `most` nearest misses."""
    node_text = NodeText(explanation.model, explanation.graphs)
    parts = [_rule_text(rule, node_text, most) for rule in explanation.rules]
    if explanation.stopped is not None:
        parts.append(f"apply would stop and change nothing: {explanation.stopped}")
    return "\n\n".join(parts) + "\n"


def _rule_text(rule: RuleExplanation, node_text: NodeText, most: int) -> str:
    shown = worth_showing(rule.near_misses, most)
    parts = [_heading(rule, node_text, len(shown))]
    parts += [f"  note   {note}" for note in rule.notes]
    parts += ["\n" + miss_text(miss, node_text) for miss in shown]
    near = sum(miss.score >= NEAR for miss in rule.near_misses)
    if near > len(shown):
        more = f"{near - len(shown)} more where at least half of the steps hold"
        every = f"`explain --most {near}`, or `near_misses` in Python"
        parts.append(f"\n  and {more}: {every}")
    return "\n".join(parts)


def worth_showing(misses: Sequence[NearMiss], most: int) -> list[NearMiss]:
    """The nearest, if they hold for the better part; at least one."""
    near = [miss for miss in misses if miss.score >= NEAR]
    return (near or list(misses[:1]))[:most]


def _heading(rule: RuleExplanation, node_text: NodeText, shown: int) -> str:
    places = len(rule.matches)
    applied = f"rewrites {places} place{'s' * (places != 1)}" if places else ""
    if not applied:
        applied = "rewrites nothing"
    if places and places <= _NODES:
        applied += f" ({', '.join(map(node_text.name, rule.matches))})"
    misses = len(rule.near_misses)
    if not misses:
        rest = "no other place comes near"
    elif shown < misses:
        rest = f"the nearest {shown} of {misses} other places:"
    else:
        rest = f"{misses} other place{'s' * (misses != 1)}:"
    return f"{rule.rule.name}  {rule.rule.place}\n  {applied}; {rest}"


def miss_text(miss: NearMiss, node_text: NodeText) -> str:
    """One near miss: what failed first shown three ways, the rest in a line each."""
    name = node_text.name(miss.anchor)
    steps = f"{miss.held} of {miss.steps} steps hold"
    if miss.refused:
        every = f"all {miss.steps} steps hold, but"
        head = f"refused at {name}: {every if miss.held == miss.steps else steps}"
    else:
        head = f"near miss at {name}: {steps}"
    lines = [head, *_mismatch_lines(miss, node_text)]
    further = miss.mismatches[1:]
    lines += [f"  then   {other.message}" for other in further[:_FURTHER]]
    if len(further) > _FURTHER:
        lines.append(f"  then   {len(further) - _FURTHER} more")
    return "\n".join(lines)


def _mismatch_lines(miss: NearMiss, node_text: NodeText) -> Iterator[str]:
    rule, mismatch = miss.rule, miss.first
    yield f"  {mismatch.message}"
    yield ""
    yield f"  rule   {place(rule.source, mismatch.span)}"
    yield from (_INDENT + line for line in _rule_lines(rule, mismatch))
    last: list[str] = []
    for node in (mismatch.nodes or (miss.anchor,))[:_NODES]:
        yield f"  graph  {node_text.line(node)}"
        lines = list(_model_lines(node))
        yield from lines if lines != last else ()
        last = lines
    if mismatch.hint is not None:
        yield f"  hint   {mismatch.hint}"


def _rule_lines(rule: CompiledRule, mismatch: Mismatch) -> list[str]:
    return excerpt(rule.source, mismatch.span).splitlines()[1:]


def _model_lines(node: fx.Node) -> Iterator[str]:
    source = model_source(node)
    if not source:
        return
    where = ", in ".join(filter(None, [source.place, source.owner]))
    yield f"  model  {where}"
    if source.text:
        yield f"{_INDENT}{source.text}"
