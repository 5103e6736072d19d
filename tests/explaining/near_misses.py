"""Seeded near misses: a graph in which a rule matches, with one thing broken.

A template builds what its rule matches; each of its breaks changes one thing and says
what an explanation has to name.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from rewrite_engine import loads
from rewrite_engine.ruleset import RuleSet

aten = torch.ops.aten

UNARY = (aten.exp, aten.neg, aten.abs, aten.cos, aten.ceil, aten.erf)
BINARY = (aten.add, aten.sub, aten.mul, aten.div)
NOISE = (aten.relu, aten.tanh, aten.neg, aten.exp, aten.sigmoid)

TEXTS: Mapping[str, str] = {
    "gate": """rule gate {
          y = linear(x, w, b?)
          s = sub(y, mul(r, 2.0))
          z = mul(sigmoid(s), relu?(y))
          where x: [$B, 16], w is const
        => z' = linear(x, w, b) }""",
    "attention": """rule attention {
          p = softmax(div(matmul(q, transpose(k, 1, 2)), $s), -1)
          o = matmul(p, clone?(v))
          where q: f32
          where $s > 1.0 else "the scale is small"
        => o' = clone(v) }""",
    "join": """rule join {
          c = cat([relu(x), sub(tanh(x), y)], 1)
          z = add(c, c)
          where rank(x) == 2, dtype(y) == "f32"
        => z' = cat([x, y], 1) }""",
    "norm": """
        family Norm(op) = aten.layer_norm.default | aten.rms_norm.default
        rule norm for norm in Norm {
          a = norm(add(x, residual), [16], w)
          z = gelu(a, approximate="tanh") * a
          where x: f32|f64[$B, $D], uses(w) == 1
        => z' = add(x, residual) }""",
}


