"""Matching alone: ours, torch.fx's `SubgraphMatcher`, inductor's `PatternMatcherPass`.

`python -m benches.bench_match` prints a table, `--json FILE` also writes it. Nothing is
rewritten: inductor's patterns refuse every match in their last check, and ours are not
asked whether a rewrite would be safe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benches import runner  # first: it sets the number of threads

# isort: split
from benches import report, rule_sets
from benches.engines import MATCH
from benches.workloads import WORKLOADS

SIZES = (1_000, 10_000)
COUNTS = (1, 10, 100, 1_000)


def plans(sizes: Sequence[int] | None, *, tiny: bool) -> Iterator[runner.Plan]:
    """One rule on each workload, then sets of rules on one chain."""
    for size in sizes or ((60,) if tiny else SIZES):
        yield from ((MATCH, workload, size) for workload in WORKLOADS)
        for workload in rule_sets.workloads(size, (1, 12) if tiny else COUNTS):
            yield MATCH, workload, size


def main(arguments: list[str] | None = None) -> None:
    """Measure and print; `--tiny` only shows that the benchmark runs."""
    given = report.options(__doc__, arguments)
    report.report(given, plans(given.nodes, tiny=given.tiny))


if __name__ == "__main__":
    main()
