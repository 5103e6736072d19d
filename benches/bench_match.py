"""Matching alone: ours, torch.fx's `SubgraphMatcher`, inductor's `PatternMatcherPass`.

`python -m benches.bench_match` prints a table, `--json FILE` also writes it. Nothing is
rewritten: inductor's patterns refuse every match in their last check, and ours are not
asked whether a rewrite would be safe. Runs alternate on one graph, on one thread; the
medians are compared. Peers sit out graphs above `PEERS_UP_TO` nodes, where one run of
theirs takes minutes.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported

import attrs
import torch
from torch import fx
from torch._inductor import pattern_matcher as inductor
from torch.fx.passes.utils.matcher_utils import SubgraphMatcher

from benches import rule_sets
from benches.bench_apply import parsed, seconds, walk
from benches.workloads import WORKLOADS
from rewrite_engine import loads
from rewrite_engine.graph_facts import GraphFacts
from rewrite_engine.matching.match import Match
from rewrite_engine.matching.matcher import candidates, match_at
from rewrite_engine.ruleset import RuleSet

SIZES = (1_000, 10_000)
COUNTS = (1, 10, 100, 1_000)
TINY_SIZES, TINY_COUNTS = (60,), (1, 12)
PEERS_UP_TO = 10_000

Work = Callable[[fx.GraphModule], object]


@attrs.frozen(eq=False)
class Case:
    """A graph and rules, as each engine states them."""

    name: str
    gm: fx.GraphModule
    rules: Sequence[str]
    functions: Sequence[Callable[..., Any]]
    inductor_patterns: Sequence[Any]


@attrs.frozen
class Timing:
    """Medians of one case, in seconds; None where a peer was left out."""

    workload: str
    nodes: int
    rules: int
    matches: int
    walk: float
    """A bare loop over the nodes that looks each target up."""
    ours: float
    inductor: float | None = None
    subgraph_matcher: float | None = None


def cases(size: int, counts: Sequence[int]) -> Iterator[Case]:
    """One rule on each workload, then sets of rules on one chain."""
    for workload in WORKLOADS:
        yield Case(
            workload.name,
            workload.build(size),
            [workload.rule],
            [workload.pattern],
            [workload.inductor_pattern()],
        )
    gm, most = rule_sets.chain(size), max(counts)
    for count in counts:
        yield _set_of("rule set", gm, rule_sets.rule_set(count, gm))
    yield _set_of("no match", gm, rule_sets.missing(most, gm))
    yield _set_of("absent", gm, rule_sets.absent(most))


def _set_of(name: str, gm: fx.GraphModule, found: list[rule_sets.Names]) -> Case:
    rules = [rule_sets.rule_text(each, i) for i, each in enumerate(found)]
    functions = [rule_sets.function(each) for each in found]
    return Case(
        name, gm, rules, functions, list(map(rule_sets.inductor_pattern, found))
    )


def find(gm: fx.GraphModule, rules: RuleSet) -> list[Match]:
    """All matches of our engine, whether or not they could be rewritten."""
    facts = GraphFacts(gm)
    found = (
        match_at(rule, node, facts, lambda match: None).match
        for node, rules_here in candidates(rules.program, facts)
        for rule in rules_here
    )
    return [match for match in found if match is not None]


def by_inductor(patterns: Sequence[Any]) -> Work:
    """Inductor's pass; every match is refused when it is complete."""
    matcher = inductor.PatternMatcherPass()
    for pattern in patterns:
        register = inductor.register_graph_pattern(
            pattern, extra_check=lambda match: False, pass_dict=matcher
        )
        register(lambda match, *args, **kwargs: None)
    return lambda gm: matcher.apply(gm.graph)


def by_subgraph_matcher(functions: Sequence[Callable[..., Any]]) -> Work:
    """torch.fx's matcher, one rule after the other."""
    graphs = [fx.symbolic_trace(function).graph for function in functions]
    matchers = [SubgraphMatcher(g, remove_overlapping_matches=False) for g in graphs]
    return lambda gm: [matcher.match(gm.graph) for matcher in matchers]


def measure(case: Case, runs: int) -> Timing:
    """Time everything on one graph, alternating, `runs` times each."""
    rules = loads("\n".join(case.rules))
    works: dict[str, Work] = {"walk": walk, "ours": lambda gm: find(gm, rules)}
    nodes = len(case.gm.graph.nodes)
    if nodes <= PEERS_UP_TO + 100:
        works["inductor"] = by_inductor(case.inductor_patterns)
        works["subgraph_matcher"] = by_subgraph_matcher(case.functions)
    matches = len(find(case.gm, rules))  # compiles what is compiled once
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(runs):
        for name, work in works.items():
            times[name].append(seconds(work, case.gm))
    medians = {name: statistics.median(measured) for name, measured in times.items()}
    return Timing(case.name, nodes, len(case.rules), matches, **medians)


def lines(timings: Sequence[Timing]) -> Iterator[str]:
    """The table, line by line; times in microseconds a node."""
    yield (
        f"{'workload':<14}{'nodes':>8}{'rules':>7}{'matches':>9}{'walk':>7}{'ours':>8}"
        f"{'/walk':>7}{'inductor':>10}{'ratio':>8}{'SubgraphMatcher':>17}{'ratio':>9}"
    )
    for t in timings:
        unit = 1e6 / t.nodes
        yield (
            f"{t.workload:<14}{t.nodes:>8}{t.rules:>7}{t.matches:>9}"
            f"{t.walk * unit:>7.2f}{t.ours * unit:>8.3f}{t.ours / t.walk:>7.2f}"
            f"{_peer(t.inductor, t, 10, 8)}{_peer(t.subgraph_matcher, t, 17, 9)}"
        )


def _peer(time: float | None, timing: Timing, width: int, ratio: int) -> str:
    if time is None:
        return f"{'-':>{width}}{'-':>{ratio}}"
    return f"{time * 1e6 / timing.nodes:>{width}.1f}{time / timing.ours:>{ratio}.0f}"


def measured(
    sizes: Sequence[int], counts: Sequence[int], runs: int
) -> Iterator[Timing]:
    """Every case at every size."""
    for size in sizes:
        for case in cases(size, counts):
            yield measure(case, runs)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print; `--tiny` only shows that the benchmark runs."""
    options = parsed(__doc__, arguments)
    torch.set_num_threads(1)
    sizes = options.nodes or (TINY_SIZES if options.tiny else SIZES)
    counts = TINY_COUNTS if options.tiny else COUNTS
    timings = list(measured(sizes, counts, 1 if options.tiny else options.runs))
    print("\n".join(lines(timings)))
    if options.json:
        options.json.write_text(json.dumps([attrs.asdict(t) for t in timings]))


if __name__ == "__main__":
    main()
