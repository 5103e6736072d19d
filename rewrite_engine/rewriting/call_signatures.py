"""The values that a program hands to and from the modules whose call signatures it
preserves: `unflatten` makes these modules again, by the names of the values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
from torch import fx
from torch.export import ExportedProgram

from rewrite_engine.rewriting.transaction import Transaction


@attrs.define(eq=False)
class CallSignatures:
    """The nodes that preserved signatures name, each with the path of a module.

    Nobody else may need them, so none may go as an inner node of a match; where a
    result takes the place of one, the signatures name the result.
    """

    modules: dict[fx.Node, str] = attrs.field(factory=dict)
    _named: list[tuple[Any, fx.Node]] = attrs.field(factory=list)
    """The arguments of signatures, and the nodes that they named at first."""
    _results: dict[fx.Node, fx.Node] = attrs.field(factory=dict)

    @staticmethod
    def of(program: ExportedProgram) -> CallSignatures:
        arguments = list(_arguments(program))
        found = CallSignatures()
        if arguments:
            nodes = {node.name: node for node in program.graph.nodes}
            for path, argument in arguments:
                node = nodes.get(argument.name)
                if node is not None:
                    found.modules.setdefault(node, path)
                    found._named.append((argument, node))
        return found

    def replaced(self, transaction: Transaction, old: fx.Node, new: fx.Node) -> None:
        """Note that `new` is read wherever `old` was."""
        path = self.modules.get(old)
        if path is None:
            return
        transaction.record(self._results.pop, old, None)
        self._results[old] = new
        if new not in self.modules:
            transaction.record(self.modules.pop, new, None)
            self.modules[new] = path

    def store(self, transaction: Transaction) -> None:
        """Write the names of the results into the signatures."""
        for argument, node in self._named:
            while node in self._results:
                node = self._results[node]
            if argument.name != node.name:
                transaction.record(setattr, argument, "name", argument.name)
                argument.name = node.name


def _arguments(program: ExportedProgram) -> Iterator[tuple[str, Any]]:
    """What signatures name, and the path of the module."""
    for entry in program.module_call_graph:
        if entry.signature is not None:
            for argument in (*entry.signature.inputs, *entry.signature.outputs):
                if getattr(argument, "name", None):
                    yield entry.fqn, argument
