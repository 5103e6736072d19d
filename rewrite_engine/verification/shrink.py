"""Smaller counterexamples: fewer elements first, then simpler values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs
import torch

from rewrite_engine.verification.building import build_case
from rewrite_engine.verification.choices import Unsuitable
from rewrite_engine.verification.operands import Sizes
from rewrite_engine.verification.samples import RANDOM, spaced
from rewrite_engine.verification.subject import Subject
from rewrite_engine.verification.trials import (
    Counterexample,
    Pair,
    rewritten,
    try_case,
)

_MOST_ELEMENTS = 64


def shrunk(subject: Subject, found: Counterexample) -> Counterexample:
    """A counterexample that is as small as trying smaller ones makes it."""
    return _simplified(subject, _smaller(subject, found))


def _smaller(subject: Subject, found: Counterexample) -> Counterexample:
    if found.case.is_example:
        return found
    instance, choice = found.case.instance, found.case.choice
    for sizes in _sizes(choice.sizes):
        try:
            case = build_case(
                subject, instance, attrs.evolve(choice, sizes=sizes, example=None)
            )
        except Unsuitable:
            continue
        kinds = tuple(dict.fromkeys((RANDOM, found.kind)))
        smaller = try_case(subject, case, 0, kinds).counterexample
        if smaller is not None and smaller.what == found.what:
            return smaller
    return found


def _sizes(sizes: Sizes) -> Iterator[Sizes]:
    for rank in range(sizes.rank + 1):
        for small in (1, 2):
            yield Sizes(rank, small, small, small, small, 1)
    yield attrs.evolve(sizes, batch=1, channels=2, outputs=2, spatial=2, kernel=1)
    yield attrs.evolve(sizes, batch=2, channels=2, outputs=2, spatial=3, kernel=2)


def _simplified(subject: Subject, found: Counterexample) -> Counterexample:
    """Replace tensors, then single elements, by simpler values while it stays wrong."""
    for name in found.values:
        for candidate in _simpler(found.values[name]):
            better = _retried(subject, found, {**found.values, name: candidate})
            if better is not None:
                found = better
                break
    return found


def _simpler(value: torch.Tensor) -> Iterator[torch.Tensor]:
    for number in (0, 1, 2):
        yield torch.full_like(value, number)
    if value.is_floating_point():
        yield spaced(value)
        for digits in (0, 1):
            yield value.round(decimals=digits)
    if value.numel() <= _MOST_ELEMENTS:
        for index in range(value.numel()):
            alone = torch.zeros_like(value)
            alone.view(-1)[index] = value.reshape(-1)[index]
            yield alone


def _retried(
    subject: Subject, found: Counterexample, values: Mapping[str, torch.Tensor]
) -> Counterexample | None:
    pair = rewritten(subject, found.case, values)
    if not isinstance(pair, Pair):
        return None
    simpler = pair.counterexample(found.kind, values)
    return simpler if simpler is not None and simpler.what == found.what else None
