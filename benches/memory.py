"""What our engine allocates when it rewrites a graph."""

from __future__ import annotations

import gc
import tracemalloc

import attrs

from benches.engines import we_edit
from benches.workloads import Workload


@attrs.frozen
class Memory:
    """Bytes beyond those of the graph as given, for each node that a run creates."""

    workload: str
    nodes: int
    created: int
    peak: float
    kept: float
    """When the run is over, its result gone, and the rewritten graph still there."""


def measure(workload: Workload, size: int) -> Memory:
    """The allocations of a run, after another has made what is made once."""
    rewrite = we_edit(workload)
    rewrite(workload.build(size))
    tracemalloc.start()
    gm = workload.build(size)
    gc.collect()
    nodes, created = len(gm.graph.nodes), workload.matches(gm.graph)
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    rewrite(gm)
    _, peak = tracemalloc.get_traced_memory()
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    more = ((each - before) / created for each in (peak, after))
    return Memory(workload.name, nodes, created, *more)
