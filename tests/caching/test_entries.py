"""Indexes on disk: when they count, and what may become of their files."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from rewrite_engine import RuleSet, load, loading, torch_ops
from rewrite_engine.caching import entries
from rewrite_engine.caching.known_file import KnownFile
from rewrite_engine.errors import RuleError
from tests.caching.same import FILLERS, RELU, assert_same, graph_of, known


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "many.rules"
    found.write_text("\n".join(['use "used.rules"', RELU, *FILLERS[:12]]))
    (tmp_path / "used.rules").write_text(
        "op other = aten.cos.default | torch.cos\n"
        "rule cosines { z = other(other(x)) => z' = x }"
    )
    return found


@pytest.fixture
def entry(path: Path, kept: Path) -> Path:
    """The file of an index."""
    load(path)
    (found,) = kept.iterdir()
    return found


def is_known(rules: RuleSet) -> bool:
    return isinstance(rules._origin, KnownFile)


def assert_right(path: Path) -> None:
    """Whatever is kept of a file, its rules do what they say."""
    expected = load(path, cache=False)
    for names in (("relu", "relu"), ("cos", "cos", "relu"), ("exp",)):
        assert_same(expected, load(path), graph_of(*names))


# --- what an index is of ---


def test_the_second_time_a_file_is_known(path: Path, kept: Path) -> None:
    assert not is_known(load(path))
    assert is_known(load(path)) and is_known(load(str(path)))
    assert_right(path)


def test_rules_of_used_files_are_read_as_they_are_needed(
    path: Path, kept: Path
) -> None:
    rules = known(path)
    assert rules.apply(graph_of("cos", "cos")).report.matches == 1
    assert [set(names) for names in rules._parts] == [{"cosines"}]


def test_rules_that_are_used_by_name(path: Path, kept: Path) -> None:
    path.write_text("\n".join(['use "used.rules" (cosines)', RELU, *FILLERS]))
    rules = known(path)
    assert rules.apply(graph_of("relu", "relu")).report.matches == 1
    assert [set(names) for names in rules._parts] == [{"relus", "cosines"}]


def append(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).open("a").write(text)


CHANGES: dict[str, Callable[[Path], object]] = {
    "the text": append("many.rules", "\nrule more { z = exp(exp(x)) => z' = x }"),
    "a comment": append("many.rules", "\n# more"),
    "a used file": append("used.rules", "\nrule more { z = exp(exp(x)) => z' = x }"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_was_changed_is_not_known(
    change: Callable[[Path], object], path: Path, kept: Path
) -> None:
    known(path)
    change(path.parent)
    assert not is_known(load(path))
    assert_right(path)


def test_a_file_that_comes_before_another_of_its_name(
    path: Path, kept: Path, tmp_path: Path
) -> None:
    path.write_text("\n".join(['use "bn_fold.rules"', RELU, *FILLERS]))
    known(path)
    (tmp_path / "bn_fold.rules").write_text("rule mine { z = cos(cos(x)) => z' = x }")
    rules = load(path)
    assert not is_known(rules) and "mine" in [rule.name for rule in rules]
    assert_right(path)


def test_a_used_file_that_is_gone(path: Path, kept: Path) -> None:
    known(path)
    (path.parent / "used.rules").unlink()
    with pytest.raises(RuleError, match="E210"):
        load(path)


def test_what_becomes_of_the_files_later_does_not_matter(
    path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load(path, cache=False)
    monkeypatch.chdir(path.parent)
    rules, others = known(Path("many.rules")), known(Path("many.rules"))
    path.write_text("nothing of the kind")
    (path.parent / "used.rules").unlink()
    monkeypatch.chdir("/")
    module = graph_of("cos", "cos")
    assert rules.apply(module).report.matches == 1
    assert [rule.name for rule in others] == [rule.name for rule in expected]


def other_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "_engine", lambda: "another")


def other_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.__version__", "9.9")


def other_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = torch_ops.missing_libraries() ^ {"torchao"}
    monkeypatch.setattr(torch_ops, "missing_libraries", lambda: missing)


@pytest.mark.parametrize("change", [other_engine, other_torch, other_libraries])
def test_another_engine_knows_nothing(
    change: Callable[[pytest.MonkeyPatch], None],
    path: Path,
    kept: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known(path)
    change(monkeypatch)
    assert not is_known(load(path))
    monkeypatch.undo()


def test_the_engine_is_its_files(tmp_path: Path) -> None:
    found = entries._engine()
    for name in ("dsl/loader.py", "rules.lark", "rules.table.json", "prelude.rules"):
        assert name in found


def test_a_file_with_errors_is_not_known(path: Path, kept: Path) -> None:
    path.write_text("rule r { z = rellu(x) => z' = x }")
    for _ in range(2):
        with pytest.raises(RuleError, match="E201"):
            load(path)
    assert not kept.exists()


# --- when none is kept ---


def test_few_rules_are_not_kept(
    path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "LEAST_RULES", 100)
    assert not is_known(load(path)) and not is_known(load(path))
    assert not kept.exists()


@pytest.mark.parametrize("word", ["off", "0", ""])
def test_it_is_turned_off(
    word: str, path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(entries.FOLDER, word)
    assert not is_known(load(path)) and not is_known(load(path))
    assert not kept.exists()


def test_a_call_and_a_command_without_it(
    path: Path, kept: Path, model: Path, run: Callable[..., Any]
) -> None:
    command = "apply", model, path, "--dry-run"
    assert run(*command, "--no-cache")[0] == 0 and not kept.exists()
    status, first, _ = run(*command)
    assert status == 0 and len(list(kept.iterdir())) == 1
    assert without_times(run(*command)[1]) == without_times(first)


def without_times(text: str) -> list[str]:
    # Lines across a table are as long as its times are.
    lines = (
        line for line in text.splitlines() if " ms" not in line and "─" not in line
    )
    return [" ".join(line.split()[:4]) for line in lines]


def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def test_what_callers_grant_is_not_kept(path: Path, kept: Path) -> None:
    path.write_text("\n".join(["use acme (scale)", RELU, *FILLERS]))
    hooks = {"acme": {"scale": doubled}}
    for _ in range(2):
        assert not is_known(load(path, hooks=hooks))
    assert not kept.exists()


def test_the_folder_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(entries.FOLDER)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative, which counts as not set")
    assert entries._folder() == tmp_path / ".cache/rewrite_engine"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert entries._folder() == Path("/elsewhere/rewrite_engine")


def no_home() -> Path:
    raise RuntimeError("no home")


def test_no_folder_of_the_user(
    path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(entries.FOLDER)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert_right(path)


def test_a_folder_that_cannot_be_made_or_written(
    path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(entries.FOLDER, str(path / "inside a file"))
    assert_right(path)
    kept.mkdir()
    monkeypatch.setenv(entries.FOLDER, str(kept))

    def refused(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(entries, "replacing", refused)
    assert_right(path)
    assert list(kept.iterdir()) == []


# --- damage ---


def test_any_damage_is_noticed(path: Path, entry: Path) -> None:
    data, rng = entry.read_bytes(), random.Random(0)
    assert entries.read_entry(entry) is not None
    for _ in range(150):
        place = rng.randrange(len(data))
        entry.write_bytes(data[:place])
        assert entries.read_entry(entry) is None
        flipped = bytes([data[place] ^ (1 << rng.randrange(8))])
        entry.write_bytes(data[:place] + flipped + data[place + 1 :])
        assert entries.read_entry(entry) is None
        entry.write_bytes(data[:place] + data[place + 1 :])
        assert entries.read_entry(entry) is None
    assert not is_known(load(path))
    assert is_known(load(path))  # it was made anew


def forged(entry: Path, body: bytes) -> None:
    """Write what has the right checksum."""
    entry.write_bytes(sha256(body).hexdigest().encode() + b"\n" + body)


NO_INDEX = {
    "nothing": b"",
    "no JSON": b"[",
    "another value": b"7",
    "no UTF-8": b"\xff\xfe",
    "deep": b"[" * 200_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "large numbers": b"[[],[],[],[],[],[" + b"9" * 10_000 + b"]]",
    "no files": b"[[],[],[],[],[],[]]",
    "a pickle": pickle.dumps(["payload"]),
}


@pytest.mark.parametrize("body", NO_INDEX.values(), ids=NO_INDEX.keys())
def test_what_is_no_index(body: bytes, path: Path, entry: Path) -> None:
    forged(entry, body)
    assert entries.read_entry(entry) is None
    assert not is_known(load(path))
    assert is_known(load(path))


def test_no_code_is_run(path: Path, entry: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(path.parent / "harm"),)

    forged(entry, pickle.dumps(Harmful()))
    assert_right(path)
    assert not (path.parent / "harm").exists()


def test_what_is_too_large_is_neither_read_nor_kept(
    path: Path, entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "_MOST_BYTES", entry.stat().st_size - 1)
    before = entry.stat().st_mtime_ns
    assert not is_known(load(path))
    assert entry.stat().st_mtime_ns == before


def changed(value: Any, rng: random.Random) -> Any:
    """A JSON value with something else in one place."""
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        return [*value[:place], changed(value[place], rng), *value[place + 1 :]]
    others = [None, True, -1, 0, 3, 10**9, 1.5, "", "filler3", "relus", [], [0], {}]
    return rng.choice(others)


def test_what_is_forged_is_at_worst_not_applied(path: Path, entry: Path) -> None:
    rng, expected = random.Random(0), load(path, cache=False)
    body = json.loads(entry.read_bytes().partition(b"\n")[2])
    most = expected.apply(graph_of("relu", "relu", "cos", "cos")).report.matches
    for _ in range(60):
        forged(entry, json.dumps(changed(body, rng)).encode())
        rules = load(path)
        result = rules.apply(graph_of("relu", "relu", "cos", "cos"))
        assert result.report.matches <= most
        assert {rule.name for rule in load(path)} == {r.name for r in expected}


@pytest.mark.parametrize("place", ["filler0", (10**15, 10**16), (-9, 10**9), (7, 3)])
def test_a_forged_place_is_not_taken(
    place: str | tuple[int, int], path: Path, entry: Path
) -> None:
    """What stands where the index says is not the rule that it names."""
    body = json.loads(entry.read_bytes().partition(b"\n")[2])
    rules = {rule[0]: rule for rule in body[4]}
    rules["relus"][2:4] = rules[place][2:4] if isinstance(place, str) else place
    forged(entry, json.dumps(body).encode())
    assert is_known(load(path))
    assert_right(path)


# --- many processes, many entries ---


def loading_often(path: Path, times: int) -> None:
    for _ in range(times):
        for entry in Path(os.environ[entries.FOLDER]).glob("*"):
            entry.unlink(missing_ok=True)  # the others have to write it again
        assert load(path).apply(graph_of("relu", "relu")).report.matches == 1


def test_several_processes_write_at_once(path: Path, kept: Path) -> None:
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=loading_often, args=(path, 6)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert_right(path)
    assert [found.suffix for found in kept.iterdir()] == [".rule-index"]
    assert is_known(load(path))


def test_the_next_process_knows_it(path: Path, kept: Path) -> None:
    code = f"""if True:
        import torch
        from rewrite_engine import load, loading
        loading.LEAST_RULES = 1
        rules = load({str(path)!r})
        module = torch.fx.symbolic_trace(lambda x: torch.relu(torch.relu(x)))
        assert rules.apply(module).report.matches == 1
        print(type(rules._origin).__name__, len(rules._parts))
    """
    printed = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        printed.append(done.stdout.split())
    assert printed == [["RuleFile", "0"], ["KnownFile", "1"]]


def test_old_entries_go(
    path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "_MOST_ENTRIES", 3)
    kept.mkdir()
    (kept / "of somebody else").touch()
    for number in range(5):
        load(path)
        (made,) = (p for p in kept.glob("*.rule-index") if not p.stem.isdigit())
        made.rename(kept / f"{number}.rule-index")
        os.utime(kept / f"{number}.rule-index", (number, number))
    left = {found.name for found in kept.iterdir()}
    assert left == {"of somebody else", *(f"{n}.rule-index" for n in (2, 3, 4))}


def test_a_small_file_is_loaded_without_a_look_for_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "LEAST_RULES", 100)
    asked: list[object] = []
    monkeypatch.setattr(loading, "entry_path", lambda *at: asked.append(at))
    alone, using = tmp_path / "alone.rules", tmp_path / "using.rules"
    alone.write_text(RELU)
    using.write_text('use "alone.rules"')
    assert len(load(alone)) == 1 and not asked
    assert len(load(using)) == 1 and asked
