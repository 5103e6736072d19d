"""One rule on synthetic graphs: ours, torch.fx's `replace_pattern`, inductor's passes.

`python -m benches.bench_apply` prints a table, `--json FILE` also writes it. Times are
those of matching and rewriting alone: code is left ungenerated on all sides, and no
values are recorded, because no peer derives them. Our safety checks are on. Runs
alternate, each on a fresh graph, on one thread; the medians are compared.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported

import attrs
import torch
from torch import fx
from torch._inductor import pattern_matcher as inductor
from torch.fx import subgraph_rewriter

from benches.workloads import WORKLOADS, Workload
from rewrite_engine import engine, loads
from rewrite_engine.ruleset import RuleSet

SIZES = (1_000, 10_000)
TINY = (60,)


@attrs.frozen
class Timing:
    """Medians of one workload at one size, in seconds."""

    workload: str
    nodes: int
    matches: int
    walk: float
    """A bare loop over the nodes that looks each target up."""
    ours: float
    inductor: float
    replace_pattern: float


def seconds(work: Callable[[fx.GraphModule], object], gm: fx.GraphModule) -> float:
    """Processor time of `work(gm)`: what else the machine does takes no part."""
    gc.collect()
    start = time.process_time()
    work(gm)
    return time.process_time() - start


def walk(gm: fx.GraphModule) -> int:
    """The least that a matcher without an index does."""
    known = {torch.ops.aten.relu.default: 1}
    return sum(known.get(node.target, 0) for node in gm.graph.nodes)


def ours(rules: RuleSet) -> Callable[[fx.GraphModule], object]:
    """Our engine, as a function of a graph."""
    return lambda gm: engine.apply(gm, rules, recompile="lazy")


def by_inductor(workload: Workload) -> Callable[[fx.GraphModule], object]:
    """Inductor's pass with the cheapest handler."""
    matcher = inductor.PatternMatcherPass()
    register = inductor.register_graph_pattern(
        workload.inductor_pattern(), pass_dict=matcher
    )
    register(workload.inductor_handler)
    return lambda gm: matcher.apply(gm.graph)


def by_replace_pattern(workload: Workload) -> Callable[[fx.GraphModule], object]:
    """torch.fx's own rewriter, without the code that it generates at the end."""

    def rewrite(gm: fx.GraphModule) -> None:
        with mock.patch.object(fx.GraphModule, "recompile"):
            subgraph_rewriter.replace_pattern(
                gm, pattern, fx.symbolic_trace(workload.replacement)
            )

    pattern = fx.symbolic_trace(workload.pattern)
    return rewrite


def measure(workload: Workload, nodes: int, runs: int) -> Timing:
    """Time everything on graphs of a size, alternating, `runs` times each.

    Raises: AssertionError, if an engine does not rewrite what it should.
    """
    works = {
        "walk": walk,
        "ours": ours(loads(workload.rule)),
        "inductor": by_inductor(workload),
        "replace_pattern": by_replace_pattern(workload),
    }
    size, expected = _expected(workload, nodes)
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(runs):
        for name, work in works.items():
            gm = workload.build(nodes)
            times[name].append(seconds(work, gm))
            left = workload.matches(gm.graph) if name != "walk" else 0
            assert left == 0, f"{name} left {left} matches of {workload.name}"
    medians = {name: statistics.median(measured) for name, measured in times.items()}
    return Timing(workload.name, size, expected, **medians)


def _expected(workload: Workload, nodes: int) -> tuple[int, int]:
    graph = workload.build(nodes).graph
    return len(graph.nodes), workload.matches(graph)


def lines(timings: list[Timing]) -> Iterator[str]:
    """The table, line by line; times in microseconds a node."""
    yield (
        f"{'workload':<14}{'nodes':>8}{'matches':>9}{'walk':>7}{'ours':>8}"
        f"{'inductor':>10}{'ratio':>7}{'replace_pattern':>17}{'ratio':>8}"
    )
    for t in timings:
        unit = 1e6 / t.nodes
        yield (
            f"{t.workload:<14}{t.nodes:>8}{t.matches:>9}{t.walk * unit:>7.2f}"
            f"{t.ours * unit:>8.2f}{t.inductor * unit:>10.1f}"
            f"{t.inductor / t.ours:>7.1f}{t.replace_pattern * unit:>17.1f}"
            f"{t.replace_pattern / t.ours:>8.1f}"
        )


def parsed(description: str | None, arguments: list[str] | None) -> argparse.Namespace:
    """The options of a benchmark on graphs of several sizes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--tiny", action="store_true", help="small graphs, one run")
    parser.add_argument("--runs", type=int, default=5, help="runs each (default 5)")
    parser.add_argument("--nodes", type=int, nargs="+", help="sizes of the graphs")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print; `--tiny` only shows that the benchmark runs."""
    options = parsed(__doc__, arguments)
    torch.set_num_threads(1)
    sizes = options.nodes or (TINY if options.tiny else SIZES)
    runs = 1 if options.tiny else options.runs
    for workload in WORKLOADS:
        measure(workload, TINY[0], 1)  # warm-up
    timings = [measure(w, nodes, runs) for w in WORKLOADS for nodes in sizes]
    print("\n".join(lines(timings)))
    if options.json:
        options.json.write_text(json.dumps([attrs.asdict(t) for t in timings]))


if __name__ == "__main__":
    main()
