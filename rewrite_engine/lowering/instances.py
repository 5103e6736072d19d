"""The concrete pairs of a rule: one for every family row, spelling of the family's
operator, option and alternative. Both graphs of a pair can be run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

import attrs
import torch
from torch import fx

from rewrite_engine.lowering.choices import Contradiction, all_choices
from rewrite_engine.lowering.concrete_left import ConcreteLeft
from rewrite_engine.lowering.concrete_right import ConcreteRight
from rewrite_engine.lowering.operators import OperatorPattern, Spelling

MOST = 10_000
"""Instances of one rule; a rule with more should be several rules."""


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
    number = 0
    for choices in all_choices():
        try:
            builder = ConcreteLeft(matcher, choices)
            graph = builder.build()
        except Contradiction:
            continue
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
        )
        assert number <= MOST, f"'{rule_name}' has more than {MOST} instances"
