"""What to try for an instance: the first choice that works, then its variations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, islice
from typing import Any, Final, TypeVar

import attrs
import torch

from rewrite_engine.lowering.instances import Instance
from rewrite_engine.signatures import REQUIRED
from rewrite_engine.verification.choices import Choice
from rewrite_engine.verification.literals import literals_of
from rewrite_engine.verification.operands import Sizes
from rewrite_engine.verification.subject import Subject

_Item = TypeVar("_Item")

_RANKS: Final = (4, 3, 2, 5, 1, 0)
_DTYPES: Final = (
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
    torch.complex64,
)
_SQUARE: Final = Sizes(batch=4, channels=4, outputs=4, spatial=4)
_SPELLINGS: Final = 5
_MOST_COMBINATIONS: Final = 200


def first_choices(subject: Subject, instance: Instance) -> Iterator[Choice]:
    """Choices that may make the rule fire, likely ones first."""
    domains = subject.domains(instance)
    typical = {
        name: values[0]
        for name, values in domains.items()
        if values
        and not isinstance(values[0], torch.dtype)
        and not any(True for _ in subject.equations(name))
    }
    examples = sorted(subject.examples, key=lambda e: e.row != instance.row)
    for example in examples:
        shown = {k: v for k, v in example.literals.items() if k in domains}
        for dtype in (torch.float64, torch.float32):
            like = Choice(dtype, example=example, literals={**typical, **shown})
            yield like
            for other in _options(instance, like, "groups"):  # shapes tell of them
                yield attrs.evolve(other, example=example)
    for dtype in (torch.float64, torch.float32, torch.int64):
        for rank in _RANKS:
            yield Choice(dtype=dtype, sizes=Sizes(rank=rank), literals=typical)
    yield Choice(sizes=_SQUARE, literals=typical)
    others = _combinations(typical, domains)
    for literals in islice(others, _MOST_COMBINATIONS):
        for rank in (4, 2):
            yield Choice(sizes=Sizes(rank=rank), literals=literals)


def spread(items: Sequence[_Item], most: int | None) -> Sequence[_Item]:
    """At most so many of the items, from all over them."""
    if most is None or len(items) <= most:
        return items
    return [items[i * len(items) // most] for i in range(most)]


def _combinations(
    typical: Mapping[str, Any], domains: Mapping[str, tuple[Any, ...]]
) -> Iterator[dict[str, Any]]:
    """Literals that differ from the typical ones in one name, then in two, in three."""
    changes = [(name, v) for name, values in domains.items() for v in values[1:]]
    for count in (1, 2, 3):
        for chosen in combinations(changes, count):
            if len({name for name, _ in chosen}) == count:
                yield {**typical, **dict(chosen)}


def variations(subject: Subject, instance: Instance, base: Choice) -> list[Choice]:
    """Choices that differ from one that works in one thing each."""
    return [
        *_other_literals(subject, instance, base),
        *_other_types(base),
        *_mixed_types(instance, base),
        *_options(instance, base),
        attrs.evolve(base, layout="transposed"),
        attrs.evolve(base, recorded=False),
        attrs.evolve(base, dynamic=True, example=None),
        attrs.evolve(base, state=False),
        attrs.evolve(base, written=True),
        *(attrs.evolve(base, exposed=name) for name in instance.calls),
        *(attrs.evolve(base, spelling=i) for i in range(1, _SPELLINGS)),
        *_broadcast(base),
    ]


def _other_literals(
    subject: Subject, instance: Instance, base: Choice
) -> Iterator[Choice]:
    for name, values in subject.domains(instance).items():
        for value in values:
            if repr(value) != repr(base.literals.get(name)):
                literals = {**base.literals, name: value}
                # Shapes of a test may be wrong for another literal.
                yield attrs.evolve(base, literals=literals, example=None)


def _other_types(base: Choice) -> Iterator[Choice]:
    for dtype in _DTYPES:
        yield attrs.evolve(base, dtype=dtype)
    sizes = base.sizes
    for other in (
        attrs.evolve(sizes, batch=1),
        attrs.evolve(sizes, batch=0),
        attrs.evolve(sizes, channels=2, outputs=2, spatial=1, kernel=1),
        attrs.evolve(sizes, channels=1, outputs=1),
        *(attrs.evolve(sizes, rank=rank) for rank in _RANKS if rank != sizes.rank),
    ):
        yield attrs.evolve(base, sizes=other, example=None)


def _broadcast(base: Choice) -> Iterator[Choice]:
    """Where all dimensions are alike, only the axis tells what a vector belongs to."""
    square = attrs.evolve(_SQUARE, rank=base.sizes.rank)
    for axis in range(2):
        yield attrs.evolve(base, sizes=square, along=axis, example=None)


def _mixed_types(instance: Instance, base: Choice) -> Iterator[Choice]:
    for node in instance.left.find_nodes(op="placeholder"):
        for dtype in (torch.uint8, torch.float32):
            yield attrs.evolve(base, dtypes={str(node.target): dtype})


def _options(
    instance: Instance, base: Choice, only: str | None = None
) -> Iterator[Choice]:
    """Other values for the arguments that the left side leaves at their defaults."""
    for node, spelling in instance.spellings.items():
        given = spelling.signature.bind(node.args, node.kwargs) or {}
        for parameter in spelling.signature.parameters:
            absent = parameter.name not in given and parameter.default is not REQUIRED
            absent = absent and only in (None, parameter.name)
            if not absent or parameter.type.startswith("Tensor"):
                continue
            for value in literals_of(parameter):
                if repr(value) != repr(parameter.default):
                    options = {(node.name, parameter.name): value}
                    yield attrs.evolve(base, options=options, example=None)
