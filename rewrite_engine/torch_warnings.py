"""Warnings of torch's own code: those of `torch.ops` go past Python to the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch

_T = TypeVar("_T")


def heard(run: Callable[[], _T]) -> _T:
    """What `run` returns. What torch warns of meanwhile is a warning of Python once it
    is done, so that filters decide what becomes of it.

    Functions of torch hand their warnings to Python, also those of what they call, and
    what overrides one is called by it; calls of `torch.ops` print theirs.
    """
    overridden: Any = _Override(run)
    result: Any = torch.relu(overridden)
    return result


class _Override(Generic[_T]):
    def __init__(self, run: Callable[[], _T]) -> None:
        self.run = run

    @classmethod
    def __torch_function__(
        cls, function: object, types: object, args: Sequence[Any], kwargs: object = None
    ) -> Any:
        return args[0].run()
