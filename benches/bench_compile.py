"""From rule text to the matching program: shipped libraries, and generated rule sets.

    python -m benches.bench_compile [--tiny] [--runs N]

Every run is a process of its own that has imported torch; times are of the processor,
the least of the runs, in milliseconds. `import` is what `from rewrite_engine import
engine, load` adds, `stages` what the first rules import in addition; then `first` is
reading, checking and compiling the rules, and `again` the same once more.

The second table is about files of rules of which an index is kept, most of which need
calls that a graph lacks: what `load` and the first `apply` of a process take without an
index (`cold`), and with it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs

LIBRARIES = ("qat_fuse", "qat_fold", "bn_fold", "equalize")
SIZES = (10, 100, 1000)
KNOWN = (1000, 10_000)
CALLS = ("relu", "tanh", "sigmoid", "neg", "exp", "abs", "sqrt", "silu", "gelu", "log")
INNERMOST = (
    *("sin", "cos", "floor", "erf", "rsqrt"),
    *("reciprocal", "round", "hardswish", "hardsigmoid", "relu6"),
)

_MEASURED = """
import json, sys, time
import torch
text = sys.stdin.read()
start = time.process_time()
from rewrite_engine import engine, load, loads
times = [time.process_time() - start]
start = time.process_time()
from rewrite_engine.collector import paused_gc
with paused_gc():
    import rewrite_engine.loading, rewrite_engine.matching.automaton
times.append(time.process_time() - start)
for _ in range(2):
    start = time.process_time()
    count = {statement}
    times.append(time.process_time() - start)
print(json.dumps([count, *times]))
"""
_APPLIED = """
import json, sys, time
import torch
from rewrite_engine.collector import paused_gc
with paused_gc():
    import rewrite_engine.loading, rewrite_engine.rewriting.run
    import rewrite_engine.matching.needs
from rewrite_engine import load
graph = torch.fx.symbolic_trace(lambda x, w: torch.relu(torch.tanh(torch.sin(x)) * w))
start = time.process_time()
rules = load(sys.stdin.read())
times = [time.process_time() - start]
start = time.process_time()
count = len(rules.apply(graph).report.rules)
times.append(time.process_time() - start)
print(json.dumps([count, *times]))
"""
_LIBRARIES = "sum(len(load(name).program.rules) for name in {names!r})"
_GENERATED = "len(loads(text).program.rules)"


@attrs.frozen
class Timing:
    """Seconds that some rules take from their text until they can be applied."""

    name: str
    rules: int
    imported: float
    stages: float
    first: float
    again: float


@attrs.frozen
class Known:
    """Seconds that a file takes to be loaded, and to be applied then, to one graph."""

    rules: int
    cold_load: float
    cold_apply: float
    load: float
    apply: float


def generated(count: int) -> str:
    """A text of so many rules, each of four calls and unlike any other."""
    chosen = islice(product(CALLS, repeat=3), count)
    return "\n".join(f"{_rule(i, *calls)}" for i, calls in enumerate(chosen))


def _rule(number: int, outer: str, one: str, other: str) -> str:
    return f"""
## `{outer}` of a product of `{one}` and `{other}`.
rule r{number} {{
  z = {outer}({one}(x) * {other}(w))
=>
  z' = {other}(w) * {outer}({one}(x))
}}"""


def write_library(folder: Path, count: int) -> Path:
    """A file that uses others, of a thousand rules or less, in which all of so many
    rules are different.
    """
    most = len(CALLS) ** 3
    parts = [(i, min(most, count - i)) for i in range(0, count, most)]
    for start, size in parts:
        text = generated(size).replace("(x)", f"({INNERMOST[start // most]}(x))")
        text = text.replace("rule r", f"rule r{start}_")
        (folder / f"part{start}.rules").write_text(text)
    path = folder / "library.rules"
    path.write_text("".join(f'use "part{start}.rules"\n' for start, _ in parts))
    return path


def measure_known(count: int, runs: int) -> Known:
    """The least times with so many rules, in processes that share an index."""
    with TemporaryDirectory() as folder:
        path = str(write_library(Path(folder), count))
        cold = [_run(_APPLIED, path, cache="off") for _ in range(runs)]
        _run(_APPLIED, path, cache=folder)
        warm = [_run(_APPLIED, path, cache=folder) for _ in range(runs)]
    number, *times = map(min, zip(*cold, strict=True))
    _, *others = map(min, zip(*warm, strict=True))
    return Known(int(number), *times, *others)


def measure(name: str, statement: str, text: str, runs: int) -> Timing:
    """The least times of a statement that gives the number of rules it compiled."""
    code = _MEASURED.format(statement=statement)
    count, *times = map(min, zip(*(_run(code, text) for _ in range(runs)), strict=True))
    return Timing(name, int(count), *times)


def _run(code: str, text: str, cache: str = "off") -> list[float]:
    command = [sys.executable, "-c", code]
    # Modules are read from bytecode, as they are once they are installed.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env["REWRITE_ENGINE_CACHE"] = cache
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return list(map(float, json.loads(done.stdout)))


def measure_all(tiny: bool, runs: int) -> Iterator[Timing]:
    """A library by itself, those of quantization together, and generated rules."""
    groups = (LIBRARIES[:1],) if tiny else (LIBRARIES[:1], LIBRARIES[:2], LIBRARIES)
    for names in groups:
        statement = _LIBRARIES.format(names=names)
        yield measure(" + ".join(names), statement, "", runs)
    for count in (2,) if tiny else SIZES:
        yield measure(f"{count} generated", _GENERATED, generated(count), runs)


def lines(timings: Iterator[Timing]) -> Iterator[str]:
    """The table; times in milliseconds."""
    columns = ("import", "stages", "first", "again", "a rule", "again")
    yield f"{'rules':<40}{'number':>7}" + "".join(f"{name:>8}" for name in columns)
    for t in timings:
        each = t.first / t.rules, t.again / t.rules
        times = (t.imported, t.stages, t.first, t.again, *each)
        cells = "".join(f"{seconds * 1e3:>8.2f}" for seconds in times)
        yield f"{t.name:<40}{t.rules:>7}{cells}"


def known_lines(timings: Iterator[Known]) -> Iterator[str]:
    """The second table; times in milliseconds, and what is taken with an index also in
    microseconds a rule.
    """
    columns = ("cold load", "apply", "load", "apply", "load µs", "both µs")
    yield f"{'known rules':>12}" + "".join(f"{name:>11}" for name in columns)
    for t in timings:
        each = (t.load / t.rules * 1e3, (t.load + t.apply) / t.rules * 1e3)
        times = (t.cold_load, t.cold_apply, t.load, t.apply, *each)
        yield f"{t.rules:>12}" + "".join(f"{time * 1e3:>11.2f}" for time in times)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print; `--tiny` only shows that the benchmark runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="two small sets, one run")
    parser.add_argument("--runs", type=int, default=5, help="processes (default 5)")
    options = parser.parse_args(arguments)
    runs = 1 if options.tiny else options.runs
    for line in lines(measure_all(options.tiny, runs)):
        print(line, flush=True)
    counts = (100,) if options.tiny else KNOWN
    for line in known_lines(measure_known(count, runs) for count in counts):
        print(line, flush=True)


if __name__ == "__main__":
    main()
