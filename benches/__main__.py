"""All engines on all workloads, matching and rewriting: the tables of the README.

`python -m benches` prints them in Markdown, `--json FILE` also writes the figures, and
`--figures DIR` draws them.
"""

from __future__ import annotations

from itertools import chain

from benches import bench_apply, bench_match, report


def main(arguments: list[str] | None = None) -> None:
    """Measure and print; `--tiny` only shows that it runs."""
    given = report.options(__doc__, arguments)
    tiny = given.tiny
    modules = (bench_match, bench_apply)
    report.report(
        given,
        chain.from_iterable(each.plans(given.nodes, tiny=tiny) for each in modules),
        bench_apply.growing(tiny=tiny, million=given.million),
        bench_apply.allocating(tiny=tiny),
    )


if __name__ == "__main__":
    main()
