"""All engines on all workloads: one table of matching and rewriting, and two plots.

`python -m benches` prints the table in Markdown, `--figures DIR` also draws how many
times faster ours is (`ratios.svg`) and how the time grows (`growth.svg`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benches import bench_apply, bench_match, plots
from benches.workloads import WORKLOADS

HEAD = ("stage", "workload", "nodes", "rules", "µs a node", "inductor", "torch.fx")


def cells(
    matched: Sequence[bench_match.Timing], applied: Sequence[bench_apply.Timing]
) -> Iterator[tuple[str, ...]]:
    """The rows of the table; of the peers, how many times as long they take."""
    for m in matched:
        peers = [_times(peer, m.ours) for peer in (m.inductor, m.subgraph_matcher)]
        yield "match", m.workload, str(m.nodes), str(m.rules), _unit(m), *peers
    for a in applied:
        peers = [_times(peer, a.ours) for peer in (a.inductor, a.replace_pattern)]
        yield "rewrite", a.workload, str(a.nodes), "1", _unit(a), *peers


def _unit(timing: bench_match.Timing | bench_apply.Timing) -> str:
    return f"{timing.ours * 1e6 / timing.nodes:.2g}"


def _times(peer: float | None, ours: float) -> str:
    return "-" if peer is None else f"{peer / ours:.3g}×"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    marks = ("---",) * len(HEAD)
    return "\n".join(f"| {' | '.join(row)} |" for row in (HEAD, marks, *rows))


def ratios(matched: Sequence[bench_match.Timing]) -> str:
    """The plot of the largest graphs that the peers were timed on."""
    timed = [m for m in matched if m.inductor and m.subgraph_matcher]
    size = max(m.nodes for m in timed) // 2
    rows = [
        (
            f"{m.workload}, {m.rules} rules" if m.rules > 1 else m.workload,
            {
                "inductor": (m.inductor or 0) / m.ours,
                "SubgraphMatcher": (m.subgraph_matcher or 0) / m.ours,
            },
        )
        for m in timed
        if m.nodes > size
    ]
    return plots.bars("Matching: how many times as long the peers take", rows)


def growth(matched: Sequence[bench_match.Timing]) -> str:
    """The plot of our time over the size of the graph."""
    series: dict[str, list[plots.Point]] = {}
    for m in matched:
        name = f"{m.workload}, {m.rules} rules" if m.rules > 1 else m.workload
        series.setdefault(name, []).append((m.nodes, m.ours))
    return plots.lines("Matching: our time by number of nodes", series)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print; `--tiny` only shows that it runs."""
    parser = argparse.ArgumentParser(prog="python -m benches", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="small graphs, one run")
    parser.add_argument("--runs", type=int, default=5, help="runs each (default 5)")
    parser.add_argument("--nodes", type=int, nargs="+", help="sizes of the graphs")
    parser.add_argument("--figures", type=Path, help="folder for the plots")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    runs = 1 if options.tiny else options.runs
    tiny, usual = bench_match.TINY_SIZES, bench_match.SIZES
    sizes = options.nodes or (tiny if options.tiny else usual)
    counts = bench_match.TINY_COUNTS if options.tiny else bench_match.COUNTS
    matched = list(bench_match.measured(sizes, counts, runs))
    few = [size for size in sizes if size <= bench_match.PEERS_UP_TO]
    applied = [bench_apply.measure(w, size, runs) for w in WORKLOADS for size in few]
    print(table(list(cells(matched, applied))))
    if options.figures:
        (options.figures / "ratios.svg").write_text(ratios(matched))
        (options.figures / "growth.svg").write_text(growth(matched))


if __name__ == "__main__":
    main()
