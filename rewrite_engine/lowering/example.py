"""The graph of a `test` block: the right-side language without anything matched."""

from __future__ import annotations

from typing import Any

import attrs
from torch import fx

from rewrite_engine.dsl import checked
from rewrite_engine.lowering.guards import compile_expr
from rewrite_engine.lowering.operators import operator_pattern


def build_example(test: checked.Test) -> fx.Graph:
    """The fx graph that a test block describes, in ATen calls."""
    builder = _ExampleBuilder()
    for given in test.given:
        builder.give(given.name, is_input=given.role == "input")
    for create in test.creates:
        builder.name(create.name, builder.value(create.value))
    results = tuple(builder.value(value) for value in test.returns)
    builder.graph.output(results[0] if len(results) == 1 else results)
    return builder.graph


@attrs.define(eq=False)
class _ExampleBuilder:
    graph: fx.Graph = attrs.field(factory=fx.Graph)
    names: dict[str, Any] = attrs.field(factory=dict)

    def give(self, name: str, *, is_input: bool) -> None:
        op = "placeholder" if is_input else "get_attr"
        self.names[name] = self.graph.create_node(op, name, name=name)

    def name(self, name: str, value: Any) -> None:
        """Give a value its name, and the call that computes it, too."""
        is_call = isinstance(value, fx.Node) and value.op == "call_function"
        if is_call and value not in self.names.values():
            value._rename(name)
        self.names[name] = value

    def value(self, value: checked.Value) -> Any:
        match value:
            case checked.Use(name):
                return self.names[name]
            case checked.Computed(expr):
                return compile_expr(expr)(self)
            case checked.MakeList(items):
                return [self.value(item) for item in items]
        assert isinstance(value, checked.Build), f"the resolver let {value!r} through"
        return self._call(value)

    def _call(self, build: checked.Build) -> fx.Node:
        assert isinstance(build.operator, checked.Operator), "a test has no family"
        keyed = {a.key: self.value(a.value) for a in build.arguments}
        positions = sorted(k for k in keyed if isinstance(k, int))
        args = tuple(keyed[key] for key in positions)
        kwargs = {k: v for k, v in keyed.items() if isinstance(k, str)}
        spelling = operator_pattern(build.operator).spelling_for(0, args, kwargs)
        return self.graph.create_node(spelling.op, spelling.target, args, kwargs)
