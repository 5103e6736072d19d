"""What tells the rules of one anchoring operator apart: their sketches, merged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property

import attrs
from torch import fx

from rewrite_engine.matching.branches import Branch, tree_of
from rewrite_engine.matching.net_source import Hits, NetFunction, net_function
from rewrite_engine.matching.sketches import Sketch


@attrs.frozen(eq=False, slots=False)
class Net:
    """The sketches of each rule, which is a number here; larger benefit first.

    The code is made when the first graph has a call of the operator.
    """

    rules: Mapping[int, tuple[Sketch, ...]]

    @cached_property
    def sketches(self) -> tuple[Sketch, ...]:
        """Each different sketch, once."""
        return tuple(dict.fromkeys(s for ways in self.rules.values() for s in ways))

    @property
    def tree(self) -> Branch:
        """The tests in the order in which they are made."""
        return tree_of(self.rules)

    @property
    def function(self) -> NetFunction:
        """The source of what runs."""
        return net_function(self.tree)

    @cached_property
    def _select(self) -> Callable[[Iterable[fx.Node], Hits], None]:
        return self.function.compiled

    def select(self, nodes: Iterable[fx.Node], hits: Hits) -> None:
        """Add those of the nodes, calls of the operator, where rules may match."""
        self._select(nodes, hits)
