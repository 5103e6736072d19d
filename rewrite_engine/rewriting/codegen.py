"""`GraphModule.recompile` with a faster writer of the very same source text.

torch.fx writes general Python: it colours, comments, transforms bodies, imports types.
A graph of calls on values and literals needs none of that. Here such a graph is written
directly, and `GraphModule.recompile` is handed the result; any other is left to torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import EllipsisType, GenericAlias, NoneType
from typing import Any, TypeAlias

import attrs
import torch
from torch import fx
from torch.fx import graph as fx_graph
from torch.fx import node as fx_node
from torch.fx.experimental import _config as fx_config
from torch.fx.immutable_collections import immutable_list

from rewrite_engine.edit import unique_name

# Private names of fx are used below: only of the one version that is imitated.
_WRITES_AS_TORCH = torch.__version__.startswith("2.13.")

Codes: TypeAlias = dict[fx.Graph, Any]


def recompile(module: fx.GraphModule) -> None:
    """Do what `module.recompile()` does, in less time."""
    with _written(_codes(module) if _WRITES_AS_TORCH else {}):
        module.recompile()


def python_code(graph: fx.Graph) -> fx_graph.PythonCode | None:
    """What `graph.python_code("self")` returns; None for an unusual graph."""
    if not _is_ordinary(graph):
        return None
    try:
        return _Writer(graph).python_code()
    except _Unusual:
        return None


@contextmanager
def _written(codes: Codes) -> Iterator[None]:
    """Let graphs answer `python_code` with what is already written."""
    for graph, code in codes.items():
        graph.python_code = _answer(code)
    try:
        yield
    finally:
        for graph in codes:
            del graph.python_code


def _answer(code: fx_graph.PythonCode) -> Callable[..., fx_graph.PythonCode]:
    return lambda *_args, **_options: code


def _codes(module: fx.GraphModule) -> Codes:
    """The code of every graph that torch recompiles together with the module's."""
    if type(module).recompile is not fx.GraphModule.recompile:
        return {}
    code = python_code(module.graph)
    codes = {} if code is None else {module.graph: code}
    for child in module.children():
        if isinstance(child, fx.GraphModule):
            codes |= _codes(child)
    return codes


def _is_ordinary(graph: fx.Graph) -> bool:
    codegen = graph._codegen
    return (
        type(codegen) in (fx_graph.CodeGen, fx_graph._PyTreeCodeGen)
        and codegen._body_transformer is None
        and getattr(graph.python_code, "__func__", None) is fx.Graph.python_code
        and not fx_config.enrich_profiler_metadata
        and os.environ.get("FX_GRAPH_SHOW_META", "0") != "1"
        and len(graph.nodes) > 0
    )


class _Unusual(Exception):  # noqa: N818 - an outcome, not an error
    """The graph holds something that only torch knows how to write."""


# Their `repr` is their source text.
_LITERALS = frozenset(
    {int, float, complex, bool, str, NoneType, EllipsisType}
    | {torch.dtype, torch.device, torch.layout, torch.memory_format}
)


