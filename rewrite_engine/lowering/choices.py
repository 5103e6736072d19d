"""Enumerates the decisions of a search that makes them as it goes along."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random


class Contradiction(Exception):  # noqa: N818 - an outcome, not an error
    """These choices exclude each other."""


class Choices:
    """Decisions replayed from a prefix; new ones take the first option, or a random one
    if there is a generator.
    """

    def __init__(self, prefix: list[int], random: Random | None = None) -> None:
        self.taken: list[tuple[int, int]] = []
        self._prefix = prefix
        self._random = random

    def choose(self, options: int) -> int:
        index = len(self.taken)
        if index < len(self._prefix):
            chosen = self._prefix[index]
        else:
            chosen = self._random.randrange(options) if self._random else 0
        self.taken.append((chosen, options))
        return chosen


def all_choices() -> Iterator[Choices]:
    """Every sequence of decisions, the last one varying fastest."""
    prefix: list[int] | None = []
    while prefix is not None:
        choices = Choices(prefix)
        yield choices
        prefix = _following(choices.taken)


def random_choices(count: int) -> Iterator[Choices]:
    """Sequences of random decisions, the same ones every time."""
    random = Random(0)
    for _ in range(count):
        yield Choices([], random)


def _following(taken: list[tuple[int, int]]) -> list[int] | None:
    while taken and taken[-1][0] + 1 == taken[-1][1]:
        taken.pop()
    if not taken:
        return None
    *before, (last, _) = taken
    return [*(chosen for chosen, _ in before), last + 1]
