"""Rules over many model files, by any executor; a bad model does not stop the rest."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from rewrite_engine.model_files import load_program, save_program
from rewrite_engine.report import Report
from rewrite_engine.ruleset import RuleSet

_FILES: Final = threading.Lock()
"""Torch reads and writes one program at a time in a process."""


@attrs.frozen
class Applied:
    """What became of one model.

    `report` is None if the model was `skipped`, because its result was there, or if
    `error` says what went wrong, in one line.
    """

    source: str
    target: str
    report: Report | None = None
    error: str | None = None
    skipped: bool = False


@attrs.frozen
class _Task:
    source: str
    target: str
    rules: RuleSet
    trust_pickle: bool


def apply_many(
    sources: Iterable[str | os.PathLike[str]],
    rules: RuleSet,
    folder: str | os.PathLike[str],
    *,
    executor: Executor | None = None,
    trust_pickle: bool = False,
    overwrite: bool = False,
) -> Iterator[Applied]:
    """Apply rules to `.pt2` files and write the results into a folder, under the same
    names. Yields what became of each model as it is done.

    Results that are there are kept unless `overwrite`, so that a run that was stopped
    goes on where it ended. `executor` is any of `concurrent.futures`, by default one of
    processes. Sources and folder may be URLs that fsspec knows (`s3://…`).

    Raises: ValueError, if two models have the same name.
    """
    tasks = _tasks([os.fspath(each) for each in sources], os.fspath(folder), rules)
    waiting = []
    with _executor(executor) as pool:
        for task in tasks:
            if not overwrite and _exists(task.target):
                yield Applied(task.source, task.target, skipped=True)
                continue
            chosen = attrs.evolve(task, trust_pickle=trust_pickle)
            waiting.append(pool.submit(_apply, chosen))
        for future in as_completed(waiting):
            yield future.result()


def _tasks(sources: list[str], folder: str, rules: RuleSet) -> list[_Task]:
    names = [source.replace("\\", "/").rpartition("/")[2] for source in sources]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two models are called {twice}; their results would collide")
    return [
        _Task(source, f"{folder.rstrip('/')}/{name}", rules, False)
        for source, name in zip(sources, names, strict=True)
    ]


@contextmanager
def _executor(given: Executor | None) -> Iterator[Executor]:
    """The executor given, which stays open, or a pool of processes of our own."""
    if given is not None:
        yield given
        return
    # A forked process would inherit torch's threads in whatever state they are.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(mp_context=context) as pool:
        yield pool


def _apply(task: _Task) -> Applied:
    """Run in a worker: whatever goes wrong is an answer."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            report = _rewrite(task, Path(folder))
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        message = f"{type(error).__name__}: {first}"
        return Applied(task.source, task.target, error=message)
    return Applied(task.source, task.target, report)


def _rewrite(task: _Task, folder: Path) -> Report:
    source = Path(task.source)
    if _is_url(task.source):
        source = folder / "source.pt2"
        _copy(task.source, str(source))
    extra: dict[str, str] = {}
    with _FILES:
        trust = task.trust_pickle
        program = load_program(source, trust_pickle=trust, extra_files=extra)
    report = task.rules.apply(program).report
    program.validate()
    if not _is_url(task.target):
        Path(task.target).parent.mkdir(parents=True, exist_ok=True)
        with _FILES:
            save_program(program, task.target, extra_files=extra)
        return report
    written = folder / "target.pt2"
    with _FILES:
        save_program(program, written, extra_files=extra)
    _copy(str(written), task.target)
    return report


def _is_url(path: str) -> bool:
    return "://" in path


def _exists(path: str) -> bool:
    if not _is_url(path):
        return Path(path).exists()
    import fsspec  # type: ignore[import-untyped]  # it has no annotations

    filesystem, inner = fsspec.core.url_to_fs(path)
    return bool(filesystem.exists(inner))


def _copy(source: str, target: str) -> None:
    import fsspec

    with fsspec.open(source, "rb") as read, fsspec.open(target, "wb") as write:
        shutil.copyfileobj(read, write)
