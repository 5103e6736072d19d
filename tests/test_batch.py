"""Rules over many models: in threads, processes and a cluster, stopped and resumed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from rewrite_engine import apply_many, load
from rewrite_engine.model_files import load_program


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> list[Path]:
    """Three models and a file that is none."""
    folder = tmp_path_factory.mktemp("corpus")
    paths = []
    for number in range(3):
        pairs = [nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)] * 1
        for _ in range(number):
            pairs += [nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)]
        program = torch.export.export(
            nn.Sequential(*pairs).train(), (torch.randn(2, 3, 4, 4),)
        )
        paths.append(folder / f"model{number}.pt2")
        torch.export.save(program, paths[-1])
    paths.append(folder / "broken.pt2")
    paths[-1].write_text("no model")
    return paths


@pytest.fixture
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def test_one_bad_model_does_not_stop_the_rest(corpus, tmp_path, threads) -> None:
    rules = load("qat_fuse")
    found = list(apply_many(corpus, rules, tmp_path / "out", executor=threads))
    by_name = {Path(each.source).stem: each for each in found}
    assert by_name["broken"].error is not None
    assert by_name["broken"].error.startswith("ModelFileError: ")
    assert not Path(by_name["broken"].target).exists()
    for number in range(3):
        applied = by_name[f"model{number}"]
        assert applied.error is None
        assert applied.report is not None
        assert applied.report.matches == number + 1
        targets = [str(n.target) for n in load_program(applied.target).graph.nodes]
        assert targets.count("aten.where.ScalarOther") == number + 1


def test_a_run_goes_on_where_it_ended(corpus, tmp_path, threads) -> None:
    rules = load("qat_fuse")
    list(apply_many(corpus[:1], rules, tmp_path, executor=threads))
    found = {
        Path(each.source).stem: each.skipped
        for each in apply_many(corpus[:2], rules, tmp_path, executor=threads)
    }
    assert found == {"model0": True, "model1": False}
    again = apply_many(corpus[:1], rules, tmp_path, executor=threads, overwrite=True)
    assert [each.skipped for each in again] == [False]


def test_processes_are_the_default(corpus, tmp_path) -> None:
    (applied,) = apply_many(corpus[:1], load("qat_fuse"), tmp_path)
    assert applied.error is None
    assert Path(applied.target).exists()


def test_urls_in_and_out(corpus, threads) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/in/model.pt2", corpus[0].read_bytes())
    arguments = (["memory://in/model.pt2"], load("qat_fuse"), "memory://out")
    (applied,) = apply_many(*arguments, executor=threads)
    assert applied.error is None
    assert memory.exists("/out/model.pt2")
    (again,) = apply_many(*arguments, executor=threads)
    assert again.skipped


def test_equal_names_are_refused(corpus, tmp_path, threads) -> None:
    twice = apply_many([corpus[0], corpus[0]], load("qat_fuse"), tmp_path)
    with pytest.raises(ValueError, match=r"two models are called model0\.pt2"):
        next(twice)


def test_an_executor_of_a_cluster(corpus, tmp_path) -> None:
    distributed = pytest.importorskip(
        "distributed", reason="needs the extra `test-dask`"
    )
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False}
    with distributed.Client(**options, dashboard_address=None) as client:
        executor = client.get_executor()
        found = list(
            apply_many(corpus[1:3], load("qat_fuse"), tmp_path, executor=executor)
        )
    assert sorted(each.report.matches for each in found) == [2, 3]
