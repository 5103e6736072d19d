"""What is timed: our engine and its peers, matching and rewriting a workload.

Peers at their best: patterns are prepared once, inductor has the cheapest handlers, and
code is generated only where that is part of what is timed. Our safety checks are on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from unittest import mock

import attrs
import torch
from torch import fx
from torch._inductor import pattern_matcher as inductor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import subgraph_rewriter
from torch.fx.passes.utils.matcher_utils import SubgraphMatcher

from benches.workloads import Rewrite, Workload
from rewrite_engine import engine, loads
from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.matching.match import Match
from rewrite_engine.matching.matcher import candidates, match_at
from rewrite_engine.ruleset import RuleSet

Work = Callable[[fx.GraphModule], object]


def walk(gm: fx.GraphModule) -> int:
    """The least that a matcher without an index does."""
    known = {torch.ops.aten.relu.default: 1}
    return sum(known.get(node.target, 0) for node in gm.graph.nodes)


def find(gm: fx.GraphModule, rules: RuleSet) -> list[Match]:
    """All matches of our engine, whether or not they could be rewritten."""
    facts = GraphFacts(gm)
    found = (
        match_at(rule, node, facts, lambda match: None).match
        for node, rules_here in candidates(rules.program, facts)
        for rule in rules_here
    )
    return [match for match in found if match is not None]


# --- matching alone ---


def we_find(workload: Workload) -> Work:
    rules = loads(workload.text)
    return lambda gm: find(gm, rules)


def inductor_finds(workload: Workload) -> Work:
    """Inductor's pass; every match is refused when it is complete."""
    return _inductor_pass(workload.rewrites, lambda match: False)


def fx_finds(workload: Workload) -> Work:
    """torch.fx's `SubgraphMatcher`, one rule after the other."""
    graphs = [fx.symbolic_trace(each.pattern).graph for each in workload.rewrites]
    matchers = [SubgraphMatcher(g, remove_overlapping_matches=False) for g in graphs]
    return lambda gm: [matcher.match(gm.graph) for matcher in matchers]


# --- rewriting, without code ---


def we_edit(workload: Workload) -> Work:
    rules = loads(workload.text)
    return lambda gm: engine.apply(gm, rules, recompile="lazy")


def inductor_edits(workload: Workload) -> Work:
    """Inductor's pass with a function written by hand for each rule."""
    return _inductor_pass(workload.rewrites, lambda match: True)


def inductor_replaces(workload: Workload) -> Work:
    """Inductor's pass with a graph for each rule, as `register_replacement` leaves it:
    like ours, it states what a match becomes, and not how.
    """
    matcher = inductor.PatternMatcherPass()
    for each in workload.rewrites:
        _replacement_entry(each).register(matcher)
    return lambda gm: matcher.apply(gm.graph)


def _replacement_entry(rewrite: Rewrite) -> inductor.ReplacementPatternEntry:
    graph = fx.symbolic_trace(rewrite.replacement)
    names = list(inspect.signature(rewrite.replacement).parameters)

    def check(match: inductor.Match) -> bool:
        match.replacement_graph = graph
        return True

    return inductor.ReplacementPatternEntry(
        pattern=rewrite.inductor_pattern(),
        extra_check=check,
        normalize_args=lambda **bound: [bound[name] for name in names],
    )


def fx_edits(workload: Workload) -> Work:
    """torch.fx's `replace_pattern`, one rule after the other."""
    rewrite = fx_rewrites(workload)

    def without_code(gm: fx.GraphModule) -> None:
        with mock.patch.object(fx.GraphModule, "recompile"):
            rewrite(gm)

    return without_code


# --- rewriting, with code ---


def we_rewrite(workload: Workload) -> Work:
    rules = loads(workload.text)
    return lambda gm: engine.apply(gm, rules)


def with_code(edits: Callable[[Workload], Work]) -> Callable[[Workload], Work]:
    """An engine that edits graphs, and then generates their code once."""

    def rewrites(workload: Workload) -> Work:
        edit = edits(workload)

        def rewrite(gm: fx.GraphModule) -> None:
            edit(gm)
            gm.recompile()

        return rewrite

    return rewrites


def fx_rewrites(workload: Workload) -> Work:
    sides = [(each.pattern, each.replacement) for each in workload.rewrites]
    pairs = [tuple(fx.symbolic_trace(side).graph for side in pair) for pair in sides]

    def rewrite(gm: fx.GraphModule) -> None:
        for pattern, replacement in pairs:
            subgraph_rewriter.replace_pattern(gm, pattern, replacement)

    return rewrite


def _inductor_pass(
    rewrites: Iterable[Rewrite], check: Callable[[inductor.Match], bool]
) -> Work:
    matcher = inductor.PatternMatcherPass()
    for each in rewrites:
        register = inductor.register_graph_pattern(
            each.inductor_pattern(), extra_check=check, pass_dict=matcher
        )
        register(each.inductor_handler)
    return lambda gm: matcher.apply(gm.graph)


# --- what is timed together ---


@attrs.frozen(eq=False)
class Stage:
    """What the engines are asked to do, and on what."""

    name: str
    engines: Mapping[str, Callable[[Workload], Work]]
    is_changing: bool
    """Whether each run needs a graph of its own."""
    prepare: Callable[[fx.GraphModule], object] = lambda gm: None
    """What is done to the graphs first."""
    peer_limit: int = 100_000_000
    """Nodes times rules, beyond which a run of a peer takes many minutes."""


def record_values(gm: fx.GraphModule) -> None:
    """Fake tensors of one type, as a graph has them that was exported."""
    with FakeTensorMode():
        for node in gm.graph.nodes:
            if node.op != "output":
                node.meta["val"] = torch.empty(8, 8)


_EDITORS: dict[str, Any] = {
    "ours": we_edit,
    "inductor": inductor_edits,
    "inductor's graphs": inductor_replaces,
    "torch.fx": fx_edits,
}
_REWRITERS: dict[str, Any] = {
    "ours": we_rewrite,
    "inductor": with_code(inductor_edits),
    "inductor's graphs": with_code(inductor_replaces),
    "torch.fx": fx_rewrites,
}
MATCH = Stage(
    "match",
    {"ours": we_find, "inductor": inductor_finds, "torch.fx": fx_finds},
    is_changing=False,
    peer_limit=1_000_000,
)
EDIT = Stage("edit", _EDITORS, is_changing=True)
EDIT_VALUES = Stage("edit, values", _EDITORS, is_changing=True, prepare=record_values)
FULL = Stage("full", _REWRITERS, is_changing=True)
FULL_VALUES = Stage("full, values", _REWRITERS, is_changing=True, prepare=record_values)
