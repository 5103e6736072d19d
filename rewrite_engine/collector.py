"""Python's garbage collector, paused while much is made that stays."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_gc() -> Iterator[None]:
    """Loading and rewriting make many objects and no garbage cycles: collecting is
    wasted.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            _skip_young()
            gc.enable()


def _skip_young() -> None:
    """Call all that is young old: the next collection would look at all of it, to find
    that it stays.
    """
    if gc.get_freeze_count() == 0:  # else a program has frozen what must stay frozen
        gc.freeze()
        gc.unfreeze()
