"""Times engines on graphs: alternating, on one thread, and the medians are compared."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported

import attrs
from torch import fx

from benches.engines import Stage, Work, walk
from benches.workloads import Workload

_LARGE = 20_000
PEERS = ("inductor", "inductor's graphs", "torch.fx")

Plan = tuple[Stage, Workload, int]
"""What is timed on graphs of which size."""


@attrs.frozen
class Effort:
    """How much is timed."""

    runs: int = 5
    patience: float = 5.0
    """Seconds after which an engine is not run again; it has run once at least."""
    peers_up_to: int = 10_000
    """Nodes of the largest graphs that peers are timed on."""


@attrs.frozen
class Timing:
    """Medians of one workload, in seconds of processor time by engine.

    `walk` is a bare loop over the nodes that looks each target up, `raw` the edits
    alone, as far as they were timed.
    """

    stage: str
    workload: str
    nodes: int
    rules: int
    matches: int
    seconds: Mapping[str, float]

    @property
    def ours(self) -> float:
        """Our seconds."""
        return self.seconds["ours"]

    @property
    def label(self) -> str:
        """The workload, and how many rules if that says something."""
        rules = f", {self.rules:,} rules" if self.rules > 1 else ""
        return f"{self.workload}{rules}"

    def ratio(self, engine: str) -> float | None:
        """How many times as long as ours an engine takes."""
        other = self.seconds.get(engine)
        return None if other is None else other / self.ours


def seconds(work: Work, gm: fx.GraphModule) -> float:
    """Processor time of `work(gm)`: what else the machine does takes no part."""
    # A full collection looks at all of torch: only where large graphs are left behind.
    gc.collect(2 if len(gm.graph.nodes) > _LARGE else 1)
    start = time.process_time()
    work(gm)
    return time.process_time() - start


def measure(stage: Stage, workload: Workload, size: int, effort: Effort) -> Timing:
    """Time everything on graphs of a size.

    Raises: RuntimeError, if an engine does not rewrite what it should.
    """
    works = _works(stage, workload, size, effort)
    gc.collect()
    gm = _prepared(stage, workload, size)
    nodes, matches = len(gm.graph.nodes), workload.matches(gm.graph)
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(effort.runs):
        for name, work in works.items():
            if sum(times[name]) > effort.patience:
                continue
            if stage.is_changing:
                gm = _prepared(stage, workload, size)
            times[name].append(seconds(work, gm))
            is_edited = stage.is_changing and name != "walk"
            if is_edited and (left := workload.matches(gm.graph)):
                raise RuntimeError(f"{name} left {left} matches of {workload.name}")
    medians = {name: statistics.median(measured) for name, measured in times.items()}
    rules = len(workload.rewrites)
    return Timing(stage.name, workload.name, nodes, rules, matches, medians)


def _works(
    stage: Stage, workload: Workload, size: int, effort: Effort
) -> Mapping[str, Work]:
    engines = dict(stage.engines)
    is_large = size * len(workload.rewrites) > stage.peer_limit * 1.1
    if size > effort.peers_up_to or is_large:
        engines = {n: make for n, make in engines.items() if n not in PEERS}
    works: dict[str, Work] = {"walk": walk}
    works |= {name: make(workload) for name, make in engines.items()}
    if stage.is_changing and workload.raw_edits is not None:
        works["raw"] = workload.raw_edits
    # Once before the clock runs: what is made when a rule is first tried.
    works["ours"](_prepared(stage, workload, min(size, 1_000)))
    return works


def _prepared(stage: Stage, workload: Workload, size: int) -> fx.GraphModule:
    gm = workload.build(size)
    stage.prepare(gm)
    return gm


def measured(plans: Iterable[Plan], effort: Effort) -> Iterator[Timing]:
    """Everything that is planned, one after the other."""
    for stage, workload, size in plans:
        yield measure(stage, workload, size, effort)