@attrs.define(eq=False)
class Planted:
    """A graph under construction; calls that the rule matches have labels."""

    rng: random.Random
    dtype: torch.dtype = torch.float32
    sizes: tuple[int, ...] = (4,)
    """The leading sizes of inputs."""
    constant_weights: bool = True
    graph: fx.Graph = attrs.field(factory=fx.Graph)
    module: torch.nn.Module = attrs.field(factory=torch.nn.Module)
    inputs: list[torch.Tensor] = attrs.field(factory=list)
    calls: dict[str, fx.Node] = attrs.field(factory=dict)
    results: list[fx.Node] = attrs.field(factory=list)

    def input(self, *shape: int) -> fx.Node:
        self.inputs.append(torch.zeros(shape, dtype=self.dtype))
        with self.graph.inserting_before(self._first_call()):
            return self.graph.placeholder(f"x{len(self.inputs)}")

    def _first_call(self) -> fx.Node:
        nodes = (n for n in self.graph.nodes if n.op != "placeholder")
        return next(nodes, self.graph._root)

    def weight(self, *shape: int) -> fx.Node:
        if not self.constant_weights:
            return self.input(*shape)
        name = f"w{len(list(self.module.parameters()))}"
        zeros = torch.zeros(shape, dtype=self.dtype)
        self.module.register_parameter(name, torch.nn.Parameter(zeros))
        return self.graph.get_attr(name)

    def call(self, label: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        self.calls[label] = self.graph.call_function(target.default, args, kwargs)
        return self.calls[label]

    def noise(self, value: fx.Node) -> fx.Node:
        for _ in range(self.rng.randrange(3)):
            value = self.graph.call_function(self.rng.choice(NOISE).default, (value,))
        return value

    def shuffled(self, *values: Any) -> list[Any]:
        return self.rng.sample(values, len(values))

    def done(self) -> fx.GraphModule:
        self.graph.output(tuple(self.noise(result) for result in self.results))
        gm = fx.GraphModule(self.module, self.graph)
        gm.graph.lint()
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        FakeTensorProp(gm, mode).propagate(*self.inputs)
        return gm


# --- templates ---


def gate(p: Planted) -> None:
    x, r = p.noise(p.input(*p.sizes, 16)), p.input(*p.sizes, 8)
    w, b = p.weight(8, 16), p.weight(8)
    y = p.call("linear", aten.linear, x, w, *p.rng.choice([(), (b,)]))
    p.calls["double"] = p.graph.call_function(aten.mul.Tensor, (r, 2.0))
    s = p.graph.call_function(aten.sub.Tensor, (y, p.calls["double"]))
    p.calls["sub"] = s
    g = p.call("sigmoid", aten.sigmoid, s)
    p.call("relu", aten.relu, y)
    pair = p.shuffled(g, p.calls["relu"])
    p.calls["mul"] = p.graph.call_function(aten.mul.Tensor, tuple(pair))
    p.results.append(p.calls["mul"])


def attention(p: Planted) -> None:
    q, k, v = (p.input(*p.sizes, 4, 4) for _ in range(3))
    t = p.graph.call_function(aten.transpose.int, (k, 1, 2))
    m = p.call("scores", aten.matmul, p.noise(q), t)
    d = p.graph.call_function(aten.div.Tensor, (m, p.rng.choice([2.0, 8.0])))
    s = p.graph.call_function(aten.softmax.int, (d, -1))
    p.calls |= {"transpose": t, "div": d, "softmax": s}
    p.results.append(p.call("matmul", aten.matmul, s, p.call("clone", aten.clone, v)))


def join(p: Planted) -> None:
    x, y = p.noise(p.input(*p.sizes, 4)), p.input(*p.sizes, 4)
    a, t = p.call("relu", aten.relu, x), p.call("tanh", aten.tanh, x)
    p.calls["sub"] = p.graph.call_function(aten.sub.Tensor, (t, y))
    c = p.call("cat", aten.cat, [a, p.calls["sub"]], 1)
    p.calls["add"] = p.graph.call_function(aten.add.Tensor, (c, c))
    p.results.append(p.calls["add"])


def norm(p: Planted) -> None:
    x, r, w = p.noise(p.input(*p.sizes, 16)), p.input(*p.sizes, 16), p.weight(16)
    s = p.graph.call_function(aten.add.Tensor, tuple(p.shuffled(x, r)))
    a = p.call("norm", p.rng.choice([aten.layer_norm, aten.rms_norm]), s, [16], w)
    g = p.call("gelu", aten.gelu, a, approximate="tanh")
    m = p.graph.call_function(aten.mul.Tensor, tuple(p.shuffled(g, a)))
    p.calls |= {"add": s, "mul": m}
    p.results.append(m)


TEMPLATES: Mapping[str, Callable[[Planted], None]] = {
    "gate": gate,
    "attention": attention,
    "join": join,
    "norm": norm,
}


# --- breaks ---


@attrs.frozen
class Expected:
    """The first mismatch must be of one of `kinds` and name one of `nodes`."""

    kinds: tuple[str, ...]
    nodes: tuple[fx.Node, ...]


Break = Callable[[Planted], Expected]


def another_operator(*labels: str) -> Break:
    def apply(p: Planted) -> Expected:
        node = p.calls[p.rng.choice(labels)]
        kinds = ("operator", "shared") if "relu" in node.name else ("operator",)
        if node.target._schema.name.rpartition("::")[2] in ("add", "sub", "mul", "div"):
            others = [op.Tensor for op in BINARY if op.Tensor is not node.target]
            node.target = p.rng.choice(others)
        else:
            node.target = p.rng.choice(UNARY).default
            node.args, node.kwargs = node.args[:1], {}
        return Expected(kinds, (node,))

    return apply


def another_literal(label: str, position: int | str, value: Any) -> Break:
    def apply(p: Planted) -> Expected:
        node = p.calls[label]
        if isinstance(position, str):
            node.update_kwarg(position, value)
        else:
            node.update_arg(position, value)
        return Expected(("literal",), (node,))

    return apply


def literal_for_value(label: str, position: int, value: Any) -> Break:
    def apply(p: Planted) -> Expected:
        p.calls[label].update_arg(position, value)
        return Expected(("operand",), (p.calls[label],))

    return apply


def value_for_literal(label: str, position: int) -> Break:
    def apply(p: Planted) -> Expected:
        p.calls[label].update_arg(position, p.input(1))
        return Expected(("operand", "literal"), (p.calls[label],))

    return apply


def without_operand(label: str) -> Break:
    def apply(p: Planted) -> Expected:
        p.calls[label].args = p.calls[label].args[:-1]
        return Expected(("operand",), (p.calls[label],))

    return apply


def extra_argument(label: str, **kwargs: Any) -> Break:
    def apply(p: Planted) -> Expected:
        node = p.calls[label]
        node.kwargs = {**node.kwargs, **kwargs}
        return Expected(("argument",), (node,))

    return apply


def another_value(label: str, old: str | int, shape: tuple[int, ...]) -> Break:
    """The operand that is `old`, or at that position, becomes a fresh input."""

    def apply(p: Planted) -> Expected:
        node = p.calls[label]
        fresh = p.input(*shape)
        position = old if isinstance(old, int) else node.args.index(p.calls[old])
        before = node.args[position]
        node.update_arg(position, fresh)
        return Expected(("shared", "operator"), (node, fresh, before))

    return apply


def another_list(label: str) -> Break:
    def apply(p: Planted) -> Expected:
        node = p.calls[label]
        node.update_arg(0, [*node.args[0], p.input(4, 4)])
        return Expected(("list",), (node,))

    return apply


def other_way_round(label: str) -> Break:
    def apply(p: Planted) -> Expected:
        node = p.calls[label]
        node.args = (node.args[1], node.args[0], *node.args[2:])
        return Expected(("order",), (node,))

    return apply


def call_between(*edges: tuple[str, str]) -> Break:
    def apply(p: Planted) -> Expected:
        reader, operand = (p.calls[label] for label in p.rng.choice(edges))
        with p.graph.inserting_before(reader):
            extra = p.graph.call_function(p.rng.choice(UNARY).default, (operand,))
        reader.replace_input_with(operand, extra)
        return Expected(("between",), (extra,))

    return apply


def call_missing(*labels: str) -> Break:
    def apply(p: Planted) -> Expected:
        node = p.calls[p.rng.choice(labels)]
        operand = node.args[0]
        readers = tuple(node.users)
        node.replace_all_uses_with(operand)
        p.graph.erase_node(node)
        return Expected(("missing", "operator"), (operand, *readers))

    return apply


def in_place(label: str, target: Any) -> Break:
    def apply(p: Planted) -> Expected:
        p.calls[label].target = target.default
        return Expected(("dialect",), (p.calls[label],))

    return apply


def decomposed_linear(p: Planted) -> Expected:
    node = p.calls["linear"]
    x, w = node.args[:2]
    with p.graph.inserting_before(node):
        turned = p.graph.call_function(aten.t.default, (w,))
        product = p.graph.call_function(aten.mm.default, (x, turned))
    node.replace_all_uses_with(product)
    p.graph.erase_node(node)
    return Expected(("dialect",), (product,))


def read_elsewhere(*labels: str) -> Break:
    def apply(p: Planted) -> Expected:
        node = p.calls[p.rng.choice(labels)]
        reader = p.graph.call_function(aten.neg.default, (node,))
        p.results.append(reader)
        return Expected(("refused",), (node,))

    return apply


def written_between(reader: str, later: str) -> Break:
    def apply(p: Planted) -> Expected:
        value = p.calls[reader].args[0]
        with p.graph.inserting_before(p.calls[later]):
            write = p.graph.call_function(aten.add_.Tensor, (value, 1.0))
        return Expected(("refused",), (write,))

    return apply


def guarded(reads: str | None) -> Break:
    """What a guard asks about was built another way: see `SETTINGS`."""

    def apply(p: Planted) -> Expected:
        nodes = (p.calls[reads],) if reads else tuple(p.graph.nodes)
        return Expected(("guard",), nodes)

    return apply


SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "dtype": {"dtype": torch.float64},
    "half": {"dtype": torch.float16},
    "rank": {"sizes": (2, 3)},
    "not const": {"constant_weights": False},
}
"""How a template is built so that a guard of its rule fails."""


