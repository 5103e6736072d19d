"""Which values of a graph may share storage, and which nodes write it.

Values are grouped with a union-find: two values are in one class if a chain of nodes
that return their operands or views of them, or a common parameter, connects them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Container, Hashable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Final

import attrs
import torch
from torch import fx, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from rewrite_engine.rewriting.effect import PURE, Effect, owned_module
from rewrite_engine.rewriting.effects import effect_of, is_inert
from rewrite_engine.tensor_types import UNKNOWN, attribute


@attrs.define
class AliasIndex:
    """The storage classes of a graph, and the nodes that write each of them.

    Build it with `of`. It follows the graph through `add` and `discard`; a class is
    never split, so after a discard it may say "same storage" needlessly, never the
    opposite. A node that moves must be discarded before and added after the move.
    """

    _module: nn.Module | None
    _state: Mapping[str, torch.Tensor]
    # The placeholders whose memory is written when the graph has run.
    _written_back: tuple[fx.Node, ...] = ()
    # The parent of each member that is not the root of its class; members are nodes
    # and keys of storages.
    _parents: dict[Hashable, Hashable] = attrs.field(factory=dict, init=False)
    # The writers of the class of each root, in graph order.
    _writers: dict[Hashable, list[fx.Node]] = attrs.field(factory=dict, init=False)
    # The nodes that may write anything, and those that must stay in order.
    _clobbers: list[fx.Node] = attrs.field(factory=list, init=False)
    _effectful: list[fx.Node] = attrs.field(factory=list, init=False)
    # The nodes in these lists, each with members of the classes that it writes.
    _listed: dict[fx.Node, set[Hashable]] = attrs.field(factory=dict, init=False)

    @classmethod
    def of(
        cls,
        graph: fx.Graph,
        module: nn.Module | None,
        state: Mapping[str, torch.Tensor] | None = None,
        written_back: Container[str] = (),
    ) -> AliasIndex:
        """The index of `graph`, in time linear in its nodes.

        `module` owns the graph's attributes and submodules. `state` gives the tensors
        of placeholders that stand for lifted parameters and buffers, by node name;
        what is `written_back` gets another value when the graph has run.
        """
        inputs = graph.find_nodes(op="placeholder") if written_back else ()
        written = tuple(node for node in inputs if node.name in written_back)
        index = cls(module, state if state is not None else {}, written)
        for node in graph.nodes:
            if not is_inert(node):
                index.add(node)
        return index

    def add(self, node: fx.Node) -> Effect:
        """Take up a node that is in the graph, at the place where it is now.

        Returns what running it does.
        """
        effect = effect_of(node, self._module)
        if node.op != "call_function" or effect.clobbers:
            for key in self._storages_of(node, effect):
                self._union(node, key)
        if effect is not PURE:
            self._list(node, effect)
        return effect

    def _list(self, node: fx.Node, effect: Effect) -> None:
        for operand in effect.aliases:
            self._union(node, operand)
        written = self._written_roots(node, effect)
        for root in written:
            insort(self._writers.setdefault(root, []), node)
        if effect.clobbers:
            insort(self._clobbers, node)
        if effect.effectful:
            insort(self._effectful, node)
            self._listed[node] = written

    def discard(self, node: fx.Node) -> None:
        """Forget what `node`, which has left the graph, wrote; harmless if unknown."""
        written = self._listed.pop(node, None)
        if written is None:
            return
        # Their classes may have been joined with others since.
        writers = [self._writers.get(self._find(member), []) for member in written]
        for nodes in (self._clobbers, self._effectful, *writers):
            _drop(nodes, node)

    def unite(self, old: fx.Node, new: fx.Node) -> None:
        """Note that what read and wrote `old` now reads and writes `new`."""
        self._union(old, new)

    def effect(self, node: fx.Node) -> Effect:
        """What running `node` does."""
        return effect_of(node, self._module)

    def classes(self, values: Iterable[fx.Node]) -> frozenset[Hashable]:
        """What names the storage classes of values, until the next change."""
        return frozenset(map(self._find, values))

    def any_in(self, classes: frozenset[Hashable], values: Iterable[fx.Node]) -> bool:
        """Whether the storage of a value is in one of these classes."""
        return not classes.isdisjoint(map(self._find, values))

    def writes_between(
        self,
        values: Iterable[fx.Node],
        start: fx.Node,
        end: fx.Node,
        ignoring: Container[fx.Node] = (),
    ) -> fx.Node | None:
        """The first node strictly between that may write storage `values` read.

        A `call_module` node among `values` also stands for its module's tensors.
        """
        if not self._effectful:
            return None
        found = (
            next(_between(nodes, start, end, ignoring), None)
            for nodes in self._writers_of(values)
        )
        return min((node for node in found if node is not None), default=None)

    def written(
        self,
        value: fx.Node,
        ignoring: Container[fx.Node] = (),
        after: fx.Node | None = None,
    ) -> fx.Node | None:
        """The first node, anywhere or `after` one, that may write the storage of
        `value`.
        """
        if not self._effectful:
            return None
        if value not in self._parents:
            # What a called module holds is not among the nodes of the graph.
            for key in self._storages_of(value, PURE):
                self._union(value, key)
        writers = chain(self._clobbers, self._writers.get(self._find(value), ()))
        return min(
            (n for n in writers if n not in ignoring and (after is None or n > after)),
            default=None,
        )

    def written_back(self, old: fx.Node, new: fx.Node) -> fx.Node | None:
        """What is written when the graph has run, if its memory is that of `new` and
        would be returned in the place of `old`, whose memory is another one.
        """
        memory, before = self._find(new), self._find(old)
        if memory == before:
            return None
        found = (n for n in self._written_back if self._find(n) == memory)
        written = next(found, None)
        if written is None:
            return None
        # What the output read before this run is in the class of what it reads now.
        returned = self.classes(written.graph.output_node().all_input_nodes)
        return written if before in returned else None

    def obstacle(
        self,
        call: fx.Node,
        start: fx.Node,
        end: fx.Node,
        ignoring: Container[fx.Node] = (),
    ) -> fx.Node | None:
        """The first node strictly between that `call` must not change places with.

        What only writes the state of its own module, as observers do, changes places
        with others of its kind. Visits every node between if the call writes anything.
        """
        effect = self.effect(call)
        written = self._written_roots(call, effect)
        for node in _between(self._effectful, start, end, ignoring):
            other = self.effect(node)
            if not (effect.is_private and other.is_private):
                return node
            if not written.isdisjoint(self._written_roots(node, other)):
                return node
        return self._reader_between(written, start, end, ignoring)

    def _reader_between(
        self,
        written: set[Hashable],
        start: fx.Node,
        end: fx.Node,
        ignoring: Container[fx.Node],
    ) -> fx.Node | None:
        """The first node strictly between that may read storage of these classes."""
        node = start.next
        while written and node is not end:
            if node not in ignoring:
                read = self.classes(node.all_input_nodes) | self._roots((node,))
                if not written.isdisjoint(read):
                    return node
            node = node.next
        return None

    def all_effects_between(
        self, start: fx.Node, end: fx.Node, ignoring: Container[fx.Node] = ()
    ) -> list[fx.Node]:
        """The nodes strictly between that write anything or must not be reordered."""
        if not self._effectful:
            return []
        return list(_between(self._effectful, start, end, ignoring))

    def _writers_of(self, values: Iterable[fx.Node]) -> list[list[fx.Node]]:
        roots = self._roots(values)
        return [self._clobbers, *(self._writers.get(root, []) for root in roots)]

    def _roots(self, values: Iterable[fx.Node]) -> set[Hashable]:
        """The classes of values, and of the tensors that called modules own."""
        roots: set[Hashable] = set()
        for value in values:
            roots.add(self._find(value))
            roots.update(map(self._find, self._module_storages(value)))
        return roots

    def _written_roots(self, node: fx.Node, effect: Effect) -> set[Hashable]:
        roots = {self._find(operand) for operand in effect.writes}
        if effect.own_state:
            roots.update(map(self._find, self._module_storages(node)))
        return roots

    def _storages_of(self, node: fx.Node, effect: Effect) -> Iterator[Hashable]:
        """The storages that existed before the graph ran and that `node` may return."""
        if node.op == "get_attr":
            return _attribute_keys(node, self._module)
        if node.op == "placeholder" and node.name in self._state:
            return storage_keys(self._state[node.name])
        if effect.clobbers:
            return self._module_storages(node)
        return iter(())

    def _module_storages(self, node: fx.Node) -> Iterator[Hashable]:
        called = owned_module(node, self._module)
        if called is None:
            return iter(())
        tensors = chain(called.parameters(), called.buffers())
        return chain.from_iterable(map(storage_keys, tensors))

    def _find(self, member: Hashable) -> Hashable:
        parents = self._parents
        root = parents.get(member)
        if root is None:
            return member
        while (parent := parents.get(root)) is not None:
            root = parent
        while member is not root:
            parents[member], member = root, parents[member]
        return root

    def _union(self, a: Hashable, b: Hashable) -> None:
        child, root = self._find(a), self._find(b)
        if child == root:
            return
        self._parents[child] = root
        writers = self._writers.pop(child, None)
        if writers is not None:
            both = {*writers, *self._writers.get(root, ())}
            self._writers[root] = sorted(both)


_PLAIN: Final = frozenset({torch.Tensor, nn.Parameter})


def storage_keys(tensor: torch.Tensor) -> Iterator[Hashable]:
    """What identifies the memory of a tensor; several keys for a wrapper subclass.

    A storage with memory is its address, one without (meta, fake) its own identity.
    """
    if type(tensor) not in _PLAIN and is_traceable_wrapper_subclass(tensor):
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            yield from storage_keys(getattr(tensor, name))
        return
    try:
        storage = tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # sparse and opaque layouts
        yield ("tensor", id(tensor))
        return
    yield ("storage", storage.data_ptr() or storage._cdata)


def _attribute_keys(node: fx.Node, module: nn.Module | None) -> Iterator[Hashable]:
    path = str(node.target)
    value = UNKNOWN if module is None else attribute(module, path)
    if value is UNKNOWN:
        return iter([("attribute", path)])
    if isinstance(value, torch.Tensor):
        return storage_keys(value)
    return iter([("object", id(value))])


def _drop(nodes: list[fx.Node], node: fx.Node) -> None:
    """Take a node out of a list in graph order, if it is there."""
    position = bisect_left(nodes, node)
    if position < len(nodes) and nodes[position] is node:
        del nodes[position]


def _between(
    nodes: list[fx.Node], start: fx.Node, end: fx.Node, ignoring: Container[fx.Node]
) -> Iterator[fx.Node]:
    """Those of `nodes`, which are in graph order, strictly between two nodes."""
    for position in range(bisect_right(nodes, start), len(nodes)):
        node = nodes[position]
        if not node < end:
            return
        if node not in ignoring:
            yield node