@attrs.define(eq=False)
class _Writer:
    """Writes one graph; names are given in the order in which torch gives them.

    `lines` are those of the function's body, `owners` the indices of their nodes.
    """

    graph: fx.Graph
    namespace: Any = attrs.field(factory=lambda: fx_graph._Namespace())
    globals: dict[str, Any] = attrs.field(factory=dict)
    parameters: list[str] = attrs.field(factory=list)
    returns: str = ""
    lines: list[str] = attrs.field(factory=list)
    owners: list[int] = attrs.field(factory=list)
    _names: dict[Any, str] = attrs.field(init=False)
    _callees: dict[int, str] = attrs.field(factory=dict)
    _dying: dict[fx.Node, list[fx.Node]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._names = self.namespace._obj_to_name
        self._dying = _last_reads(self.graph)

    def python_code(self) -> fx_graph.PythonCode:
        for name, (_, value) in fx_graph._custom_builtins.items():
            self._global(name, value)
        writers = {
            "placeholder": self._placeholder,
            "get_attr": self._get_attr,
            "call_function": self._call_function,
            "call_method": self._call_method,
            "call_module": self._call_module,
            "output": self._output,
        }
        for index, node in enumerate(self.graph.nodes):
            line = writers[node.op](node)
            if line:
                self.lines.append(line)
                self.owners.append(index)
        # torch ends the last line and counts the empty one that follows.
        self.lines.append("")
        self.owners.append(index)
        return self._assembled()

    def _assembled(self) -> fx_graph.PythonCode:
        head = self.graph._codegen.gen_fn_def(self.parameters, self.returns)
        body = "\n    ".join(self.lines)
        if body.count("\n") >= len(self.lines) or "# COUNTER: " in body:
            raise _Unusual
        first = head.count("\n") + 1
        owners = dict(enumerate(self.owners, first))
        source = f"\n\n\n{head}\n    {body}"
        return fx_graph.PythonCode(source, self.globals, owners, _prologue_start=4)

    # --- one node, one line ---

    def _placeholder(self, node: fx.Node) -> str:
        annotation = self._annotation(node.type, " : ")
        default = f" = {self._text(node.args[0])}" if node.args else ""
        self.parameters.append(f"{node.target}{annotation}{default}")
        parameter = node.target.replace("*", "")
        name = self._name(node)
        return "" if parameter == name else f"{name} = {parameter}"

    def _get_attr(self, node: fx.Node) -> str:
        name = self._name(node)
        return self._statement(node, name, fx_graph._format_target("self", node.target))

    def _call_module(self, node: fx.Node) -> str:
        callee = fx_graph._format_target("self", node.target)
        return self._call(node, self._name(node), callee, node._args)

    def _call_method(self, node: fx.Node) -> str:
        name = self._name(node)
        owner, *args = node._args
        callee = fx_graph._format_target(self._text(owner), node.target)
        return self._call(node, name, callee, args)

    def _call_function(self, node: fx.Node) -> str:
        if node.meta.get("is_wrapped"):
            raise _Unusual
        target = node.target
        callee = self._callees.get(id(target)) or self._callee(target)
        name = self._name(node)
        if "{}" in callee:
            return self._operator(node, name, callee)
        return self._call(node, name, callee, node._args)

    def _operator(self, node: fx.Node, name: str, form: str) -> str:
        operands = [self._text(value) for value in node._args]
        text = form.format(*operands)
        if node.target.__name__ not in fx_graph.inplace_methods:
            return self._statement(node, name, text)
        return f"{text};  {self._statement(node, name, operands[0])}"

    def _output(self, node: fx.Node) -> str:
        self.returns = self._annotation(node.type, " -> ")
        codegen = self.graph._codegen
        line: str = codegen.generate_output(node.args[0], repr_fn=self._text)
        return line

    def _call(self, node: fx.Node, name: str, callee: str, args: Iterable[Any]) -> str:
        texts = list(map(self._text, args))
        if node._kwargs:
            texts += [f"{key} = {self._text(v)}" for key, v in node._kwargs.items()]
        return self._statement(node, name, f"{callee}({', '.join(texts)})")

    def _statement(self, node: fx.Node, name: str, value: str) -> str:
        """An assignment, and the release of the values that are not read again."""
        if node.type is not None:
            raise _Unusual
        # The operands got their names when they were written.
        dying = [self._names[last] for last in self._dying.get(node, ())]
        if not node.users:
            dying.append(name)
        if not dying:
            return f"{name} = {value}"
        return f"{name} = {value};  {' = '.join(dying)} = None"

    # --- names and values ---

    def _name(self, node: fx.Node) -> str:
        name = self._names.get(node)
        if name is None:
            name = self._names[node] = unique_name(self.namespace, node.name)
        return name

    def _text(self, value: Any) -> str:
        kind = type(value)
        if kind is fx.Node:
            return self._names.get(value) or self._name(value)
        if kind in _LITERALS:
            return repr(value)
        if kind is list or kind is immutable_list:
            return f"[{', '.join(map(self._text, value))}]"
        if kind is tuple:
            return f"({', '.join(map(self._text, value))}{',' * (len(value) == 1)})"
        if kind is slice:
            bounds = value.start, value.stop, value.step
            return f"slice{self._text(bounds)}"
        if kind is torch._ops.OpOverload:
            return self._global(fx_node._get_qualified_name(value), value)
        raise _Unusual

    def _callee(self, target: Any) -> str:
        """How a call is spelled: a name, or an operator's format."""
        name = fx_node._get_qualified_name(target)
        if name == "getattr" or "{}" in name:
            raise _Unusual
        forms = {}
        if getattr(target, "__module__", "") == "_operator":
            forms = fx_graph.magic_methods | fx_graph.inplace_methods
        callee: str = forms.get(target.__name__) or self._global(name, target)
        self._callees[id(target)] = callee
        return callee

    def _annotation(self, kind: Any, prefix: str) -> str:
        if kind is None:
            return ""
        if not isinstance(kind, type) or isinstance(kind, GenericAlias):
            raise _Unusual
        return prefix + self._global(fx_node._type_repr(kind), kind)

    def _global(self, hint: str, value: Any) -> str:
        """The name of something outside the graph."""
        if fx_graph._is_from_torch(value) and value is not torch.device:
            qualified: str = fx_node._get_qualified_name(value)
            return qualified
        name: str = self.namespace.create_name(hint, value)
        if self.globals.setdefault(name, value) is not value:
            raise _Unusual
        return name


def _last_reads(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """For each node the values that nothing reads after it."""
    read: set[fx.Node] = set()
    last: dict[fx.Node, list[fx.Node]] = {}
    for node in reversed(graph.nodes):
        fresh = [value for value in node._input_nodes if value not in read]
        if fresh:
            read.update(fresh)
            last[node] = fresh
    return last
