"""int8 with and without equalization: signal-to-noise of `convert_fx` on every case.

`python -m benches.bench_equalize` prints, for two ways to quantize weights, how the
output of the quantized model compares with the float model's: without equalization,
with torch's, with ours. `--plot FILE.svg` draws the layers of one model.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import fx, nn
from torch.ao import quantization as ao
from torch.ao.quantization.fx import _equalize as peer
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

from benches.equalize_cases import CASES, Case
from rewrite_engine.equalize import (
    EqualizationConfig,
    convert,
    layer_sqnr,
    prepare,
    sqnr,
)

QCONFIGS: Mapping[str, ao.QConfig] = {
    "static": ao.default_qconfig,
    "per_channel": ao.QConfig(
        activation=ao.default_observer, weight=ao.default_per_channel_weight_observer
    ),
    "histogram": ao.get_default_qconfig("fbgemm"),
    "dynamic": ao.default_dynamic_qconfig,
    "qat": ao.get_default_qat_qconfig("fbgemm"),
}
CALIBRATION = (1, 2, 3)
"""Seeds of the inputs that observers see; the outputs are compared on another one."""
HELD_OUT = 7


@attrs.frozen
class Outcome:
    """SQNR in dB of one case: `plain` without equalization; None where it fails."""

    case: str
    plain: float
    torch: float | None
    ours: float | None


def quantizing(case: Case, qconfig: ao.QConfig, **options: Any) -> fx.GraphModule:
    """The case with quantization observers."""
    mapping = ao.QConfigMapping().set_global(qconfig)
    return prepare_fx(case.model(), mapping, (case.input(),), **options)


def calibrated(case: Case, gm: fx.GraphModule) -> fx.GraphModule:
    """The same graph, after its observers have seen data."""
    for seed in CALIBRATION if case.calibrated else ():
        gm(case.input(seed))
    return gm


def without(case: Case, qconfig: ao.QConfig) -> nn.Module:
    """Quantized as it is."""
    return convert_fx(calibrated(case, quantizing(case, qconfig)))


def with_torchs(case: Case, qconfig: ao.QConfig) -> nn.Module:
    """Equalized by torch and quantized."""
    chosen = ao.QConfigMapping()
    if case.layers is None:
        chosen.set_global(peer.default_equalization_qconfig)
    for name in case.layers or ():
        chosen.set_module_name(name, peer.default_equalization_qconfig)
    gm = quantizing(case, qconfig, _equalization_config=chosen)
    return convert_fx(calibrated(case, gm))


def with_ours(case: Case, qconfig: ao.QConfig) -> nn.Module:
    """Equalized by our rules and quantized."""
    gm = prepare(quantizing(case, qconfig), EqualizationConfig(case.layers))
    return convert_fx(convert(calibrated(case, gm)))


def flat(result: Any) -> torch.Tensor:
    """All outputs of a model, dequantized, one after the other."""
    values = result if isinstance(result, tuple) else (result,)
    return torch.cat([v.dequantize().flatten() for v in values])


def measure(case: Case, qconfig: ao.QConfig) -> Outcome | None:
    """The three figures; None if torch cannot quantize the plain model."""
    x = case.input(HELD_OUT)
    reference = flat(case.model()(x.clone()))

    def ratio(quantize: Callable[[Case, ao.QConfig], nn.Module]) -> float:
        return sqnr(reference, flat(quantize(case, qconfig)(x.clone())))

    plain = attempt(lambda: ratio(without))
    if plain is None or not math.isfinite(plain):
        return None
    theirs, ours = (attempt(lambda h=how: ratio(h)) for how in (with_torchs, with_ours))
    return Outcome(case.name, plain, theirs, ours)


def attempt(run: Callable[[], float]) -> float | None:
    """What `run` returns, None if it fails: torch's own conversion has many limits."""
    try:
        return run()
    except Exception:
        return None


def measure_all(qconfig: ao.QConfig, cases: Mapping[str, Case]) -> list[Outcome]:
    """Every single-precision case that torch can quantize at all."""
    chosen = [
        c for c in cases.values() if c.dtype == torch.float32 and c.qconfig == "static"
    ]
    return [o for case in chosen if (o := measure(case, qconfig)) is not None]


