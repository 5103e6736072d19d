"""What the output of a graph reads, exchanged once and not at every rewrite.

The output may return thousands of values, and new arguments cost time for each of
them. While a run goes on, the users of values are kept up to date; the arguments of the
output follow when it ends. No rule matches an output, so nothing reads them before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from torch import fx

from rewrite_engine import edit

Record = Callable[..., None]
"""Journals the function, and its arguments, that undoes what is about to be done."""


@attrs.define(eq=False)
class OutputReads:
    """The values that an output is to read in place of those in its arguments."""

    output: fx.Node
    record: Record
    _moves: dict[fx.Node, fx.Node] = attrs.field(factory=dict)

    def exchange(self, old: fx.Node, new: fx.Node) -> None:
        """Let the output read another value wherever it reads `old`."""
        if new in self._moves:
            # What reads `new` from here on is not what was moved away from it.
            self.settle()
        is_new = self.output not in new.users
        self.record(self._take_back, old, new, is_new)
        self._moves[old] = new
        new.users[self.output] = None
        old.users.pop(self.output)

    def _take_back(self, old: fx.Node, new: fx.Node, is_new: bool) -> None:
        self._moves.pop(old, None)
        old.users[self.output] = None
        if is_new:
            new.users.pop(self.output, None)

    def settle(self) -> None:
        """Give the output its arguments."""
        if not self._moves:
            return
        args, kwargs = self.output.args, self.output.kwargs
        self.record(self._unsettle, args, kwargs, self._moves.copy())
        settled = fx.map_arg((args, kwargs), self._current)
        self._set_arguments(*settled)
        self._moves.clear()

    def _current(self, value: fx.Node) -> fx.Node:
        while value in self._moves:
            value = self._moves[value]
        return value

    def _unsettle(
        self, args: Any, kwargs: Any, moves: Mapping[fx.Node, fx.Node]
    ) -> None:
        self._set_arguments(args, kwargs)
        for old, new in moves.items():
            new.users[self.output] = None
            old.users.pop(self.output, None)
        self._moves.update(moves)

    def _set_arguments(self, args: Any, kwargs: Any) -> None:
        for operand in self.output.all_input_nodes:
            # fx takes the output from the users of what it read.
            operand.users[self.output] = None
        edit.set_arguments(self.output, args, kwargs)