def read_twice(p: Planted) -> Expected:
    weight = p.calls["norm"].args[2]
    p.results.append(p.graph.call_function(aten.neg.default, (weight,)))
    return Expected(("guard",), (weight,))


BREAKS: Mapping[str, Mapping[str, Break]] = {
    "gate": {
        "operator": another_operator("double", "sub", "sigmoid", "mul"),
        "optional": another_operator("relu"),
        "literal": another_literal("double", 1, 3.0),
        "operand": literal_for_value("sub", 1, 0.5),
        "argument": extra_argument("sub", alpha=2),
        "shared": another_value("mul", "relu", (4, 8)),
        "order": other_way_round("sub"),
        "between": call_between(("sub", "double"), ("mul", "sigmoid")),
        "missing": call_missing("sigmoid"),
        "decomposed": decomposed_linear,
        "in place": in_place("sigmoid", aten.sigmoid_),
        "reader": read_elsewhere("double", "sub", "sigmoid"),
        "write": written_between("double", "sigmoid"),
        "rank": guarded(None),
        "not const": guarded(None),
    },
    "attention": {
        "operator": another_operator("div", "softmax"),
        "literal": another_literal("softmax", 1, 1),
        "value": value_for_literal("div", 1),
        "argument": extra_argument("softmax", dtype=torch.float32),
        "order": other_way_round("scores"),
        "between": call_between(
            ("div", "scores"), ("softmax", "div"), ("matmul", "softmax")
        ),
        "missing": call_missing("div", "softmax", "transpose"),
        "reader": read_elsewhere("transpose", "scores", "div", "softmax"),
        "write": written_between("scores", "div"),
        "guard": another_literal("div", 1, 0.5),
        "dtype": guarded(None),
    },
    "join": {
        "operator": another_operator("relu", "tanh", "sub", "add"),
        "literal": another_literal("cat", 1, 0),
        "argument": extra_argument("add", alpha=3),
        "operand": literal_for_value("sub", 1, 0.5),
        "shared": another_value("tanh", 0, (4, 4)),
        "list": another_list("cat"),
        "order": other_way_round("sub"),
        "between": call_between(("sub", "tanh"), ("cat", "sub"), ("cat", "relu")),
        "missing": call_missing("tanh"),
        "reader": read_elsewhere("relu", "tanh", "sub", "cat"),
        "write": written_between("tanh", "add"),
        "dtype": guarded(None),
        "rank": guarded(None),
    },
    "norm": {
        "operator": another_operator("add", "gelu", "mul"),
        "literal": another_literal("gelu", "approximate", "none"),
        "missing operand": without_operand("norm"),
        "argument": extra_argument("norm", eps=1e-3),
        "shared": another_value("mul", "norm", (4, 16)),
        "between": call_between(("norm", "add"), ("mul", "gelu")),
        "reader": read_elsewhere("add", "norm", "gelu"),
        "write": written_between("add", "gelu"),
        "half": guarded(None),
        "uses": read_twice,
    },
}


