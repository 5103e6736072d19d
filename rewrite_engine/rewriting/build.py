"""The right side of one match: new nodes, from the replacement graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import attrs
from torch import fx
from torch._ops import HigherOrderOperator, OpOverload

from rewrite_engine.lowering import markers
from rewrite_engine.lowering.exchange import exchange
from rewrite_engine.lowering.guards import present
from rewrite_engine.lowering.literals import literals_equal
from rewrite_engine.lowering.operators import OperatorPattern
from rewrite_engine.lowering.replacements import REST_OF
from rewrite_engine.lowering.scope import Unknown
from rewrite_engine.lowering.spellings import Spelling
from rewrite_engine.lowering.symbolic import SYMBOLIC
from rewrite_engine.matching.match import CapturedCalls, Match, MatchScope
from rewrite_engine.rewriting.constants import Label, Store
from rewrite_engine.rewriting.folding import (
    Constant,
    constant_node_value,
    fold,
    fold_hook,
)
from rewrite_engine.rewriting.safety import Refused
from rewrite_engine.rewriting.state import State
from rewrite_engine.rewriting.state_writes import StateWriter, check_apart
from rewrite_engine.rewriting.transaction import Transaction


@attrs.frozen(eq=False)
class Built:
    """What a match becomes.

    `replaced` maps matched nodes to what takes their place, `copies` new calls to the
    matched call they repeat with other operands, `names` the rule's names to new nodes.
    `folded` are the constants that were read to compute new ones, `folds` what was
    computed from them, and `stored` says which of it became a node.
    """

    created: tuple[fx.Node, ...]
    replaced: Mapping[fx.Node, fx.Node]
    copies: Mapping[fx.Node, fx.Node]
    names: Mapping[str, Any]
    folded: tuple[fx.Node, ...]
    folds: tuple[Constant, ...] = ()
    stored: Mapping[fx.Node, Stored] = attrs.field(factory=dict)


class Stored(NamedTuple):
    """What a new node stands for."""

    constant: Constant
    label: Label
    source: fx.Node | None


def build(
    match: Match,
    before: fx.Node,
    store: Store,
) -> Built:
    """Create the nodes of a match's right side in front of `before`.

    Raises: Refused, if a literal, a constant or a type cannot be derived.
    """
    builder = _Builder(match, before, store)
    try:
        return builder.run()
    except Unknown as unknown:
        raise Refused(str(unknown)) from unknown


@attrs.define(eq=False)
class _Builder:
    match: Match
    before: fx.Node
    store: Store
    scope: MatchScope = attrs.field(init=False)
    created: list[fx.Node] = attrs.field(factory=list)
    copies: dict[fx.Node, fx.Node] = attrs.field(factory=dict)
    folded: dict[fx.Node, None] = attrs.field(factory=dict)
    folds: list[Constant] = attrs.field(factory=list)
    stored: dict[fx.Node, Stored] = attrs.field(factory=dict)
    _built: dict[fx.Node, Any] = attrs.field(factory=dict)
    _reads: dict[fx.Node, fx.Node] = attrs.field(factory=dict)

    @property
    def transaction(self) -> Transaction:
        return self.store.transaction

    @property
    def state(self) -> State:
        return self.store.state

    def __attrs_post_init__(self) -> None:
        self.scope = MatchScope(self.state.facts, dict(self.match.bindings))

    def run(self) -> Built:
        graph = self.match.rule.replacement_graph
        statements = [node for node in graph.nodes if "statement" in node.meta]
        writes = [node for node in statements if node.target in markers.WRITES]
        if writes:
            statements = [
                node for node in statements if node.target not in markers.WRITES
            ]
            self._write_all(writes, statements)
        for node in statements:
            # Later conditions and literals may ask about it. A constant is stored when
            # the graph first reads it, and a `value` never is.
            self.scope.names.update(dict.fromkeys(node.meta["names"], self.value(node)))
        replaced = {}
        for name, pattern in graph.output_node().args[0].items():
            replaced[self._matched(name)] = self.node_for(pattern)
        names = {
            n: self._built[node] for node in statements for n in node.meta["names"]
        }
        created, folded, folds = map(tuple, (self.created, self.folded, self.folds))
        return Built(created, replaced, self.copies, names, folded, folds, self.stored)

    # --- state ---

    def _write_all(self, writes: list[fx.Node], statements: list[fx.Node]) -> None:
        """Make the writes; every constant is computed from what was there before."""
        for node in statements:
            if node.target in markers.CONSTANTS:
                self.value(node)
        values = [each for node in writes for each in self._written(node)]
        named = [(str(p.args[0].target), old, value) for p, old, value in values]
        check_apart(self.match, self.state.facts, named)
        writer = StateWriter(self.match, self.transaction, self.state)
        for node, old, value in values:
            self._write(writer, node, old, value)

    def _written(self, pattern: fx.Node) -> Iterator[tuple[fx.Node, fx.Node, Any]]:
        """The tensors that a statement writes: none if the operand is absent, one of
        each link if it stands in a chain. With each, its value.
        """
        old = self.scope.names[str(pattern.args[0].target)]
        if isinstance(old, fx.Node):
            yield pattern, old, self._folded(pattern.args[1])
        elif old is not None:
            for index, each in enumerate(old):
                if each is not None:
                    yield pattern, each, self._of_link(pattern.args[1], index)

    def _of_link(self, pattern: Any, index: int) -> Any:
        """An expression in which the names of a chain stand for those of one link."""
        built, names = dict(self._built), dict(self.scope.names)
        lists = self.match.rule.lists
        self.scope.names.update({n: names[n][index] for n in lists if names.get(n)})
        for placeholder in [p for p in self._built if p.op == "placeholder"]:
            del self._built[placeholder]
        value = self._folded(pattern)
        self._built = built
        self.scope.names.clear()
        self.scope.names.update(names)
        return value

    def _write(
        self, writer: StateWriter, pattern: fx.Node, old: fx.Node, value: Any
    ) -> None:
        name = str(pattern.args[0].target)
        if not isinstance(value, Constant):
            raise Refused(f"'{name}' would become what is no tensor")
        # An earlier write may have given the match a copy of the module.
        old = writer.renamed(old)
        new = writer.write(name, old, value, own=pattern.target is markers.own)
        if new is old:
            self.folded[old] = None  # other writers of the state would undo this one
        elif new in self.transaction.created:
            self.created.append(new)
        for each, bound in self.scope.names.items():
            if isinstance(bound, fx.Node):
                kept = new if bound is old else writer.renamed(bound)
                self.scope.names[each] = kept
        for placeholder in [p for p in self._built if p.op == "placeholder"]:
            del self._built[placeholder]

    def _matched(self, name: str) -> fx.Node:
        value = self.match.bindings[name]
        node = value.root if isinstance(value, CapturedCalls) else value
        if not isinstance(node, fx.Node):
            raise Refused(f"'{name}' is absent and cannot be replaced")
        if self.state.facts.is_held(node):
            raise Refused(f"'{name}' is held by a module and has no place in the graph")
        if node not in self.match.calls:
            # An optional call that is not there: others read its operand, too.
            raise Refused(f"'{name}' is not there, and its operand '{node}' stays")
        return node

    def node_for(self, pattern: Any) -> Any:
        """A value that can be an argument: constants are stored when first read."""
        if isinstance(pattern, fx.Node) and pattern.target is markers.choose:
            return self.node_for(self._chosen(pattern))
        value = self.value(pattern)
        if isinstance(value, Constant):
            return self._stored(pattern, value)
        if isinstance(value, fx.Node) and self.state.facts.is_held(value):
            return self._read(value)
        return value

    def _read(self, held: fx.Node) -> fx.Node:
        """A node of the graph that reads what a matched module holds."""
        if held not in self._reads:
            self._reads[held] = self._create("get_attr", held.target, (), {})
            self.state.facts.add_state_node(self._reads[held])
        return self._reads[held]

    def value(self, pattern: Any) -> Any:
        if isinstance(pattern, (list, tuple)):
            return self._list(pattern)
        if not isinstance(pattern, fx.Node):
            return pattern
        if pattern not in self._built:
            self._built[pattern] = self._build(pattern)
        return self._built[pattern]

    def _list(self, items: Any) -> list[Any]:
        values: list[Any] = []
        for item in items:
            if isinstance(item, fx.Node) and item.target is markers.spread:
                values.extend(self.value(item.args[0]))
            else:
                values.append(self.node_for(item))
        return values

    def _build(self, pattern: fx.Node) -> Any:
        if pattern.op == "placeholder":
            return _literal(self.scope.names[str(pattern.target)])
        if pattern.target is markers.computed:
            return _literal(pattern.meta["compute"](self.scope))
        if pattern.target is markers.choose:
            return self.value(self._chosen(pattern))
        if pattern.target is markers.reemit:
            return self._reemit(pattern)
        if isinstance(pattern.target, OperatorPattern):
            return self._call(pattern)
        return self._constant(pattern)

    def _chosen(self, pattern: fx.Node) -> Any:
        _, then, otherwise = pattern.args
        return then if present(pattern.meta["compute"](self.scope)) else otherwise

    # --- calls ---

    def _call(self, pattern: fx.Node) -> fx.Node:
        operator: OperatorPattern = pattern.target
        operands = {k: v for k, v in pattern.kwargs.items() if k != REST_OF}
        matched = self._repeated(pattern.kwargs.get(REST_OF))
        # An optional call that was not there has no other arguments.
        source = self.match.calls.get(matched)
        keyed = {**dict(enumerate(pattern.args)), **operands}
        if source is not None and operator.has(source) and source.takes(keyed):
            exchanged = self._exchanged(matched, source, keyed)
            if exchanged is not None:
                return self._repeat(matched, source, exchanged)
        args = tuple(self.node_for(arg) for arg in pattern.args)
        kwargs = {key: self.node_for(value) for key, value in operands.items()}
        if source is not None:
            others = source.arguments(matched, self.state.facts) or {}
            kwargs = self._others(operator, others, args) | kwargs
        spelling = self._spelling(operator, args, kwargs)
        self._check_exportable(spelling)
        return self._create(spelling.op, spelling.target, args, kwargs)

    def _repeated(self, name: fx.Node | None) -> fx.Node | None:
        """The matched call whose other arguments a new one takes, if it is there."""
        value = None if name is None else self.value(name)
        if isinstance(value, CapturedCalls):
            return value.root if value.calls else None
        return value

    def _exchanged(
        self, call: fx.Node, spelling: Spelling, keyed: Mapping[int | str, Any]
    ) -> Mapping[int | str, Any] | None:
        """The operands that a repeated call is given; None if it cannot be repeated:
        a module keeps what it holds.
        """
        held = [key for key in keyed if spelling.holds(key)]
        if not held:
            return keyed
        arguments = spelling.arguments(call, self.state.facts) or {}
        names = {key: spelling.canonical_name(key) for key in held}
        if any(self.value(keyed[k]) is not arguments[names[k]] for k in held):
            return None
        return {key: value for key, value in keyed.items() if key not in held}

    def _others(
        self, operator: OperatorPattern, arguments: Mapping[str, Any], args: Any
    ) -> dict[str, Any]:
        """The arguments of a call that another operator takes over by name."""
        signature = operator.canonical(self._row(operator))
        given = {p.name for p in signature.parameters[: len(args)]}
        return {
            p.name: self._argument(arguments[p.name])
            for p in signature.parameters
            if p.name in arguments
            and p.name not in given
            and not literals_equal(arguments[p.name], p.default)
        }

    def _argument(self, value: Any) -> Any:
        is_held = isinstance(value, fx.Node) and self.state.facts.is_held(value)
        return self._read(value) if is_held else value

    def _row(self, operator: OperatorPattern) -> int:
        return self.match.row if operator.is_slot else 0

    def _spelling(
        self, operator: OperatorPattern, args: Any, kwargs: Mapping[str, Any]
    ) -> Spelling:
        spelling = operator.spelling_for(self._row(operator), args, kwargs)
        if spelling.form is not None:
            raise Refused(f"'{operator}' names modules only: none is built")
        return spelling

    def _check_exportable(self, spelling: Spelling) -> None:
        if self.state.is_exported and not _is_exportable(spelling.target):
            raise Refused(
                f"an exported program calls operators by their overloads, and "
                f"'{spelling.signature.path}' is a function"
            )

    def _repeat(
        self, matched: fx.Node, spelling: Spelling, operands: Mapping[int | str, Any]
    ) -> fx.Node:
        """The matched call with some operands exchanged, written as it was."""
        values = {key: self.node_for(pattern) for key, pattern in operands.items()}
        return self._exchange(matched, spelling, values)

    def _exchange(
        self, call: fx.Node, spelling: Spelling, values: Mapping[int | str, Any]
    ) -> fx.Node:
        named = {spelling.own_name(key): value for key, value in values.items()}
        args, kwargs = exchange(spelling, call, named)
        node = self._create(call.op, call.target, args, kwargs, like=call)
        self.copies[node] = call
        return node

    def _create(
        self,
        op: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        like: fx.Node | None = None,
    ) -> fx.Node:
        name = name_hint(target)
        node = self.transaction.create(self.before, op, target, args, kwargs, name)
        self.created.append(node)
        self.store.types.infer(node, like=like)
        return node

    def _reemit(self, pattern: fx.Node) -> Any:
        capture = self.value(pattern.args[0])
        operands = [self.node_for(arg) for arg in pattern.args[1:]]
        if capture is None or not capture.calls:
            # The optional part was not there: nothing stands around its operand.
            return operands[0]
        if capture.hole is None:
            spelling = self.match.calls[capture.root]
            return self._exchange(capture.root, spelling, dict(enumerate(operands)))
        copies = {capture.hole: operands[0]}
        for call in capture.calls:
            copies[call] = self._copy(call, copies)
        return copies[capture.root]

    def _copy(self, call: fx.Node, moved: Mapping[fx.Node, fx.Node]) -> fx.Node:
        args = fx.map_arg(call.args, lambda n: moved.get(n, n))
        kwargs = fx.map_arg(call.kwargs, lambda n: moved.get(n, n))
        node = self._create(call.op, call.target, args, kwargs, like=call)
        self.copies[node] = call
        return node

    # --- constants ---

    def _constant(self, pattern: fx.Node) -> Constant | None:
        """None where the rule chose `none`."""
        value = self._folded(pattern.args[0])
        assert value is None or isinstance(value, Constant), "checked: E401"
        return value

    def _folded(self, pattern: Any) -> Any:
        """A right-side expression evaluated on tensors instead of built as nodes."""
        if isinstance(pattern, (list, tuple)):
            return [self._folded(item) for item in pattern]
        if not isinstance(pattern, fx.Node):
            return pattern
        if pattern in self._built and isinstance(self._built[pattern], Constant):
            return self._built[pattern]
        if pattern.target is markers.choose:
            return self._folded(self._chosen(pattern))
        if isinstance(pattern.target, OperatorPattern):
            return self._folded_call(pattern)
        if pattern.target is markers.initial:
            state = self.value(pattern.args[0])
            self.folded[state] = None
            initial = constant_node_value(state, self.state.initial(state))
            return attrs.evolve(initial, origin=None)
        value = self.value(pattern)
        if isinstance(value, fx.Node):
            self.folded[value] = None
            return constant_node_value(value, self.state.facts.constant(value))
        return value

    def _folded_call(self, pattern: fx.Node) -> Constant:
        operator: OperatorPattern = pattern.target
        args = [self._folded(arg) for arg in pattern.args]
        kwargs = {key: self._folded(value) for key, value in pattern.kwargs.items()}
        spelling = self._spelling(operator, args, kwargs)
        is_hook = spelling.signature.kind == "hook"
        result = (fold_hook if is_hook else fold)(spelling.target, args, kwargs)
        self.folds.append(result)
        return result

    def _stored(self, pattern: fx.Node, constant: Constant) -> fx.Node:
        """The node of a constant, made when something in the graph first reads it."""
        is_parameter = pattern.target is markers.param
        label = Label(self.match.rule.name, pattern.meta["names"][0], is_parameter)
        source = self._source(pattern)
        node = self.store.add(self.before, constant, label, source)
        self.created.append(node)
        self.stored[node] = Stored(constant, label, source)
        self._built[pattern] = node
        return node

    def _source(self, pattern: Any) -> fx.Node | None:
        """The first constant of the graph that a folded expression reads: the folded
        one takes its name and layout from it, and trains if it does.
        """
        todo = [pattern]
        while todo:
            item = todo.pop()
            if isinstance(item, (list, tuple)):
                todo.extend(reversed(item))
            elif isinstance(item, fx.Node) and item.op == "placeholder":
                value = self.scope.value(str(item.target))
                if isinstance(value, fx.Node):
                    return value
            elif isinstance(item, fx.Node) and item.target is markers.choose:
                todo.append(self._chosen(item))
            elif isinstance(item, fx.Node) and item.target is not markers.computed:
                todo.extend(reversed([*item.args, *item.kwargs.values()]))
        return None


def _literal(value: Any) -> Any:
    items = value if isinstance(value, (list, tuple)) else (value,)
    if any(isinstance(item, SYMBOLIC) for item in items):
        raise Refused("a dynamic size cannot be a literal of the graph")
    return value


def name_hint(target: Any) -> str | None:
    """What export calls a node of this target: `conv2d`, not `conv2d_default`."""
    return target._schema.name.split("::")[1] if hasattr(target, "_schema") else None


def _is_exportable(target: Any) -> bool:
    """Whether an exported program may call a function."""
    is_operator = getattr(target, "__module__", None) == "_operator"
    return is_operator or isinstance(target, OpOverload | HigherOrderOperator)
