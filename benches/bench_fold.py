"""QAT fold: ours against torchao's `_fold_conv_bn_qat`, in the same process.

`python -m benches.bench_fold` prints median wall-clock times and their ratio. A run
covers the whole call: matching, folding of constants, rewriting, metadata and
recompiling. Runs of the two alternate, three of ours to one of torchao's, each on a
fresh copy of the model, on one thread. `--growth` measures ours alone, fuse and fold,
on chains of up to 5,000 pairs; `--load` how long both rule sets take to be ready.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator

from benches import bench_qat, models  # first: it sets the number of threads

# isort: split
import attrs
import torch
from torch.fx import GraphModule
from torchao.quantization.pt2e import qat_utils, quantize_pt2e
from torchao.quantization.pt2e.convert import _convert_to_reference_decomposed_fx
from torchao.quantization.pt2e.quantizer import Quantizer

import rewrite_engine.loading
import rewrite_engine.matching.automaton  # noqa: F401  # see `seconds_to_load`
from benches.quantizer import ConvolutionQuantizer
from rewrite_engine import load
from rewrite_engine.integrations import torchao
from rewrite_engine.integrations.torchao import (
    fold_conv_bn_qat,
    fuse_conv_bn_qat,
    prepare_qat_pt2e,
)

SIZES: dict[str, Callable[[], models.Model]] = {
    "conv_bn_pairs(50)": lambda: models.conv_bn_pairs(50),
    "resnet_like(50)": lambda: models.resnet_like(50),
    "mobilenet_like()": models.mobilenet_like,
}
TINY = {"conv_bn_pairs(2)": lambda: models.conv_bn_pairs(2)}
LIBRARIES = ("qat_fuse", "qat_fold")
GROWTH = (50, 500, 5000)
BLOCK = 50
"""Pairs that are exported at once; larger chains repeat them."""


@attrs.frozen
class Growth:
    """Median seconds of both passes on a chain of pairs."""

    pairs: int
    fuse: float
    fold: float


def annotated(model: models.Model) -> GraphModule:
    """The exported training model, every convolution annotated."""
    return ConvolutionQuantizer().annotate(models.capture(*model))


Prepare = Callable[[GraphModule, Quantizer], GraphModule]


def quantized(model: models.Model, prepare: Prepare = prepare_qat_pt2e) -> GraphModule:
    """The prepared model with quantize and dequantize nodes, before it is folded."""
    gm = prepare(models.capture(*model), ConvolutionQuantizer())
    gm(*model[1])
    return _convert_to_reference_decomposed_fx(gm)


def measure(name: str, model: models.Model, runs: int) -> bench_qat.Timing:
    """Time both, alternating, each on copies of the model that its own fuse made."""
    gm = quantized(model)
    peer_gm = quantized(model, quantize_pt2e.prepare_qat_pt2e)
    pairs = bench_qat.count_fused(gm)
    torchao._rules.cache_clear()
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(runs):
        for _ in range(3):
            folded = copy.deepcopy(gm)
            ours.append(bench_qat.seconds(fold_conv_bn_qat, folded))
        peer_folded = copy.deepcopy(peer_gm)
        theirs.append(bench_qat.seconds(qat_utils._fold_conv_bn_qat, peer_folded))
    return bench_qat.Timing(
        name,
        len(gm.graph.nodes),
        pairs - bench_qat.count_fused(folded),
        bench_qat.count_fused(peer_gm) - bench_qat.count_fused(peer_folded),
        ours[0],
        statistics.median(ours),
        statistics.median(theirs),
    )


def measure_growth(pairs: int, runs: int = 3) -> Growth:
    """Time ours on a chain of convolutions; every run has a model of its own."""
    block = models.conv_bn_pairs(min(pairs, BLOCK), channels=3)
    plain, converted = annotated(block), quantized(block)
    fuse, fold = [], []
    for _ in range(runs):
        for gm, apply, times in (
            (plain, fuse_conv_bn_qat, fuse),
            (converted, fold_conv_bn_qat, fold),
        ):
            chain = models.chained(gm, max(1, pairs // BLOCK))
            times.append(bench_qat.seconds(apply, chain))
            fused = bench_qat.count_fused(chain)
            if fused != (pairs if gm is plain else 0):
                raise RuntimeError(f"{fused} of {pairs} pairs are fused")
    return Growth(pairs, statistics.median(fuse), statistics.median(fold))


def seconds_to_load() -> float:
    """Processor time of reading, checking and compiling both rule sets.

    What that imports was imported before; `bench_compile` shows it, too.
    """
    start = time.process_time()
    for library in LIBRARIES:
        _ = load(library).program
    return time.process_time() - start


def growth_lines(measured: list[Growth]) -> Iterator[str]:
    """The table of growth; times in milliseconds."""
    yield f"{'pairs':>7}{'fuse ms':>10}{'a pair':>8}{'fold ms':>10}{'a pair':>8}"
    for g in measured:
        fuse, fold = g.fuse * 1e3, g.fold * 1e3
        yield (
            f"{g.pairs:>7}{fuse:>10.0f}{fuse / g.pairs:>8.2f}"
            f"{fold:>10.0f}{fold / g.pairs:>8.2f}"
        )


def main(arguments: list[str] | None = None) -> None:
    """Measure and print; `--tiny` only shows that the benchmark runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="one small model, one run")
    parser.add_argument("--runs", type=int, default=1, help="of torchao (default 1)")
    parser.add_argument("--growth", action="store_true", help="ours, 50 to 5,000 pairs")
    parser.add_argument("--load", action="store_true", help="ours, ready to be applied")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.load:
        print(f"both rule sets are ready in {seconds_to_load() * 1e3:.0f} ms")
    elif options.growth:
        sizes = (2, 4) if options.tiny else GROWTH
        print("\n".join(growth_lines([measure_growth(size) for size in sizes])))
    else:
        sizes = TINY if options.tiny else SIZES
        timings = [measure(n, build(), options.runs) for n, build in sizes.items()]
        print("\n".join(bench_qat.lines(timings)))


if __name__ == "__main__":
    main()
