"""Tables, JSON and plots of what was timed on graphs."""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import torch

from benches import memory, plots, runner
from benches.memory import Memory
from benches.runner import PEERS, Effort, Plan, Timing
from benches.workloads import Workload

MILLION = 1_000_000

_HEAD = (
    *("stage", "workload", "nodes", "rules", "matches", "µs a node"),
    *("walks", "raw edits", *PEERS),
)
_GROWTH_HEAD = ("workload", "nodes", "exponent", "µs a node")
_MEMORY_HEAD = ("workload", "nodes", "created", "peak, bytes each", "kept, bytes each")


def options(description: str | None, arguments: list[str] | None) -> argparse.Namespace:
    """The options of a benchmark on graphs of several sizes."""
    usual = Effort()
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--tiny", action="store_true", help="small graphs, one run")
    add("--nodes", type=int, nargs="+", help="sizes of the graphs")
    add("--million", action="store_true", help="growth up to a million nodes")
    add("--runs", type=int, default=usual.runs, help="runs each (default %(default)s)")
    add(
        "--patience",
        type=float,
        default=usual.patience,
        help="seconds after which an engine is not run again (default %(default)s)",
    )
    add(
        "--peers-up-to",
        type=int,
        default=usual.peers_up_to,
        help="nodes of the largest graphs for peers (default %(default)s)",
    )
    add("--json", type=Path, help="also write the figures here")
    add("--figures", type=Path, help="folder for the plots")
    given = parser.parse_args(arguments)
    if given.figures:
        given.figures.mkdir(parents=True, exist_ok=True)
    return given


def report(
    given: argparse.Namespace,
    plans: Iterable[Plan],
    growing: Iterable[Plan] = (),
    allocating: Iterable[tuple[Workload, int]] = (),
) -> None:
    """Measure what is planned, and print, save and draw it.

    `growing` plans are those of ours alone, on graphs of several sizes.
    """
    torch.set_num_threads(1)
    runs = 1 if given.tiny else given.runs
    effort = Effort(runs, given.patience, given.peers_up_to)
    alone = attrs.evolve(effort, runs=min(runs, 3), peers_up_to=0)
    timings = list(_printed(runner.measured(plans, effort)))
    grown = list(runner.measured(growing, alone))
    _print_table(_GROWTH_HEAD, map(_growth_row, _by_workload(grown).values()))
    allocated = [memory.measure(workload, size) for workload, size in allocating]
    _print_table(_MEMORY_HEAD, map(_memory_row, allocated))
    if given.json:
        found = {"timings": timings, "growth": grown, "memory": allocated}
        lists = {k: [attrs.asdict(each) for each in v] for k, v in found.items()}
        given.json.write_text(json.dumps(lists, indent=1))
    if given.figures:
        for name, figure in figures(timings, grown).items():
            (given.figures / f"{name}.svg").write_text(figure)


# --- tables in Markdown ---


def _printed(timings: Iterable[Timing]) -> Iterator[Timing]:
    """The same timings, each printed as soon as it is there."""
    print(_line(_HEAD), _line(["---"] * len(_HEAD)), sep="\n")
    for timing in timings:
        print(_line(_row(timing)), flush=True)
        yield timing


def _print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    found = list(rows)
    if found:
        lines = [head, ["---"] * len(head), *found]
        print("", *map(_line, lines), sep="\n")


def _line(row: Iterable[str]) -> str:
    return f"| {' | '.join(row)} |"


def _row(timing: Timing) -> Sequence[str]:
    """Of walks and raw edits, how many of them we take; of peers, how many of ours."""
    counts = (timing.nodes, timing.rules, timing.matches)
    limits = (timing.ratio("walk"), timing.ratio("raw"))
    peers = map(timing.ratio, PEERS)
    return (
        timing.stage,
        timing.workload,
        *(f"{count:,}" for count in counts),
        f"{timing.ours * 1e6 / timing.nodes:.3g}",
        *("-" if ratio is None else f"{1 / ratio:.3g}" for ratio in limits),
        *("-" if ratio is None else plots.times(ratio) for ratio in peers),
    )


def _growth_row(timings: Sequence[Timing]) -> Sequence[str]:
    first, last = timings[0], timings[-1]
    return (
        last.label,
        f"{first.nodes:,} to {last.nodes:,}",
        f"{exponent(timings):.2f}",
        f"{last.ours * 1e6 / last.nodes:.3g}",
    )


def _memory_row(found: Memory) -> Sequence[str]:
    counts = (found.nodes, found.created, found.peak, found.kept)
    return (found.workload, *(f"{count:,.0f}" for count in counts))


def exponent(timings: Sequence[Timing]) -> float:
    """How the time grows with the nodes: 1 is in proportion."""
    nodes = [math.log(timing.nodes) for timing in timings]
    times = [math.log(timing.ours) for timing in timings]
    return statistics.linear_regression(nodes, times).slope


def _by_workload(timings: Iterable[Timing]) -> Mapping[str, list[Timing]]:
    found: dict[str, list[Timing]] = {}
    for timing in timings:
        found.setdefault(timing.label, []).append(timing)
    return found


# --- plots ---


def figures(timings: Sequence[Timing], grown: Sequence[Timing]) -> Mapping[str, str]:
    """How many times as long the peers take, and how our time grows, as SVG."""
    found = {}
    for stage, title in (("match", "Matching"), ("edit", "Rewriting")):
        here = [t for t in timings if t.stage == stage]
        if any(peer in t.seconds for t in here for peer in PEERS):
            found[stage] = plots.bars(f"{title}: times as long as ours", _ratios(here))
    if grown:
        series = {
            name: [(t.nodes, t.ours) for t in each]
            for name, each in _by_workload(grown).items()
        }
        found["growth"] = plots.lines("Rewriting: our time by number of nodes", series)
    return found


def _ratios(timings: Sequence[Timing]) -> list[tuple[str, Mapping[str, float]]]:
    """Of each workload the largest graph on which peers were timed."""
    largest: dict[str, Timing] = {}
    for timing in timings:
        known = largest.setdefault(timing.label, timing)
        if timing.nodes > known.nodes and any(peer in timing.seconds for peer in PEERS):
            largest[timing.label] = timing
    return [
        (label, {peer: t.seconds[peer] / t.ours for peer in PEERS if peer in t.seconds})
        for label, t in largest.items()
    ]
