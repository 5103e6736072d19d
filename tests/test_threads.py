"""Threads: copies of one graph share a fake mode, and one graph may be given twice."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import pytest
import torch
from torch import fx, nn

from rewrite_engine import engine, load

FUSE = load("qat_fuse")


def conv_bn() -> fx.GraphModule:
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)),
    )
    program = torch.export.export(model.train(), (torch.randn(2, 3, 8, 8),))
    return program.module()


def in_threads(count: int, work: Callable[[], None]) -> list[BaseException]:
    """What was raised by so many threads that start together."""
    raised: list[BaseException] = []
    start = threading.Barrier(count)

    def run() -> None:
        start.wait()
        try:
            work()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def applied(times: int) -> None:
    base, expected = conv_bn(), conv_bn()
    engine.apply(expected, FUSE)
    done, busy = threading.Event(), []

    def plain() -> None:
        model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.randn(2, 3)
        while not done.is_set():
            busy.append(model(x).shape)

    def work() -> None:
        for _ in range(times):
            gm = copy.deepcopy(base)
            assert engine.apply(gm, FUSE).report.matches == 2
            assert gm.code == expected.code

    beside = threading.Thread(target=plain)
    beside.start()
    try:
        assert in_threads(8, work) == []
    finally:
        done.set()
        beside.join()
    assert busy


@pytest.mark.figure("R12")
def test_one_rule_set_is_used_by_many_threads(measured: Callable[..., None]) -> None:
    applied(times=200)
    measured("R12", applications=8 * 200)


@pytest.mark.figure("R12")
def test_of_two_threads_with_one_graph_one_waits() -> None:
    expected = conv_bn()
    engine.apply(expected, FUSE)
    for _ in range(5):
        gm, matches = conv_bn(), []

        def work(gm=gm, matches=matches) -> None:
            matches.append(engine.apply(gm, FUSE).report.matches)

        assert in_threads(3, work) == []
        assert sorted(matches) == [0, 0, 2]
        gm.graph.lint()
        assert gm.code == expected.code
