"""Writing that fails half-way: what was there stays, and nothing damaged appears."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from rewrite_engine.cli import main

COMMANDS = {
    "another file": ["apply", "model.pt2", "qat_fuse", "-o", "out.pt2"],
    "in place": ["apply", "model.pt2", "qat_fuse", "--in-place"],
}
commands = pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())


def in_a_child(work: Callable[[], int]) -> int:
    """The wait status of a process that does the work; it shares what is loaded."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            status = work()
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture
def loaded(model: Path) -> Path:
    """A folder with a model and an older output; all code is imported."""
    assert main(["apply", "model.pt2", "qat_fuse", "--dry-run"]) == 0
    (model.parent / "out.pt2").write_bytes(b"the older output")
    return model.parent


@commands
@pytest.mark.parametrize("limit", [2_000, 9_000])
def test_a_full_disk(
    loaded: Path, command: list[str], limit: int, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(loaded)
    capfd.readouterr()

    def work() -> int:
        # As on a full disk, the system refuses to write any further.
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return main(command)

    status = in_a_child(work)
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) not in (0, 70, 99)
    assert contents(loaded) == before


@commands
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("step", ["open", "fsync"])
def test_what_the_system_refuses_is_said(
    loaded: Path,
    command: list[str],
    code: int,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = contents(loaded)

    def refuse(*arguments: object, **options: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, step, refuse)
    status = main(command)
    monkeypatch.undo()
    assert status not in (0, 70)
    assert os.strerror(code) in capsys.readouterr().err
    assert contents(loaded) == before


@commands
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_process_that_is_killed(loaded: Path, command: list[str], step: str) -> None:
    """Between writing and renaming: only a file under a hidden name is left."""
    before = contents(loaded)

    def die(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def work() -> int:
        os.fsync = die  # type: ignore[assignment]
        Path.replace = die  # type: ignore[assignment, method-assign]
        if step == "replace":
            os.fsync = lambda _: None  # type: ignore[assignment]
        return main(command)

    status = in_a_child(work)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    after = contents(loaded)
    left = after.keys() - before.keys()
    assert len(left) == 1 and left.pop().startswith(".")
    assert {name: after[name] for name in before} == before
    assert main(command) == 0  # nothing stands in the way of another attempt
