"""The runnable right side that belongs to a concrete left side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
from torch import fx

from rewrite_engine.lowering import markers
from rewrite_engine.lowering.concrete_left import ConcreteLeft
from rewrite_engine.lowering.exchange import exchange
from rewrite_engine.lowering.guards import present
from rewrite_engine.lowering.operators import OperatorPattern
from rewrite_engine.lowering.patterns import captured_calls, roots_of
from rewrite_engine.lowering.replacements import REST_OF


@attrs.define(eq=False)
class ConcreteRight:
    """Builds the runnable right side that belongs to a concrete left side."""

    replacement: fx.Graph
    left: ConcreteLeft
    matched: fx.Graph
    graph: fx.Graph = attrs.field(factory=fx.Graph)
    copies: dict[fx.Node, fx.Node] = attrs.field(factory=dict)
    values: dict[fx.Node, Any] = attrs.field(factory=dict)
    names: dict[str, Any] = attrs.field(init=False)

    def build(self) -> fx.Graph:
        for node in self.matched.nodes:
            if node.op == "placeholder":
                self.copies[node] = self.graph.placeholder(str(node.target))
        self.names = self.left.names()
        self._write_all()
        for node in self.replacement.nodes:
            if "statement" in node.meta and node.target not in markers.WRITES:
                # Later conditions may ask whether a new node is there.
                self.names.update(dict.fromkeys(node.meta["names"], self.value(node)))
        replaced = self.replacement.output_node().args[0]
        results = []
        for root in roots_of(self.left.matcher):
            name = next((n for n in root.meta["names"] if n in replaced), None)
            if name is None:
                results.append(self.old(self.left.values[root]))
            else:
                results.append(self.value(replaced[name]))
        self.graph.output(tuple(results))
        return self.graph

    def _write_all(self) -> None:
        """What reads the old state from now on reads the new one."""
        statements = [n for n in self.replacement.nodes if "statement" in n.meta]
        for node in statements:
            if node.target in markers.CONSTANTS:
                self.value(node)
        writes = [node for node in statements if node.target in markers.WRITES]
        values = [each for node in writes for each in self._written(node)]
        for node, old, value in values:
            self.copies[old] = value
            self.values[node.args[0]] = value

    def _written(self, pattern: fx.Node) -> Iterator[tuple[fx.Node, fx.Node, Any]]:
        """As in a rewrite: nothing for what is absent, in a chain one for each link."""
        old = self.names[str(pattern.args[0].target)]
        if isinstance(old, fx.Node):
            yield pattern, old, self.value(pattern.args[1])
        for index, each in enumerate(old if isinstance(old, list) else ()):
            if each is None:
                continue
            names, values = self.names, self.values
            links = {n: v[index] for n, v in names.items() if isinstance(v, list)}
            self.names = {**names, **links}
            self.values = {n: v for n, v in values.items() if n.op != "placeholder"}
            yield pattern, each, self.value(pattern.args[1])
            self.names, self.values = names, values

    def old(self, value: Any) -> Any:
        """A value of the left side, in the right side's graph."""
        return fx.map_arg(value, self._copy)

    def _copy(self, node: fx.Node) -> fx.Node:
        if node.graph is self.graph:
            return node
        if node not in self.copies:
            self.copies[node] = self.graph.node_copy(node, self._copy)
        return self.copies[node]

    def value(self, pattern: Any) -> Any:
        if isinstance(pattern, (list, tuple)):
            return [self.value(item) for item in pattern]
        if not isinstance(pattern, fx.Node):
            return pattern
        if pattern not in self.values:
            self.values[pattern] = self._build(pattern)
        return self.values[pattern]

    def _build(self, pattern: fx.Node) -> Any:
        if pattern.op == "placeholder":
            return self.old(self.names.get(str(pattern.target)))
        if pattern.target is markers.computed:
            return self._computed(pattern)
        if pattern.target is markers.choose:
            _, then, otherwise = pattern.args
            scope = attrs.evolve(self.left.scope(), names=self.names)
            chosen = present(pattern.meta["compute"](scope))
            return self.value(then if chosen else otherwise)
        if pattern.target is markers.reemit:
            return self._reemit(pattern)
        if isinstance(pattern.target, OperatorPattern):
            return self._call(pattern)
        return self.value(pattern.args[0])

    def _computed(self, pattern: fx.Node) -> Any:
        text, *operands = pattern.args
        names = tuple(operand.meta["names"][0] for operand in operands)
        run = _Computation(text, names, pattern.meta["compute"])
        return self.graph.call_function(run, tuple(self.value(o) for o in operands))

    def _call(self, pattern: fx.Node) -> fx.Node:
        operator: OperatorPattern = pattern.target
        keyed = {**dict(enumerate(pattern.args)), **pattern.kwargs}
        original = keyed.pop(REST_OF, None)
        row = self.left.row if operator.is_slot else 0
        spelling = operator.first_spelling(row)
        matched = None if original is None else self.names[str(original.target)]
        if matched is not None and self.left.spellings[matched] in operator.spellings:
            spelling = self.left.spellings[matched]
        given = {}
        for key, operand in keyed.items():
            parameter = spelling.canonical.parameter(key)
            assert parameter is not None
            given[spelling.names[parameter.name]] = self.value(operand)
        if matched is None:
            positional = tuple(self.value(arg) for arg in pattern.args)
            named = {k: self.value(v) for k, v in pattern.kwargs.items()}
            spelling = operator.spelling_for(row, positional, named)
            op, target = spelling.runnable
            return self.graph.create_node(op, target, positional, named)
        args, kwargs = exchange(spelling, matched, given)
        op, target = spelling.runnable
        return self.graph.create_node(op, target, self.old(args), self.old(kwargs))

    def _reemit(self, pattern: fx.Node) -> Any:
        capture, *operands = pattern.args
        left = next(
            n
            for n in self.left.matcher.nodes
            if n.target is markers.captured and n.args[0] == capture.target
        )
        new = [self.value(operand) for operand in operands]
        root, hole = self.left.values.get(left), left.args[2]
        if root is None or not self._is_there(left):
            return new[0]
        if hole is None:
            args = (*new, *self.old(root.args[len(new) :]))
            kwargs = self.old(root.kwargs)
            return self.graph.create_node(root.op, root.target, args, kwargs)
        return self._reemit_chain(root, {self.left.values[hole]: new[0]})

    def _is_there(self, capture: fx.Node) -> bool:
        """Whether the captured part is in this instance: it may be optional."""
        _, value, hole = capture.args
        if hole is not None:
            return True
        return any(call in self.left.values for call in captured_calls(value))

    def _reemit_chain(self, node: fx.Node, moved: dict[fx.Node, Any]) -> Any:
        if node not in moved:
            inside = any(n in moved for n in _ancestors(node))
            moved[node] = (
                self.graph.node_copy(node, lambda n: self._reemit_chain(n, moved))
                if inside
                else self.old(node)
            )
        return moved[node]


def _ancestors(node: fx.Node) -> set[fx.Node]:
    todo, found = [node], set()
    while todo:
        for operand in todo.pop().all_input_nodes:
            if operand not in found:
                found.add(operand)
                todo.append(operand)
    return found


@attrs.frozen(eq=False)
class _Computation:
    """A literal expression as a function that a graph can call."""

    text: str
    names: tuple[str, ...]
    compute: Callable[[Any], Any]
    __name__: str = "computed"

    def __call__(self, *values: Any) -> Any:
        return self.compute(_ValueScope(dict(zip(self.names, values, strict=True))))


@attrs.frozen(eq=False)
class _ValueScope:
    """Names that stand for tensors and literals, while an instance runs."""

    names: Mapping[str, Any]

    def value(self, name: str) -> Any:
        return self.names[name]
