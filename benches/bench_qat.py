"""QAT fuse: ours against torchao's `_fuse_conv_bn_qat`, in the same process.

`python -m benches.bench_qat` prints median wall-clock times and their ratio. A run
covers the whole call: matching, rewriting, metadata and recompiling. Runs of the two
alternate, three of ours to one of torchao's, each on a fresh copy of the exported
model, on one thread. The first run of ours on a model is shown, too.
"""

from __future__ import annotations

import argparse
import copy
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported

import attrs
import torch
from torch.fx import GraphModule
from torchao.quantization.pt2e.qat_utils import _fuse_conv_bn_qat

from benches import models
from rewrite_engine import engine, load

SIZES: dict[str, Callable[[], models.Model]] = {
    "conv_bn_pairs(50)": lambda: models.conv_bn_pairs(50),
    "resnet_like(50)": lambda: models.resnet_like(50),
    "mobilenet_like()": models.mobilenet_like,
    "decoder_like()": models.decoder_like,
    "transformer_like()": models.transformer_like,
}
TINY = {"conv_bn_pairs(2)": lambda: models.conv_bn_pairs(2)}


@attrs.frozen
class Timing:
    """One model's result."""

    model: str
    nodes: int
    """Nodes of the exported graph."""
    pairs: int
    """Pairs we fused."""
    peer_pairs: int
    """Pairs torchao fused; it leaves out what it does not know."""
    first: float
    """Seconds of our first run, which compiles the rules and learns the layers."""
    ours: float
    """Median seconds."""
    theirs: float
    """Median seconds."""

    @property
    def ratio(self) -> float:
        """How many times as long torchao takes."""
        return self.theirs / self.ours


def count_fused(gm: GraphModule) -> int:
    """Fused pairs in `gm`: each computes the square root of its variance."""
    return len(
        gm.graph.find_nodes(op="call_function", target=torch.ops.aten.sqrt.default)
    )


def seconds(fuse: Callable[[GraphModule], object], gm: GraphModule) -> float:
    """Wall-clock time of `fuse(gm)` with the code of the result generated."""
    gc.collect()
    start = time.perf_counter()
    fuse(gm)
    _ = gm.code  # a lazily recompiled module has to pay here
    return time.perf_counter() - start


def measure(name: str, model: models.Model, runs: int) -> Timing:
    """Time both on copies of `model`, alternating, `runs` times each."""
    rules = load("qat_fuse")
    gm = models.capture(*model)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(runs):
        for _ in range(3):
            fused = copy.deepcopy(gm)
            ours.append(seconds(lambda copied: engine.apply(copied, rules), fused))
        peer_fused = copy.deepcopy(gm)
        theirs.append(seconds(_fuse_conv_bn_qat, peer_fused))
    return Timing(
        name,
        len(gm.graph.nodes),
        count_fused(fused),
        count_fused(peer_fused),
        ours[0],
        statistics.median(ours),
        statistics.median(theirs),
    )


def lines(timings: list[Timing]) -> Iterator[str]:
    """The table, line by line; times in milliseconds."""
    yield (
        f"{'model':<20}{'nodes':>7}{'pairs':>7}{'torchao':>9}"
        f"{'first ms':>10}{'ours ms':>10}{'torchao ms':>12}{'ratio':>8}"
    )
    for t in timings:
        yield (
            f"{t.model:<20}{t.nodes:>7}{t.pairs:>7}{t.peer_pairs:>9}"
            f"{t.first * 1e3:>10.1f}{t.ours * 1e3:>10.2f}"
            f"{t.theirs * 1e3:>12.1f}{t.ratio:>8.1f}"
        )


def main(arguments: list[str] | None = None) -> None:
    """Measure and print; `--tiny` only shows that the benchmark runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="one small model, one run")
    parser.add_argument("--runs", type=int, default=5, help="runs a model (default 5)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    runs = 1 if options.tiny else options.runs
    measure("warm-up", models.conv_bn_pairs(1), 1)
    timings = [
        measure(name, build(), runs)
        for name, build in (TINY if options.tiny else SIZES).items()
    ]
    print("\n".join(lines(timings)))


if __name__ == "__main__":
    main()