def lines(name: str, outcomes: list[Outcome]) -> Iterator[str]:
    """The summary of one way to quantize."""
    plain = statistics.fmean(o.plain for o in outcomes)
    yield f"{name}: {len(outcomes)} cases, plain {plain:.1f} dB"
    for who in ("ours", "torch"):
        ratios = [(getattr(o, who), o.plain) for o in outcomes]
        changes = [ratio - plain for ratio, plain in ratios if ratio is not None]
        worse = sum(change < -3 for change in changes)
        yield (
            f"  {who:5} mean {statistics.fmean(changes):+.1f} dB, "
            f"worst {min(changes):+.1f} dB, more than 3 dB worse on {worse}, "
            f"fails on {len(ratios) - len(changes)}"
        )


# --- the layers of one model ---


@attrs.frozen
class LayerRatios:
    """SQNR in dB of the layers of one model, by name."""

    plain: Mapping[str, float]
    equalized: Mapping[str, float]


def outlier_model() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Eight convolutions whose channels differ in range by up to a factor of 100, as
    those of trained models with folded BatchNorms do; it computes what even ones would.
    """
    widths = (3, 16, 16, 16, 32, 32, 32, 32, 32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        convs = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)]
        for first, second in pairwise(convs):
            spread = 10 ** torch.empty(first.out_channels).uniform_(-1, 1)
            first.weight.data.mul_(spread.view(-1, 1, 1, 1))
            first.bias.data.mul_(spread)
            second.weight.data.div_(spread.view(1, -1, 1, 1))
        x = torch.randn(4, 3, 16, 16)
    layers = [layer for conv in convs for layer in (conv, nn.ReLU())]
    return nn.Sequential(*layers).eval(), (x,)


def compare_layers() -> LayerRatios:
    """Each layer of the quantized model against the float model it came from."""
    model, inputs = outlier_model()
    mapping = ao.QConfigMapping().set_global(QCONFIGS["static"])
    gm = prepare_fx(model, mapping, inputs)
    plain, equalized = gm, prepare(gm)
    for observed in (plain, equalized):
        observed(*inputs)
    return LayerRatios(*(_layers(each, inputs) for each in (plain, convert(equalized))))


def _layers(gm: fx.GraphModule, inputs: tuple[Any, ...]) -> Mapping[str, float]:
    return layer_sqnr(gm, convert_fx(copy.deepcopy(gm)), *inputs)


def svg(ratios: LayerRatios) -> str:
    """One row a layer: a dot without equalization, a dot with it, a line between."""
    names = [n for n in ratios.plain if n in ratios.equalized]
    most = max(max(ratios.plain.values()), max(ratios.equalized.values())) + 2
    left, width, step = 110, 480, 18

    def across(ratio: float) -> float:
        return left + width * max(ratio, 0) / most

    rows = []
    for i, name in enumerate(names):
        y, before, after = 50 + step * i, ratios.plain[name], ratios.equalized[name]
        x0, x1 = across(before), across(after)
        rows.append(
            f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{name}</text>'
            f'<line x1="{x0:.1f}" y1="{y}" x2="{x1:.1f}" y2="{y}" class="gain"/>'
            f'<circle cx="{x0:.1f}" cy="{y}" r="4" class="plain"/>'
            f'<circle cx="{x1:.1f}" cy="{y}" r="4" class="equalized"/>'
        )
    bottom = 50 + step * len(names)
    ticks = "".join(
        f'<line x1="{across(t):.1f}" y1="36" x2="{across(t):.1f}" y2="{bottom}" '
        f'class="grid"/><text x="{across(t):.1f}" y="{bottom + 14}" '
        f'text-anchor="middle">{t} dB</text>'
        for t in range(0, int(most), 10)
    )
    return _SVG.format(
        width=left + width + 20, height=bottom + 24, body=ticks + "".join(rows)
    )


_SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"
 font-family="sans-serif" font-size="11">
<style>text{{fill:#555}}.grid{{stroke:#ddd}}.gain{{stroke:#999;stroke-width:2}}
.plain{{fill:#c0504d}}.equalized{{fill:#2e75b6}}</style>
<circle cx="110" cy="16" r="4" class="plain"/><text x="120" y="20">int8</text>
<circle cx="180" cy="16" r="4" class="equalized"/>
<text x="190" y="20">int8, equalized: SQNR of each layer's output</text>
{body}</svg>
"""


def main(arguments: list[str] | None = None) -> None:
    """Measure and print; `--tiny` only shows that the benchmark runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="two cases")
    parser.add_argument("--plot", type=Path, help="where to write the figure (SVG)")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cases = CASES if not options.tiny else dict(list(CASES.items())[:2])
    for name in ("static", "per_channel"):
        print("\n".join(lines(name, measure_all(QCONFIGS[name], cases))))
    if options.plot is not None:
        options.plot.write_text(svg(compare_layers()))


if __name__ == "__main__":
    main()
