"""Calls that get in the way of a rule: they compute, share storage, write, or draw."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final, TypeAlias

import attrs
import torch
from torch import fx

aten = torch.ops.aten

Maker: TypeAlias = Callable[[fx.Graph, fx.Node, torch.Tensor], fx.Node]
"""Adds a call that reads a node, of which an example value is given."""


def _call(target: Any, *args: Any) -> Maker:
    return lambda graph, node, value: graph.call_function(target, (node, *args))


_PURE: Final[Sequence[Maker]] = (
    _call(aten.neg.default),
    _call(aten.mul.Tensor, 0.5),
    _call(aten.sigmoid.default),
    _call(aten.clone.default),
    _call(torch.tanh),
    _call(operator.add, 1),
    lambda graph, node, value: graph.call_method("abs", (node,)),
)
_VIEWS: Final[Sequence[Maker]] = (
    _call(aten.alias.default),
    _call(aten.detach.default),
    lambda graph, node, value: graph.call_function(
        aten.reshape.default, (node, list(value.shape))
    ),
    lambda graph, node, value: graph.call_method("view_as", (node, node)),
    lambda graph, node, value: graph.call_function(
        aten.slice.Tensor, (node, 0, 0, max(1, value.shape[0] - 1))
    ),
    lambda graph, node, value: graph.call_function(
        aten.transpose.int, (node, 0, value.dim() - 1)
    ),
)
RESIZING: Final = _VIEWS[4:]
"""Those that give another shape."""
_WRITES: Final[Sequence[Maker]] = (
    _call(aten.add_.Tensor, 0.25),
    _call(aten.mul_.Tensor, 1.5),
    _call(aten.relu_.default),
    _call(operator.iadd, 1.0),
    lambda graph, node, value: graph.call_method("mul_", (node, 0.5)),
    lambda graph, node, value: graph.call_function(aten.copy_.default, (node, node)),
)
_RANDOM: Final[Sequence[Maker]] = (
    _call(aten.dropout.default, 0.5, True),
    _call(aten.rand_like.default),
)


@attrs.frozen
class Noise:
    """What is put around an instance: how many calls of each kind, at most.

    `pure` calls compute new values, `views` share storage, `writes` are in place,
    `random` calls draw random numbers, `readers` are outputs beside those of the rule.
    """

    pure: int = 4
    views: int = 2
    writes: int = 0
    random: int = 0
    readers: int = 1

    def kinds(self, chosen: Random) -> list[Sequence[Maker]]:
        """What each call is made by, in random numbers up to those here."""
        kinds: list[Sequence[Maker]] = []
        for makers, most in (
            (_PURE, self.pure),
            (_VIEWS, self.views),
            (_WRITES, self.writes),
            (_RANDOM, self.random),
        ):
            kinds += [makers] * chosen.randint(0, most)
        return kinds
