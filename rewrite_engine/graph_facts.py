"""What rules may ask about a graph: types of values, constants, readers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import attrs
import torch
from torch import fx, nn

from rewrite_engine.tensor_types import (
    UNKNOWN,
    TensorType,
    attribute,
    recorded,
    type_of,
)

SHAPE_READERS = frozenset(
    {
        "sym_size",
        "sym_stride",
        "sym_numel",
        "sym_storage_offset",
        "size",
        "stride",
        "dim",
        "numel",
    }
)


@attrs.frozen(eq=False)
class GraphFacts:
    """A read-only view of one graph and of the state it refers to.

    `lifted` gives the tensors of placeholders that stand for parameters, buffers and
    constants (the graph of an ExportedProgram), and `names` what the program calls
    these; `staged` the constants that rewrites have made and that the module does not
    hold yet; `mutated` the placeholders, of state and of inputs, that get another value
    when the graph has run, and are no constants.
    """

    module: fx.GraphModule
    lifted: Mapping[str, torch.Tensor] = attrs.field(factory=dict)
    staged: Mapping[str, torch.Tensor] = attrs.field(factory=dict)
    mutated: frozenset[str] = frozenset()
    names: Mapping[str, str] = attrs.field(factory=dict)
    _called: dict[str, nn.Module | None] = attrs.field(factory=dict, init=False)
    _held: dict[str, fx.Node] = attrs.field(factory=dict, init=False)

    def called(self, node: fx.Node) -> nn.Module | None:
        """The module that a `call_module` node calls; None if there is none."""
        if node.op != "call_module":
            return None
        target = str(node.target)
        if target not in self._called:
            try:
                self._called[target] = self.module.get_submodule(target)
            except AttributeError:
                self._called[target] = None
        return self._called[target]

    def held(self, path: str) -> fx.Node:
        """What stands for a tensor that a called module holds.

        A `get_attr` node of this graph that is not in its list of nodes: one for each
        path, so that names of rules can be bound to it.
        """
        if path not in self._held:
            graph, name = self.module.graph, path.replace(".", "_")
            self._held[path] = fx.Node(graph, name, "get_attr", path, (), {})
        return self._held[path]

    def is_held(self, node: fx.Node) -> bool:
        """Whether a node stands for a tensor that a called module holds."""
        return node.op == "get_attr" and self._held.get(str(node.target)) is node

    def constant(self, node: fx.Node) -> torch.Tensor | None:
        """The tensor that a node stands for, if it is module state."""
        if node.name in self.mutated:
            return None
        if node.op == "placeholder":
            return self.lifted.get(node.name, self.staged.get(node.name))
        if node.op != "get_attr":
            return None
        target = str(node.target)
        value = self.staged.get(target)
        if value is None:
            value = attribute(self.module, target)
        return value if isinstance(value, torch.Tensor) else None

    def type_of(self, node: fx.Node) -> TensorType | None:
        """The type of a node's value, None if nothing is known or it is no tensor."""
        value = recorded(node)
        return type_of(self.constant(node) if value is UNKNOWN else value)

    # --- module state by name ---

    def is_lifted(self, node: fx.Node) -> bool:
        """Whether a placeholder stands for state that no run writes back."""
        is_state = node.name in self.lifted or node.name in self.staged
        return is_state and node.name not in self.mutated

    def state_name(self, node: fx.Node) -> str | None:
        """The qualified name of the parameter or buffer that a node is, if any.

        Calls in place return what they write, so chains of them are followed.
        """
        while node.op == "call_function" and _returns_what_it_writes(node.target):
            if not node.args or not isinstance(node.args[0], fx.Node):
                return None
            node = node.args[0]
        if node.op == "get_attr":
            return str(node.target)
        return self.names.get(node.name) if node.op == "placeholder" else None

    def has_state(self, name: str) -> bool:
        """Whether the model holds a parameter or buffer of a qualified name."""
        if self.names:
            return name in self._state_nodes
        return isinstance(attribute(self.module, name), torch.Tensor)

    def state_nodes(self, name: str) -> list[fx.Node]:
        """The nodes that read the parameter or buffer of a qualified name."""
        return self._state_nodes.get(name, [])

    def add_state_node(self, node: fx.Node) -> None:
        """Count a new node among those that read its parameter or buffer."""
        self._state_nodes.setdefault(str(node.target), []).append(node)

    @cached_property
    def _state_nodes(self) -> dict[str, list[fx.Node]]:
        found: dict[str, list[fx.Node]] = {}
        op = "placeholder" if self.names else "get_attr"
        for node in self.module.graph.find_nodes(op=op):
            name = self.state_name(node)
            if name is not None:
                found.setdefault(name, []).append(node)
        return found


def _returns_what_it_writes(target: object) -> bool:
    """Whether an operator writes its first operand and returns it, as `add_` does."""
    schema = getattr(target, "_schema", None)
    if schema is None or not schema.arguments or len(schema.returns) != 1:
        return False
    written = schema.arguments[0].alias_info
    returned = schema.returns[0].alias_info
    return bool(written and written.is_write and returned and returned.is_write)


def value_readers(node: fx.Node) -> Iterator[fx.Node]:
    """The users that read a node's value: not those that only ask for its shape."""
    return (user for user in node.users if not reads_only_shape(user))


def reads_only_shape(user: fx.Node) -> bool:
    """Whether a node asks for the shape of its operand and not for its value."""
    if user.op == "call_module":
        return user.target == "_guards_fn"
    if user.op == "call_method":
        return user.target in SHAPE_READERS
    if user.op != "call_function":
        return False
    if user.target is getattr:
        return user.args[1] in ("shape", "dtype", "device", "ndim", "layout")
    packet = getattr(user.target, "overloadpacket", None)
    return packet is not None and packet.__name__.split("::")[-1] in SHAPE_READERS
