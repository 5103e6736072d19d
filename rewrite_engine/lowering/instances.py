"""The concrete pairs of a rule: one for every family row, spelling of the family's
operator, option and alternative. Both graphs of a pair can be run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice

import attrs
import torch
from torch import fx

from rewrite_engine.lowering.choices import (
    Choices,
    Contradiction,
    all_choices,
    random_choices,
)
from rewrite_engine.lowering.concrete_left import Alternative, ConcreteLeft
from rewrite_engine.lowering.concrete_right import ConcreteRight
from rewrite_engine.lowering.operators import OperatorPattern
from rewrite_engine.lowering.spellings import Spelling

MOST = 10_000
"""Instances of one rule; a rule with more should be several rules."""

_MANY = 300
"""Instances, from which on some of them are drawn at random."""


@attrs.frozen(eq=False, slots=False)
class Instance:
    """One concrete pair. Both modules take the placeholders of `matcher` by name and
    return the values of the rule's roots.
    """

    name: str
    row: int
    left: fx.Graph = attrs.field(repr=False)
    _build_right: Callable[[], fx.Graph] = attrs.field(repr=False)
    calls: Mapping[str, fx.Node]
    """The calls of `matcher` by the names that the rule gives them."""
    spellings: Mapping[fx.Node, Spelling]
    """How each call of `matcher` is spelled."""
    operators: Mapping[fx.Node, OperatorPattern]
    """What each call of `matcher` is an instance of, other spellings included."""
    taken: frozenset[Alternative]

    @property
    def calls_functions(self) -> bool:
        """Whether no call stands for a module class."""
        return all(spelling.form is None for spelling in self.spellings.values())

    @cached_property
    def matcher(self) -> fx.GraphModule:
        return fx.GraphModule(torch.nn.Module(), self.left, self.name)

    @cached_property
    def replacement(self) -> fx.GraphModule:
        return fx.GraphModule(torch.nn.Module(), self._build_right(), self.name)


def instances(
    rule_name: str, matcher: fx.Graph, replacement: fx.Graph
) -> Iterator[Instance]:
    """Every concrete pair of a rule, in a stable order."""
    made = _built(rule_name, matcher, replacement, all_choices())
    for number, instance in enumerate(made):
        assert number < MOST, f"'{rule_name}' has more than {MOST} instances"
        yield instance


def some_instances(
    rule_name: str, matcher: fx.Graph, replacement: fx.Graph, most: int
) -> tuple[Instance, ...]:
    """At most so many of the pairs, from all over a rule, the same ones every time.

    Those of a rule with many are drawn, and not all of them made first.
    """
    first = tuple(islice(instances(rule_name, matcher, replacement), _MANY))
    if len(first) < _MANY:
        count = min(most, len(first))
        return tuple(first[i * len(first) // count] for i in range(count))
    drawn = _built(rule_name, matcher, replacement, random_choices(4 * most))
    return tuple(islice(drawn, most))


def _built(
    rule_name: str,
    matcher: fx.Graph,
    replacement: fx.Graph,
    all_of_them: Iterable[Choices],
) -> Iterator[Instance]:
    number, seen = 0, set[tuple[tuple[int, int], ...]]()
    for choices in all_of_them:
        try:
            builder = ConcreteLeft(matcher, choices)
            graph = builder.build()
        except Contradiction:
            continue
        if tuple(choices.taken) in seen:
            continue
        seen.add(tuple(choices.taken))
        right = ConcreteRight(replacement, builder, graph)
        name = f"{rule_name}_{number}"
        number += 1
        yield Instance(
            name,
            builder.row,
            graph,
            right.build,
            builder.named_calls,
            builder.spellings,
            builder.operators,
            frozenset(builder.taken),
        )
