"""Edits of one graph that can be taken back: commit everything or leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import fx

from rewrite_engine import edit
from rewrite_engine.rewriting.output_reads import OutputReads

Entry = tuple[Any, ...]
"""A function that undoes an edit, and its arguments: smaller than a closure."""


class Transaction:
    """Journaled edits of a graph.

    Nodes that a rewrite replaces are only *detached* (they lose their operands, hence
    their hold on other nodes) and leave the graph at `commit`, so every edit before it
    has a cheap inverse. `rollback` takes back everything since a mark.

    What undoes an edit is journaled before the edit is made, and undoes what there is
    of it: an interrupt may come between any two calls.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.detached: dict[fx.Node, None] = {}
        self.created: dict[fx.Node, None] = {}
        self.journal: list[Entry] = []
        self._user_order: dict[fx.Node, tuple[fx.Node, ...]] = {}
        self._counts = _Counts(graph)
        self._output: OutputReads | None = None

    def mark(self) -> int:
        """A point to which `rollback` can return."""
        return len(self.journal)

    def record(self, undo: Callable[..., object], *arguments: Any) -> None:
        """Journal an edit made elsewhere by the function that takes it back."""
        self.journal.append((undo, *arguments))

    def since(self, mark: int) -> tuple[list[fx.Node], list[fx.Node]]:
        """The nodes that were created since a mark, and those that were detached."""
        edits = self.journal[mark:]
        created = [entry[2] for entry in edits if entry[0] is _uncreate]
        return created, [entry[2] for entry in edits if entry[0] is _reattach]

    def rollback(self, mark: int = 0) -> None:
        """Take back every edit since the mark, the last one first."""
        while len(self.journal) > mark:
            # An undo that is interrupted is made again: it stays until it is done.
            undo, *arguments = self.journal[-1]
            undo(*arguments)
            self.journal.pop()
        if mark == 0:
            self._counts.restore()
            for node, users in self._user_order.items():
                _reorder(node.users, users)

    def create(
        self,
        before: fx.Node,
        op: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        name: str | None = None,
    ) -> fx.Node:
        """A new node in front of another."""
        node = edit.new_node(self.graph, op, target, name)
        self.journal.append((_uncreate, self.created, node))
        edit.insert(node, before, args, kwargs)
        self.created[node] = None
        return node

    def replace_uses(self, old: fx.Node, new: fx.Node) -> None:
        """Make every user of `old` read `new` instead."""
        for user in list(old.users):
            if user.op == "output":
                self._exchange_output(user, old, new)
            else:
                self._replace_input(user, old, new)

    def replace_in(self, user: fx.Node, old: fx.Node, new: fx.Node) -> None:
        """Make one user of `old`, if it is one, read `new` instead."""
        if user in old.users:
            self._replace_input(user, old, new)

    def retarget(self, call: fx.Node, target: str) -> None:
        """Make a `call_module` node call another module."""
        self.record(edit.set_target, call, call.target)
        edit.set_target(call, target)

    def detach(self, node: fx.Node) -> None:
        """Take a node without users out of the data flow; it goes at `commit`."""
        assert not node.users, f"{node} is still read"
        self._remember_users(edit.operands_of(node))
        args, kwargs = edit.arguments_of(node)
        self.journal.append((_reattach, self.detached, node, args, kwargs))
        edit.disconnect(node)
        self.detached[node] = None

    def _replace_input(self, user: fx.Node, old: fx.Node, new: fx.Node) -> None:
        self._remember_users(edit.operands_of(user))
        args, kwargs = edit.arguments_of(user)
        self.journal.append((edit.set_arguments, user, args, kwargs))
        edit.replace_input(user, old, new)

    def _remember_users(self, operands: Iterable[fx.Node]) -> None:
        """New arguments put a reader last among the users of all its operands."""
        known = self._user_order
        for operand in operands:
            # The only reader is the last one wherever it is put.
            if len(operand.users) > 1 and operand not in known:
                known[operand] = tuple(operand.users)

    def _exchange_output(self, output: fx.Node, old: fx.Node, new: fx.Node) -> None:
        if self._output is None:
            self._remember_users(edit.operands_of(output))
            self._output = OutputReads(output, self.record)
        self._remember_users((new,))
        self._output.exchange(old, new)

    def settle_output(self) -> None:
        """Make the arguments of the output say what it reads."""
        if self._output is not None:
            self._output.settle()

    def erase_detached(self) -> None:
        """Remove the detached nodes from the graph; can still be rolled back."""
        for node in sorted(self.detached, reverse=True):
            # Detached nodes have no operands and no users: any order would do.
            self.journal.append((edit.insert_again, node, node.next))
            edit.erase(node)


def _uncreate(created: dict[fx.Node, None], node: fx.Node) -> None:
    created.pop(node, None)
    edit.uninsert(node)


def _reattach(
    detached: dict[fx.Node, None], node: fx.Node, args: Any, kwargs: Any
) -> None:
    detached.pop(node, None)
    edit.set_arguments(node, args, kwargs)


class _Counts:
    """The names that a graph has given out, and how many nodes it has.

    An interrupt may come between an edit and the count of it, where nothing tells
    whether that node was counted.
    """

    def __init__(self, graph: fx.Graph) -> None:
        namespace = graph._graph_namespace
        self._graph = graph
        self._length = len(graph.nodes)
        self._names = {
            key: value.copy()
            for key, value in vars(namespace).items()
            if isinstance(value, (dict, set))
        }

    def restore(self) -> None:
        self._graph._len = self._length
        for key, value in self._names.items():
            current = getattr(self._graph._graph_namespace, key)
            current.clear()
            current.update(value)


def _reorder(users: dict[fx.Node, None], order: tuple[fx.Node, ...]) -> None:
    # Created nodes may have been among the users, and are gone.
    restored = [user for user in order if user in users]
    assert len(restored) == len(users), "a rollback restores the users of every node"
    users.clear()
    users.update(dict.fromkeys(restored))
