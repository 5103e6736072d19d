"""Rewriting: ours, torch.fx's `replace_pattern`, inductor's `PatternMatcherPass`.

`python -m benches.bench_apply` prints a table, `--json FILE` also writes it. `edit` is
matching and rewriting, with code left ungenerated on all sides; `full` generates it,
torch.fx after every rule, the others once. Graphs hold no recorded values, because no
peer derives any; `with values` they do, and ours are derived. Two more tables are about
ours alone: how the time grows with the graph, and what is allocated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benches import runner  # first: it sets the number of threads

# isort: split
from benches import report, rule_sets
from benches.engines import EDIT, EDIT_VALUES, FULL, FULL_VALUES
from benches.workloads import WORKLOADS, Workload

SIZES = (1_000, 10_000)
GROWTH = (1_000, 10_000, 100_000)
COUNTS = (100, 1_000)


def plans(sizes: Sequence[int] | None, *, tiny: bool) -> Iterator[runner.Plan]:
    """One rule on each workload, sets of rules on a chain, and these with code."""
    sizes = sizes or ((60,) if tiny else SIZES)
    for size in sizes:
        yield from ((EDIT, workload, size) for workload in WORKLOADS)
    typed = [workload for workload in WORKLOADS if workload.has_one_type]
    yield from ((EDIT_VALUES, workload, sizes[0]) for workload in typed)
    for workload in rule_sets.planted(sizes[-1], (12,) if tiny else COUNTS):
        yield EDIT, workload, sizes[-1]
    size, count = (60, 12) if tiny else (2_000, 100)
    for workload in rule_sets.planted(size, [count]):
        yield from ((stage, workload, size) for stage in (FULL, FULL_VALUES))


def growing(*, tiny: bool, million: bool) -> Iterator[runner.Plan]:
    """Every workload at every size."""
    sizes = (60, 120) if tiny else (*GROWTH, *([report.MILLION] if million else []))
    return ((EDIT, workload, size) for workload in WORKLOADS for size in sizes)


def allocating(*, tiny: bool) -> Iterator[tuple[Workload, int]]:
    """The workloads in which something is rewritten."""
    if tiny:
        return iter([(WORKLOADS[0], 60)])
    matching = (each for each in WORKLOADS if each.matches(each.build(60).graph))
    return ((each, 10_000) for each in matching)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print; `--tiny` only shows that the benchmark runs."""
    given = report.options(__doc__, arguments)
    tiny = given.tiny
    report.report(
        given,
        plans(given.nodes, tiny=tiny),
        growing(tiny=tiny, million=given.million),
        allocating(tiny=tiny),
    )


if __name__ == "__main__":
    main()
