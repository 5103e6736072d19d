"""Explains what became of rules on one graph."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import attrs
from torch import fx

from rewrite_engine.explaining.dialects import dialect
from rewrite_engine.explaining.dry_run import DryRun, dry_run
from rewrite_engine.explaining.explanation import (
    Explanation,
    Kind,
    Mismatch,
    NearMiss,
    RuleExplanation,
)
from rewrite_engine.explaining.graphs import graph_names, inner_graphs, node_of
from rewrite_engine.explaining.nearest import Reading, near_miss, nearest
from rewrite_engine.explaining.places import calls_of, places, places_of
from rewrite_engine.explaining.steps import callee_span, is_call
from rewrite_engine.graph_text import Model
from rewrite_engine.lowering.patterns import roots_of
from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.matching.program import Program
from rewrite_engine.rewriting.run import states
from rewrite_engine.rewriting.state import State
from rewrite_engine.rewriting.turns import TURN

PLACES: Final = 64
"""Places of a graph at which one rule is looked at."""

_NAMES: Final = 3
_NAMED: Final = re.compile(r"'(\w+)'")


def explain(
    program: Program,
    rules: Sequence[CompiledRule],
    model: Model,
    node: str | fx.Node | None = None,
    *,
    recurse: bool = False,
) -> Explanation:
    """What became of `rules` when all of `program` ran; with `node`, what became of
    them there. With `recurse`, in the graphs of submodules, too. Nothing is changed.

    Raises: GraphError, if the graphs have no such node, or several of that name.
    """
    with TURN:
        found = states(model, recurse)
        outermost = found[0].facts.module
        graphs = graph_names(outermost)
        at = None if node is None else node_of(graphs, recurse, node)
        asked = [s for s in found if at is None or at.graph is s.facts.module.graph]
        runs = [(state, dry_run(program, state)) for state in asked]
        left_out = {} if recurse or at is not None else inner_graphs(outermost)
        explained = tuple(_explain(rule, runs, at, left_out) for rule in rules)
    stopped = next((run.stopped for _, run in runs if run.stopped is not None), None)
    return Explanation(model, explained, graphs, stopped)


def _explain(
    rule: CompiledRule,
    runs: Sequence[tuple[State, DryRun]],
    at: fx.Node | None,
    left_out: Mapping[fx.Graph, str],
) -> RuleExplanation:
    """What became of a rule in all graphs together."""
    parts = [_Explainer(rule, state, run, at).explain() for state, run in runs]
    matches = tuple(node for part in parts for node in part.matches)
    misses = [miss for part in parts for miss in part.near_misses]
    notes = dict.fromkeys(note for part in parts for note in part.notes)
    notes |= dict.fromkeys(_not_looked_at(rule, left_out))
    return RuleExplanation(
        rule, matches, tuple(sorted(misses, key=_rank)), tuple(notes)
    )


def _not_looked_at(rule: CompiledRule, graphs: Mapping[fx.Graph, str]) -> Iterator[str]:
    found = [name for graph, name in graphs.items() if places(rule, graph.nodes, 1)]
    if found:
        names = ", ".join(f"`{name}`" for name in found[:_NAMES])
        more = f" and {len(found) - _NAMES} more" if len(found) > _NAMES else ""
        yield f"only `recurse` looks into the graphs inside: {names}{more}"


@attrs.frozen(eq=False)
class _Explainer:
    rule: CompiledRule
    state: State
    run: DryRun
    at: fx.Node | None

    def explain(self) -> RuleExplanation:
        alive, name = set(self._graph.nodes), self.rule.name
        rewritten = (node for rule, node in self.run.rewritten if rule == name)
        matches = tuple(sorted(node for node in rewritten if node in alive))
        near = [self._near_miss(anchor) for anchor in self._anchors(set(matches))]
        found = tuple(miss for miss in near if miss is not None)
        notes = () if self.at is not None else tuple(self._dialects())
        return RuleExplanation(self.rule, matches, found, notes)

    @property
    def _graph(self) -> fx.Graph:
        return self.state.facts.module.graph

    def _anchors(self, matches: set[fx.Node]) -> list[fx.Node]:
        refused = [node for rule, node in self.run.refused if rule == self.rule.name]
        if self.at is not None:
            found = places_of(self.rule, self.at, PLACES)
        else:
            found = [*refused, *places(self.rule, self._graph.nodes, PLACES)]
        return [node for node in dict.fromkeys(found) if node not in matches]

    def _near_miss(self, anchor: fx.Node) -> NearMiss | None:
        reading = nearest(self.rule, anchor, self.state.facts)
        if self.at is not None and not _concerns(reading, self.at):
            return None
        if reading.mismatches:
            return self._as_reported(near_miss(self.rule, anchor, reading))
        refusal = self._refusal(anchor, reading)
        return NearMiss(self.rule, anchor, reading.held, reading.held, (refusal,))

    def _as_reported(self, miss: NearMiss) -> NearMiss:
        """A miss that the engine refuses: by a guard that has a reason."""
        if (self.rule.name, miss.anchor) not in self.run.refused:
            return miss
        first = attrs.evolve(miss.first, kind="refused")
        return attrs.evolve(miss, mismatches=(first, *miss.mismatches[1:]))

    def _refusal(self, anchor: fx.Node, reading: Reading) -> Mismatch:
        reason = self.run.refused.get((self.rule.name, anchor)) or self._taken(reading)
        names = {node.name: node for node in self._graph.nodes}
        found = [names[n] for n in _NAMED.findall(reason) if n in names]
        calls = {v: p for p, v in reading.env.items() if isinstance(p, fx.Node)}
        inner = next((calls[n] for n in found if is_call(calls.get(n))), None)
        root = roots_of(self.rule.matcher_graph)[0]
        span = callee_span(self.rule, inner or root)
        nodes = tuple(dict.fromkeys(found)) or (anchor,)
        return Mismatch("refused", reason, span, nodes, _advice(reason))

    def _taken(self, reading: Reading) -> str:
        """Why a place at which everything holds was not rewritten."""
        if self.run.stopped is not None:
            return f"the run was stopped before: {self.run.stopped}"
        calls = (v for v in reading.env.values() if isinstance(v, fx.Node))
        for call in calls:
            if call in self.run.consumed:
                return f"the rule `{self.run.consumed[call]}` rewrites '{call}' first"
        return "it matches where the graph has been rewritten before"

    def _dialects(self) -> Iterator[str]:
        """Operators of the rule that the graph has only in other spellings: not where
        the rule has both, nor where a rule has rewritten the call.
        """
        seen: dict[str, fx.Node] = {}
        for node in self._graph.nodes:
            if node not in self.run.consumed:
                seen.setdefault(f"{node.op} {node.target}", node)
        operators = dict.fromkeys(call.target for call, _ in calls_of(self.rule))
        strange = [n for n in seen.values() if not any(o.covers(n) for o in operators)]
        for operator in operators:
            if any(operator.covers(node) for node in seen.values()):
                continue
            related = [dialect(operator, node) for node in strange]
            for found in [d for d in related if d is not None][:2]:
                yield f"{found.message}; {found.hint}"


def _rank(miss: NearMiss) -> tuple[float, int, fx.Node]:
    """The nearest first; of equals, what is only spelled differently first, then where
    a literal is another one, and last where not even the rule's last operator is there.
    """
    first = miss.first
    elsewhere = first.kind == "operator" and first.nodes[:1] == (miss.anchor,)
    distance = 3 if elsewhere else _DISTANCES.get(first.kind, 2)
    return -miss.score, distance, miss.anchor


_DISTANCES: Final[Mapping[Kind, int]] = {"dialect": 0, "literal": 1}


def _concerns(reading: Reading, node: fx.Node) -> bool:
    """Whether a node was read as a part of the rule, or is what is wrong."""
    wrong = any(node in mismatch.nodes for mismatch in reading.mismatches)
    return wrong or any(value is node for value in reading.env.values())


def _advice(reason: str) -> str | None:
    """What the author of a rule can do about a refusal."""
    return next((advice for words, advice in _ADVICE if words in reason), None)


_ADVICE: Final = (
    ("is also read by", "`keep` allows other readers; the node then stays"),
    ("may write what", "a functional graph has no writes: `run_decompositions({})`"),
    ("the search took more than", "name what varies, so that fewer ways are tried"),
    (
        ": stride ",
        "views of the result rely on its strides: `contiguous(…)` around the new call",
    ),
    ("calls operators by their overloads", "say `aten.…` in the rule, or in an `op`"),
    ("would become", "the right side must have the dtype and shape of the left"),
    ("would be lost or repeated", "repeat the call once with `..`, or `erase` it"),
)
