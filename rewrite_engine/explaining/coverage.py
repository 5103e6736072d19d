"""What of a rule a corpus of models exercises: rows, options, alternatives, guards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

import attrs
from torch import fx

from rewrite_engine.explaining.dry_run import dry_run
from rewrite_engine.explaining.nearest import Reading, nearest
from rewrite_engine.explaining.places import places
from rewrite_engine.graph_text import Model
from rewrite_engine.lowering import markers
from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.matching.program import Program
from rewrite_engine.matching.reference import ROW
from rewrite_engine.rewriting.run import states

_PLACES: Final = 1_000
"""Places of one graph at which a rule is looked at."""


@attrs.define(eq=False)
class RuleCoverage:
    """Counts for one rule; `taken` has every part of the rule that a match may take,
    with the number of matches that took it: 0 is what no model exercises.
    """

    rule: CompiledRule
    matches: int = 0
    refused: int = 0
    taken: Counter[str] = attrs.field(factory=Counter)

    def __attrs_post_init__(self) -> None:
        self.taken.update(dict.fromkeys(_parts(self.rule), 0))

    @property
    def never(self) -> tuple[str, ...]:
        """The parts that nothing exercised, in the order of the rule."""
        return tuple(part for part, count in self.taken.items() if count == 0)

    def add(self, reading: Reading) -> None:
        """Count a place at which the whole structure holds, guards or not."""
        for part in _parts_taken(self.rule, reading):
            self.taken[part] += 1


def coverage(
    program: Program, rules: Iterable[CompiledRule], models: Iterable[Model]
) -> tuple[RuleCoverage, ...]:
    """What a corpus of models exercises of each rule; the models are not changed."""
    found = {rule.name: RuleCoverage(rule) for rule in rules}
    for model in models:
        state = states(model, recurse=False)[0]
        run = dry_run(program, state)
        for name, _ in run.rewritten:
            found[name].matches += 1
        for name, _ in run.refused:
            found[name].refused += 1
        for each in found.values():
            for anchor in places(each.rule, state.facts.module.graph.nodes, _PLACES):
                reading = nearest(each.rule, anchor, state.facts)
                if all(mismatch.kind == "guard" for mismatch in reading.mismatches):
                    each.add(reading)
    return tuple(found.values())


def _parts(rule: CompiledRule) -> Iterator[str]:
    """Everything of a rule that may be taken or not, as text."""
    yield from _rows(rule)
    for node in rule.matcher_graph.nodes:
        if node.meta.get("optional"):
            yield f"`{node.target}` present"
            yield f"`{node.target}` absent"
        for option in _options(node):
            yield f"alternative {_written(rule, option)}"
        if "guard" in node.meta:
            yield f"guard `{node.meta['guard'].text}` holds"
            yield f"guard `{node.meta['guard'].text}` fails"


def _parts_taken(rule: CompiledRule, reading: Reading) -> Iterator[str]:
    env = reading.env
    rows = list(_rows(rule))
    if rows and ROW in env:
        yield rows[env[ROW]]
    failed = {mismatch.span for mismatch in reading.mismatches}
    for node in rule.matcher_graph.nodes:
        if node.meta.get("optional") and node in env:
            state = "absent" if env[node] is None else "present"
            yield f"`{node.target}` {state}"
        for option in _options(node):
            if option in env and env.get(node) is env[option]:
                yield f"alternative {_written(rule, option)}"
        if "guard" in node.meta:
            outcome = "fails" if node.meta["span"] in failed else "holds"
            yield f"guard `{node.meta['guard'].text}` {outcome}"


def _rows(rule: CompiledRule) -> Iterator[str]:
    """The rows of the rule's family, by their operators."""
    for node in rule.matcher_graph.nodes:
        if getattr(node.target, "is_slot", False):
            yield from (f"row {row.name}" for row in node.target.rows)
            return


def _options(node: fx.Node) -> list[Any]:
    """The calls that an option of the rule chooses between."""
    if node.target not in (markers.either, markers.skippable):
        return []
    return [arg for arg in node.args if getattr(arg, "op", "") == "call_function"]


def _written(rule: CompiledRule, node: fx.Node) -> str:
    span = node.meta["span"]
    text = " ".join(span.of(rule.source.text).split())
    line = rule.source.position(span.start).line
    return f"`{text if len(text) < 50 else text[:49] + '…'}` of line {line}"