@functools.cache
def rules_of(template: str) -> RuleSet:
    return loads(TEXTS[template], f"{template}.rules")


def near_miss(seed: int) -> tuple[str, RuleSet, fx.GraphModule, Expected]:
    """What was broken, the rule, the graph, and what is to be named."""
    rng = random.Random(seed)
    template = rng.choice(list(TEMPLATES))
    kind = rng.choice(list(BREAKS[template]))
    p = Planted(rng, **SETTINGS.get(kind, {}))
    if template == "attention" and kind != "rank":
        p.sizes = (2,)
    TEMPLATES[template](p)
    expected = BREAKS[template][kind](p)
    _add_decoy(p, template)
    if template == "attention" and kind == "guard":
        expected = attrs.evolve(expected, kinds=("guard",))
    return f"{template}: {kind}", rules_of(template), p.done(), expected


def _add_decoy(p: Planted, template: str) -> None:
    """The same again with two things broken, before or after the near miss."""
    decoy = attrs.evolve(p, calls={}, results=[])
    TEMPLATES[template](decoy)
    for kind in ("literal", "operator"):
        BREAKS[template][kind](decoy)
    p.results.extend(decoy.results)


def intact(template: str, seed: int) -> tuple[RuleSet, fx.GraphModule]:
    """The same graph with nothing broken."""
    p = Planted(random.Random(seed))
    if template == "attention":
        p.sizes = (2,)
    TEMPLATES[template](p)
    return rules_of(template), p.done()
