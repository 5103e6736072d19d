"""The collector is paused for a while, and then finds what has become garbage."""

from __future__ import annotations

import gc
import weakref

from rewrite_engine.collector import paused_gc


class Cycle:
    def __init__(self) -> None:
        self.me = self


def test_nothing_is_collected_while_it_is_paused() -> None:
    with paused_gc():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_what_became_garbage_is_collected_without_being_asked() -> None:
    made: weakref.WeakSet[Cycle] = weakref.WeakSet()
    for _ in range(100):
        with paused_gc():
            kept = [Cycle() for _ in range(1_000)]
            made.update(kept)
    # A loop that rewrites one model after the other must not hold all of them.
    assert len(kept) <= len(made) < 50_000


def test_a_program_that_collects_by_itself_goes_on_to() -> None:
    gc.disable()
    try:
        with paused_gc():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
