"""What is made while the collector is paused is not looked at when it goes on."""

from __future__ import annotations

import gc
import weakref

from rewrite_engine.collector import paused_gc


class Cycle:
    def __init__(self) -> None:
        self.me = self


def generation(found: object) -> int:
    return next(g for g in range(3) if any(o is found for o in gc.get_objects(g)))


def test_what_was_made_is_old() -> None:
    with paused_gc():
        made = Cycle()
        assert not gc.isenabled() and generation(made) == 0
    assert gc.isenabled() and generation(made) == 2


def test_garbage_among_it_is_found_later() -> None:
    with paused_gc():
        gone = weakref.ref(Cycle())
    gc.collect()
    assert gone() is None


def test_what_a_program_has_frozen_stays_frozen() -> None:
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        with paused_gc():
            made = Cycle()
        assert gc.get_freeze_count() >= frozen - 10 and generation(made) == 0
    finally:
        gc.unfreeze()


def test_a_program_that_collects_by_itself_goes_on_to() -> None:
    gc.disable()
    try:
        with paused_gc():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
