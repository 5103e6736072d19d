"""`apply`: rewrite the program in a `.pt2` file."""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rewrite_engine.atomic import replacing
from rewrite_engine.commands import console
from rewrite_engine.commands.libraries import rule_path
from rewrite_engine.commands.options import add_trust_pickle
from rewrite_engine.commands.outcome import DONE, UsageError
from rewrite_engine.commands.report_table import print_report

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from rewrite_engine.commands import Subparsers
    from rewrite_engine.report import Report
    from rewrite_engine.rewriting.run import Result


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser("apply", help="rewrite an exported program")
    parser.add_argument("model", type=Path, metavar="MODEL.pt2")
    parser.add_argument(
        "rules", nargs="+", metavar="RULES", help="libraries or paths, applied in turn"
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("-o", "--output", type=Path, metavar="OUT.pt2")
    where.add_argument("--in-place", action="store_true", help="overwrite the model")
    where.add_argument("--dry-run", action="store_true", help="report, write nothing")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="OUT.html",
        help="write what was done as a page; of several libraries, one page each",
    )
    parser.add_argument(
        "--trace", type=Path, metavar="OUT.json", help="write every rewrite as JSON"
    )
    parser.add_argument(
        "--bisect-limit", type=int, metavar="N", help="make the first N rewrites only"
    )
    parser.add_argument(
        "--recurse", action="store_true", help="rewrite subgraphs, such as branches"
    )
    parser.add_argument(
        "--no-cache",
        dest="cache",
        action="store_false",
        help="neither read nor keep what was known of the rules",
    )
    add_trust_pickle(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Load, rewrite, report and write; the output appears whole or not at all."""
    target = _target(arguments)
    paths = [rule_path(name) for name in arguments.rules]
    pages = [] if arguments.report is None else _pages(arguments.report, paths)
    trace = [] if arguments.trace is None else [arguments.trace]
    outputs = [] if target is None else [target]
    _check_free([*pages, *trace], [arguments.model, *paths, *outputs])
    with _steps(2 + len(paths)) as step:
        reports = _rewrite(arguments, paths, target, step)
    out = console.output()
    print_report([rule for report in reports for rule in report.rules], out)
    matches = console.counted(sum(report.matches for report in reports), "rewrite")
    milliseconds = sum(report.seconds for report in reports) * 1000
    place = "nothing written" if target is None else f"written to {target}"
    out.print(f"{matches} in {milliseconds:.0f} ms, {place}")
    for page, report in zip(pages, reports, strict=False):  # no pages are asked for
        _write(page, report.to_html())
        out.print(f"what was done: {page}")
    if arguments.trace is not None:
        _write_trace(arguments.trace, paths, reports)
        out.print(f"every rewrite: {arguments.trace}")
    return DONE


def _rewrite(
    arguments: argparse.Namespace, paths: list[Path], target: Path | None, step: _Step
) -> list[Report]:
    step("loading torch and the rules")
    from rewrite_engine import engine
    from rewrite_engine.model_files import load_program, save_program

    libraries = [engine.load(path, cache=arguments.cache) for path in paths]
    step(f"reading {arguments.model}")
    extra: dict[str, str] = {}
    trust = arguments.trust_pickle
    program = load_program(arguments.model, trust_pickle=trust, extra_files=extra)
    apply = _applied(arguments)
    reports = []
    for rules in libraries:
        step(f"applying {rules.name}")
        reports.append(apply(program, rules, recurse=arguments.recurse).report)
    program.validate()
    if target is not None:
        step(f"writing {target}")
        save_program(program, target, extra_files=extra)
    return reports


def _applied(arguments: argparse.Namespace) -> Callable[..., Result]:
    """How rules are applied: recorded if something is to be written about it."""
    from rewrite_engine import engine
    from rewrite_engine.bisecting import FirstRewrites

    record = arguments.report is not None or arguments.trace is not None
    if arguments.bisect_limit is None:
        return functools.partial(engine.apply, record=record)
    if record:
        raise UsageError("`--bisect-limit` writes neither a report nor a trace")
    return FirstRewrites(arguments.bisect_limit).apply


def _write_trace(
    target: Path, paths: Sequence[Path], reports: Sequence[Report]
) -> None:
    runs = zip(paths, reports, strict=True)
    traces = [{"file": path.name, **report.trace()} for path, report in runs]
    _write(target, json.dumps(traces, indent=1) + "\n")


def _write(target: Path, text: str) -> None:
    with replacing(target) as fresh:
        fresh.write_text(text, encoding="utf-8")


def _pages(target: Path, paths: Sequence[Path]) -> list[Path]:
    """A page a rule set, named after it if there are several."""
    if len(paths) == 1:
        return [target]
    return [target.with_name(f"{target.stem}.{p.stem}{target.suffix}") for p in paths]


def _check_free(pages: Sequence[Path], taken: Sequence[Path]) -> None:
    """Raises UsageError if a page has no folder, or is another file."""
    for number, page in enumerate(pages):
        if not page.parent.is_dir():
            raise UsageError(f"{page.parent}: no such folder")
        if any(_is_same(page, other) for other in (*taken, *pages[:number])):
            raise UsageError(f"{page} is also the model, a rule file or another output")


def _target(arguments: argparse.Namespace) -> Path | None:
    """Where the result goes. Raises UsageError if it cannot or should not go there."""
    model: Path = arguments.model
    target: Path | None = model if arguments.in_place else arguments.output
    if target is None:
        return None
    if target.suffix != ".pt2":
        raise UsageError(f"{target}: the name of a model ends in .pt2")
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent}: no such folder")
    if not arguments.in_place and _is_same(target, model):
        raise UsageError(f"{target} is the input; `--in-place` overwrites it")
    return target


def _is_same(a: Path, b: Path) -> bool:
    if a.exists() and b.exists():
        return a.samefile(b)
    return a.resolve() == b.resolve()


class _Step:
    """Says on a terminal what is being done."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def __call__(self, description: str) -> None:
        self._progress.update(self._task, description=description, advance=1)


@contextmanager
def _steps(total: int) -> Iterator[_Step]:
    """A progress bar on standard error, if that is a terminal; gone at the end."""
    from rich.progress import Progress

    err = console.errors()
    disable = not err.is_terminal
    with Progress(console=err, transient=True, disable=disable) as progress:
        yield _Step(progress, progress.add_task("", total=total))
