"""The concrete pairs of a rule: one for every family row, spelling of the family's
operator, option and alternative. Both graphs of a pair can be run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs
import torch
from torch import fx

from rewrite_engine.lowering.choices import Contradiction, all_choices
from rewrite_engine.lowering.concrete_left import ConcreteLeft
from rewrite_engine.lowering.concrete_right import ConcreteRight

MOST = 10_000
"""Instances of one rule; a rule with more should be several rules."""


@attrs.frozen(eq=False)
class Instance:
    """One concrete pair. Both modules take the placeholders of `matcher` by name and
    return the values of the rule's roots.
    """

    name: str
    row: int
    matcher: fx.GraphModule
    replacement: fx.GraphModule
    calls: Mapping[str, fx.Node]
    """The calls of `matcher` by the names that the rule gives them."""


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
        right = ConcreteRight(replacement, builder, graph).build()
        name = f"{rule_name}_{number}"
        number += 1
        yield Instance(
            name,
            builder.row,
            fx.GraphModule(torch.nn.Module(), graph, name),
            fx.GraphModule(torch.nn.Module(), right, name),
            builder.named_calls,
        )
        assert number <= MOST, f"'{rule_name}' has more than {MOST} instances"
