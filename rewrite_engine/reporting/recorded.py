"""An `apply` that is recorded, and explained where it did not match."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final

import attrs

from rewrite_engine.explaining.explain import explain
from rewrite_engine.explaining.explanation import NearMiss
from rewrite_engine.explaining.text import NEAR, NodeText, miss_text
from rewrite_engine.graph_text import Model
from rewrite_engine.reporting.page import Miss, Record
from rewrite_engine.reporting.recording import Recording
from rewrite_engine.rewriting.run import Result
from rewrite_engine.ruleset import RuleSet

_MISSES: Final = 5
"""Near misses of each rule."""


def recorded(
    rules: RuleSet, model: Model, *, recurse: bool = False, **options: Any
) -> Result:
    """`RuleSet.apply` with a record in its report."""
    recording = Recording(model)
    result = rules.apply(model, recurse=recurse, watch=recording.watch, **options)
    graphs = recording.close()
    made = {(r.rule, name) for g in graphs for r in g.rewrites for name in r.created}
    misses = tuple(_misses(rules, model, recurse, made))
    record = Record(rules.name, graphs, misses)
    return attrs.evolve(result, report=attrs.evolve(result.report, record=record))


def _misses(
    rules: RuleSet, model: Model, recurse: bool, made: Collection[tuple[str, str]]
) -> Iterator[Miss]:
    """Near misses in the graph after; not of what a rule `made` itself."""
    explanation = explain(rules.program, rules.rules, model, recurse=recurse)
    node_text = NodeText(model, explanation.graphs)
    for rule in explanation.rules:
        others = [
            miss
            for miss in rule.near_misses
            if miss.score >= NEAR
            and not miss.refused
            and (rule.rule.name, miss.anchor.name) not in made
        ]
        for miss in others[:_MISSES]:
            yield _miss(miss, node_text)


def _miss(miss: NearMiss, node_text: NodeText) -> Miss:
    text = miss_text(miss, node_text)
    node = node_text.name(miss.anchor).lstrip("%")
    return Miss(miss.rule.name, node, miss.held, miss.steps, text)
