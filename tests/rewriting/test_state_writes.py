"""Writes of the state: what changes, what never does, and what is refused."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import fx, nn
from torch.ao.quantization import MinMaxObserver

from rewrite_engine import engine, loads
from rewrite_engine.errors import RewriteError

DOUBLE = "rule r once { y = linear(x, w, b?) => w <- w * 2  keep y }"
OWN = DOUBLE.replace("w <-", "own w <-")


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


class Functional(nn.Module):
    """The weight of a layer is a parameter, a buffer or a plain tensor."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        weight = torch.randn(3, 4)
        if kind == "parameter":
            self.w = nn.Parameter(weight)
        elif kind == "buffer":
            self.register_buffer("w", weight)
        else:
            self.w = weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, weight=self.w)


def reasons(gm: Any, rules: str) -> list[str]:
    report = engine.apply(gm, loads(rules)).report
    return [refusal.reason for refusal in report.rules[0].refusals]


@pytest.mark.parametrize("kind", ["parameter", "buffer", "plain"])
def test_constants_of_functional_layers(kind: str) -> None:
    model = Functional(kind)
    gm, x, old = fx.symbolic_trace(model), torch.randn(2, 4), model.w
    if kind == "plain":  # which tracing made a buffer
        del gm._buffers["w"]
        gm.w = old
    parameters, buffers = dict(gm.named_parameters()), dict(gm.named_buffers())
    before = old.clone()
    assert engine.apply(gm, loads(DOUBLE)).modified
    assert torch.equal(gm(x), F.linear(x, before * 2))
    assert torch.equal(old, before)
    assert type(gm.w) is type(old)
    assert gm.w.requires_grad == old.requires_grad
    assert dict(gm.named_parameters()).keys() == parameters.keys()
    assert dict(gm.named_buffers()).keys() == buffers.keys()


def test_modules() -> None:
    gm, x = fx.symbolic_trace(Layer()), torch.randn(2, 4)
    old, before = gm.fc.weight, gm.fc.weight.detach().clone()
    assert engine.apply(gm, loads(DOUBLE)).modified
    assert gm.fc.weight is not old
    assert isinstance(gm.fc.weight, nn.Parameter)
    assert torch.equal(old, before)
    assert torch.equal(gm(x), F.linear(x, before * 2, gm.fc.bias))
    assert [n.op for n in gm.graph.nodes] == ["placeholder", "call_module", "output"]


def test_exported_programs() -> None:
    program = torch.export.export(Layer(), (torch.randn(2, 4),))
    x, old = torch.randn(2, 4), program.state_dict["fc.weight"]
    before = old.detach().clone()
    assert engine.apply(program, loads(DOUBLE)).modified
    new = program.state_dict["fc.weight"]
    assert new is not old
    assert isinstance(new, nn.Parameter)
    assert torch.equal(old, before)
    bias = program.state_dict["fc.bias"]
    assert torch.equal(program.module()(x), F.linear(x, before * 2, bias))
    program.validate()


def test_what_a_tensor_is_stays() -> None:
    layer = nn.Conv2d(4, 6, 3).to(torch.bfloat16, memory_format=torch.channels_last)
    layer.weight.requires_grad_(False)
    layer.weight.tag = "mine"  # type: ignore[attr-defined]
    gm = fx.symbolic_trace(nn.Sequential(layer))
    before = layer.weight.clone()
    rule = "rule r once { y = conv2d(x, w, b?, ..) => w <- w / 3  keep y }"
    engine.apply(gm, loads(rule))
    new = gm.get_submodule("0").weight
    assert (new.dtype, new.requires_grad) == (torch.bfloat16, False)
    assert new.stride() == before.stride()
    assert new.tag == "mine"
    # Computed in double precision and rounded once.
    assert torch.equal(new, (before.double() / 3).to(torch.bfloat16))


def test_every_value_is_that_of_the_match() -> None:
    rules = loads("""
    rule r once {
      y = linear(x, w, b)
    =>
      value r = w * 10
      w <- w + 1
      b <- b + reshape(amax(w, [1]), [-1]) + reshape(amax(r, [1]), [-1])
      keep y
    }
    """)
    gm = fx.symbolic_trace(Layer())
    w, b = gm.fc.weight.detach().clone(), gm.fc.bias.detach().clone()
    engine.apply(gm, rules)
    torch.testing.assert_close(gm.fc.weight.detach(), w + 1)
    torch.testing.assert_close(gm.fc.bias.detach(), b + 11 * w.amax(1) * 0 + _sum(w))


def _sum(w: torch.Tensor) -> torch.Tensor:
    return w.amax(1) + (10 * w).amax(1)


def test_an_absent_operand_is_not_written() -> None:
    rule = "rule r once { y = linear(x, w, b?) => b <- b * 2  w <- w * 2  keep y }"
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2))
    gm, x = fx.symbolic_trace(copy.deepcopy(model)), torch.randn(2, 4)
    assert engine.apply(gm, loads(rule)).report.rules[0].matches == 2
    expected = 2 * model[1](2 * model[0](x))
    torch.testing.assert_close(gm(x), expected)


# --- other readers ---


class Shared(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        if kind == "tied":
            self.two.weight = self.one.weight
        elif kind == "view":
            self.two.weight = nn.Parameter(self.one.weight.detach().t())
        elif kind == "module":
            self.two = self.one

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.one(x).relu()
        if self.kind == "twice":
            return self.one(y)
        if self.kind == "function":
            return F.linear(y, self.one.weight)
        return self.two(y)


SHARED = ("twice", "tied", "view", "module", "function")
ONE = """
op act = .relu
rule r once { z = act(linear(x, w, b?)) => w <- w * 2  keep z }
"""


@pytest.mark.parametrize("kind", SHARED)
def test_a_tensor_with_another_reader_is_left_alone(kind: str) -> None:
    gm = fx.symbolic_trace(Shared(kind))
    state, code = copy.deepcopy(gm.state_dict()), gm.code
    (reason,) = reasons(gm, ONE)
    assert "also reads 'w'" in reason
    assert gm.code == code
    for name, value in gm.state_dict().items():
        assert torch.equal(value, state[name])


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("exported", [False, True], ids=["fx", "export"])
def test_a_tensor_of_its_own(kind: str, exported: bool) -> None:
    model, x = Shared(kind), torch.randn(2, 4)
    gm: Any = fx.symbolic_trace(copy.deepcopy(model))
    if exported:
        gm = torch.export.export(copy.deepcopy(model), (x,))
    rules = ONE.replace("w <-", "own w <-").replace(
        ".relu", "aten.relu.default | .relu"
    )
    assert reasons(gm, rules) == []
    y = F.linear(x, model.one.weight * 2, model.one.bias).relu()
    last = model.two if kind in ("tied", "view", "module") else model.one
    bias = None if kind == "function" else last.bias
    run = gm.module() if exported else gm
    torch.testing.assert_close(run(x), F.linear(y, last.weight, bias))
    if exported:
        gm.validate()


def test_several_tensors_of_its_own_need_one_copy() -> None:
    rules = ONE.replace("w <- w * 2", "own w <- w * 2  own b <- b * 2").replace(
        "b?", "b"
    )
    gm = fx.symbolic_trace(Shared("twice"))
    assert reasons(gm, rules) == []
    calls = [str(n.target) for n in gm.graph.nodes if n.op == "call_module"]
    assert calls == ["one_1", "one"]
    assert {name for name, _ in gm.named_children()} == {"one", "one_1"}


def test_own_is_a_plain_write_where_nobody_else_reads() -> None:
    gm = fx.symbolic_trace(Layer())
    engine.apply(gm, loads(OWN))
    assert [name for name, _ in gm.named_children()] == ["fc"]


def test_readers_in_a_nested_graph_count() -> None:
    inner = fx.symbolic_trace(Layer())

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(self.inner(x), self.inner.fc.weight.t())

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, name: str) -> bool:
            return m is inner or super().is_leaf_module(m, name)

    model = Outer()
    gm = fx.GraphModule(model, Tracer().trace(model))
    report = engine.apply(gm, loads(DOUBLE), recurse=True).report
    assert report.rules[0].matches == 0
    assert any("also reads" in r.reason for r in report.rules[0].refusals)


# --- what is refused ---


def test_refusals() -> None:
    def rule(write: str) -> str:
        return f"rule r once {{ y = linear(x, w, b?) => {write} keep y }}"

    cases = {
        "w <- reshape(w, [-1])": "has the shape [3, 4], and would become [12]",
        "x <- w": "'x' is no state of the model",
        "w <- w / 0": "not finite",
    }
    for write, reason in cases.items():
        assert reason in reasons(fx.symbolic_trace(Layer()), rule(write))[0]


def test_a_tensor_does_not_move_to_another_device() -> None:
    gm = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).to("meta")))
    rule = """
    rule r once { z = linear(linear(x, w, b?), v, c?) => v <- w  keep z }
    """
    (reason,) = reasons(gm, rule)
    assert reason == "'v' is on meta, and would be on cpu"
    assert gm.get_parameter("1.weight").is_meta


@pytest.mark.parametrize(
    "right",
    [
        "w <- w * 2  keep y",
        "own w <- w * 2  keep y",
        "param v = w * 2  y' = linear(x, v)",
    ],
)
@pytest.mark.parametrize("kind", ["hook", "post_accumulate_grad_hook"])
def test_a_parameter_with_hooks_keeps_its_place(right: str, kind: str) -> None:
    rule = f"rule r once {{ y = linear(x, w, _) => {right} }}"
    gm = fx.symbolic_trace(Layer())
    weight = next(p for p in gm.parameters() if p.ndim == 2)
    handle = getattr(weight, f"register_{kind}")(lambda given: None)
    (reason,) = reasons(gm, rule)
    assert "has hooks" in reason and weight in {*gm.parameters()}
    handle.remove()
    assert reasons(gm, rule) == []


def test_what_the_graph_writes_is_no_constant() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("w", torch.ones(3, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(x, self.w) + self.w.add_(x.sum()).sum()

    assert "also reads 'w'" in reasons(fx.symbolic_trace(Model()), DOUBLE)[0]
    # Only refused if it is also written: a private copy would miss the writes.
    assert "may write the constant" in reasons(fx.symbolic_trace(Model()), OWN)[0]


class Twice(nn.Module):
    """Two calls that read one weight: of one module, of two, or through a view."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        if kind == "called twice":
            self.b = self.a
        elif kind == "tied":
            self.b.weight = self.a.weight
        else:
            self.b.weight = nn.Parameter(self.a.weight.detach().view(3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x) + self.b(torch.neg(x))


@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize("write", ["w", "own w"])
@pytest.mark.parametrize("kind", ["called twice", "tied", "view"])
@pytest.mark.parametrize("other", ["v2, b2", ".."])
def test_a_match_does_not_read_what_it_writes_under_another_name(
    kind: str, write: str, other: str, exported: bool
) -> None:
    rules = f"""
    rule r once {{
      z = add(y1, y2)
      y1 = linear(x, w, b)
      y2 = linear(v, {other})
    =>
      {write} <- w * 2
      y3 = linear(x / 2, w, b)
      y4 = linear(v, {other if other != ".." else "..y2"})
      z' = add(y3, y4)
    }}
    """
    x, model = torch.randn(2, 3), Twice(kind)
    expected = model(x)
    program = torch.export.export(model, (x,)) if exported else None
    graph = program or fx.symbolic_trace(model)
    (reason,) = reasons(graph, rules)
    assert "are one tensor" in reason or "under no name" in reason
    run = program.module() if program is not None else graph
    assert torch.equal(run(x), expected)


@pytest.mark.parametrize(("factor", "refused"), [(2, False), (3, True)])
def test_one_tensor_under_two_names_is_written_alike(
    factor: int, refused: bool
) -> None:
    rules = f"""
    rule r once {{
      z = add(linear(x, w, b), linear(v, w2, b2))
    =>
      w <- w * 2
      w2 <- w2 * {factor}
      keep z
    }}
    """
    gm = fx.symbolic_trace(Twice("tied"))
    before = gm.a.weight.detach().clone()
    found = reasons(gm, rules)
    assert found == (["'w' and 'w2' are one tensor"] if refused else [])
    assert torch.equal(gm.a.weight, before if refused else 2 * before)


class Product(nn.Module):
    def __init__(self, w: torch.Tensor, s: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("w", w)
        self.register_buffer("s", s)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.neg(self.w + x) * self.s


@pytest.mark.parametrize(
    ("held", "factor", "reason"),
    [
        (torch.int8, torch.tensor(100, dtype=torch.int32), "too small"),
        (torch.float16, torch.tensor([1e6]), "too small"),
        (torch.float32, torch.tensor([1j]), "would become torch.complex64"),
        (torch.int64, torch.tensor([0.5]), "would become torch.float32"),
    ],
    ids=["int8", "float16", "complex", "fraction"],
)
def test_what_a_tensor_cannot_hold_is_refused(
    held: torch.dtype, factor: torch.Tensor, reason: str
) -> None:
    w = torch.full((3,), 100).to(held)
    graph = fx.symbolic_trace(Product(w, factor.expand(3).clone()))
    rules = "rule r once { y = add(w, x) z = mul(neg(y), s) => w <- w * s  z' = s }"
    rules = rules.replace("z' = s", "z' = mul(neg(add(w, x)), s)")
    assert reason in reasons(graph, rules)[0]
    assert graph.w is w


def test_numbers_of_eight_bits_are_checked_too() -> None:
    graph = fx.symbolic_trace(Layer())
    graph.fc.weight = nn.Parameter(graph.fc.weight.detach().to(torch.float8_e4m3fn))
    engine.apply(graph, hooked(lambda w: w * 0 + 2))
    assert graph.fc.weight.dtype == torch.float8_e4m3fn
    assert torch.equal(graph.fc.weight.float(), torch.full((3, 4), 2.0))


def hooked(function: Any) -> Any:
    def change(w: torch.Tensor) -> torch.Tensor:
        return function(w)

    text = DOUBLE.replace("w * 2", "change(w)")
    hooks = {"acme.hooks": {"change": change}}
    return loads(f"use acme.hooks (change)\n{text}", hooks=hooks)


@pytest.mark.parametrize("kind", ["meta", "sparse"])
def test_a_hook_returns_numbers(kind: str) -> None:
    rules = hooked(lambda w: w.to("meta") if kind == "meta" else w.to_sparse())
    (refusal,) = engine.apply(fx.symbolic_trace(Layer()), rules).report.refusals
    assert "a hook returned no tensor" in refusal.reason


def test_a_hook_makes_nothing_infinite_even_if_the_rest_is_finite() -> None:
    def change(w: torch.Tensor) -> torch.Tensor:
        return torch.full_like(w, math.inf)

    text = DOUBLE.replace("w * 2", "aten.reciprocal.default(change(w))")
    hooks = {"acme.hooks": {"change": change}}
    rules = loads(f"use acme.hooks (change)\n{text}", hooks=hooks)
    (refusal,) = engine.apply(fx.symbolic_trace(Layer()), rules).report.refusals
    assert "a value that is not finite" in refusal.reason


@pytest.mark.parametrize("make", [fx.symbolic_trace, lambda m: exported_of(m)])
def test_what_is_no_constant_was_none_at_first(make: Any) -> None:
    write = "w <- w + aten.sum.default(initial(x))"
    rule = f"rule r {{ y = linear(x, w, b?) => {write}  keep y }}"
    assert reasons(make(Layer()), rule) == ["'x' is not a constant"]


def exported_of(model: nn.Module) -> Any:
    return torch.export.export(model, (torch.randn(2, 4),))


def test_an_attribute_that_no_signature_lists_is_not_written() -> None:
    program = exported_of(Layer())
    program.graph_module.register_buffer("held", torch.ones(3, 4))
    graph = program.graph
    weight = next(n for n in graph.nodes if n.name == "p_fc_weight")
    with graph.inserting_after(graph.find_nodes(op="placeholder")[-1]):
        weight.replace_all_uses_with(graph.create_node("get_attr", "held"))
    (reason,) = reasons(program, DOUBLE)
    assert reason == "'held' is no state of the program: it is not written"


@pytest.mark.parametrize("make", [fx.symbolic_trace, lambda m: exported_of(m)])
def test_what_a_rule_has_stored_may_be_written(make: Any) -> None:
    rules = loads("""
    rule store once { y = linear(x, w, b?)
                      => param p = w + 1  y' = aten.linear(relu(x), p, b) }
    rule double { y = linear(relu(x), w, b?)
                  => w <- w * 2  y' = linear(sigmoid(x), w, b) }
    """)
    model, x = Layer(), torch.randn(2, 4)
    weight = model.fc.weight.detach().clone()
    made = make(copy.deepcopy(model))
    assert [r.matches for r in engine.apply(made, rules).report.rules] == [1, 1]
    found = made(x) if isinstance(made, fx.GraphModule) else made.module()(x)
    expected = F.linear(x.sigmoid(), (weight + 1) * 2, model.fc.bias)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("own", ["", "own "])
@pytest.mark.parametrize("make", [fx.symbolic_trace, lambda m: exported_of(m)])
def test_what_a_rule_has_stored_has_readers(make: Any, own: str) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.full((4,), 0.5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sin(x * self.w)

    rules = loads(
        f"""
        rule a once {{
          z = sin(mul(x, w))  where w is const
        => param d = w * 1  z' = add(mul(x, d), cos(mul(x, d))) }}
        rule b {{ y = cos(mul(x, v)) => {own}v <- v * 2  y' = exp(mul(x, v)) }}
        """
    )
    made, x = make(Scaled()), torch.randn(2, 4)
    refusals = engine.apply(made, rules).report.refusals
    found = made(x) if isinstance(made, fx.GraphModule) else made.module()(x)
    if own:
        assert not refusals
        torch.testing.assert_close(found, x / 2 + x.exp())
    else:
        assert "also reads 'v'" in refusals[0].reason
        torch.testing.assert_close(found, x / 2 + torch.cos(x / 2))


def test_each_link_of_a_chain_is_written_with_what_it_reads() -> None:
    rules = loads("""
    pattern step(v, s, t) = add(mul(v, s), t) | sub(v, t)
    rule r once { z = neg(step^+(cos(x), s, t))
                  => s <- s * t  t <- t + 1  keep z }
    """)
    graph, root = fx.Graph(), nn.Module()
    held = {f"c{i}": torch.full((3,), 2.0 + i) for i in range(5)}
    for name, tensor in held.items():
        root.register_buffer(name, tensor)
    s0, t0, t1, s2, t2 = (graph.create_node("get_attr", name) for name in held)
    call = graph.call_function
    value = call(torch.cos, (graph.placeholder("x"),))
    value = call(torch.add, (call(torch.mul, (value, s0)), t0))
    value = call(torch.sub, (value, t1))
    value = call(torch.add, (call(torch.mul, (value, s2)), t2))
    graph.output(call(torch.neg, (value,)))
    gm = fx.GraphModule(root, graph)
    assert engine.apply(gm, rules).modified
    found = [getattr(gm, name)[0].item() for name in held]
    assert found == [2.0 * 3, 3.0 + 1, 4.0 + 1, 5.0 * 6, 6.0 + 1]


def test_what_is_computed_is_not_written() -> None:
    class Double(nn.Module):
        def forward(self, w: torch.Tensor) -> torch.Tensor:
            return w * 2

    root, graph = Layer(), fx.Graph()
    nn.utils.parametrize.register_parametrization(root.fc, "weight", Double())
    x = graph.placeholder("x")
    weight = graph.create_node("get_attr", "fc.weight")
    graph.output(graph.call_function(F.linear, (graph.call_module("fc", (x,)), weight)))
    assert "is computed" in reasons(fx.GraphModule(root, graph), DOUBLE)[0]


# --- undoing ---


def test_a_failed_run_restores_the_very_objects() -> None:
    rules = loads("rule r fixpoint { y = linear(x, w, b?) => w <- w * 2  keep y }")
    gm = fx.symbolic_trace(Layer())
    old = gm.fc.weight
    with pytest.raises(RewriteError, match="sweeps"):
        engine.apply(gm, rules)
    assert gm.fc.weight is old
    program = torch.export.export(Layer(), (torch.randn(2, 4),))
    old = program.state_dict["fc.weight"]
    with pytest.raises(RewriteError, match="sweeps"):
        engine.apply(program, rules)
    assert program.state_dict["fc.weight"] is old


def test_a_failed_run_takes_back_private_copies() -> None:
    rules = loads(ONE.replace("w <-", "own w <-").replace("once", "fixpoint"))
    gm = fx.symbolic_trace(Shared("twice"))
    code = gm.code
    with pytest.raises(RewriteError, match="sweeps"):
        engine.apply(gm, rules)
    assert [name for name, _ in gm.named_children()] == ["one"]
    gm.recompile()
    assert gm.code == code


# --- observers, and the state at first ---


def test_the_range_of_an_observer() -> None:
    rules = loads("""
    op observer = ao.MinMaxObserver
    rule r once {
      y = observer(x, min_val=lo, max_val=hi, ..)
    =>
      lo <- lo * 2
      hi <- hi * 2
      keep y
    }
    """)
    graph = fx.Graph()
    graph.output(graph.call_module("m", (graph.placeholder("x"),)))
    observer = MinMaxObserver()
    observer(torch.tensor([-1.0, 3.0]))
    gm = fx.GraphModule({"m": observer}, graph)
    assert engine.apply(gm, rules).report.rules[0].matches == 1
    assert (gm.m.min_val.item(), gm.m.max_val.item()) == (-2.0, 6.0)
    assert [n.op for n in gm.graph.nodes] == ["placeholder", "call_module", "output"]


def test_writes_of_several_sites_compose_and_initial_is_the_state_at_entry() -> None:
    rules = loads("""
    rule r once {
      y = linear(relu(linear(x, v)), w)
    =>
      value s = amax(abs(initial(v)), [0, 1])
      v <- v * s
      w <- w / s
      keep y
    }
    """)
    layers = [nn.Linear(3, 3, bias=False) for _ in range(3)]
    one, two, three = (layer.weight.detach().clone() for layer in layers)
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    gm = fx.symbolic_trace(model)
    assert engine.apply(gm, rules).report.rules[0].matches == 2
    s, t = one.abs().max(), two.abs().max()
    found = [gm.get_submodule(name).weight.detach() for name in "024"]
    for value, expected in zip(found, (one * s, two / s * t, three / t), strict=True):
        torch.testing.assert_close(value, expected)


def test_instances_run_with_what_is_written() -> None:
    rules = loads("rule r once { y = linear(x, w, b) => w <- w * 2  keep y }")
    x, w, b = torch.randn(2, 4), torch.randn(3, 4), torch.randn(3)
    for instance in rules["r"].instances():
        given = {"x": x, "w": w, "b": b}
        names = [
            n.target for n in instance.replacement.graph.find_nodes(op="placeholder")
        ]
        (result,) = instance.replacement(*(given[str(name)] for name in names))
        assert torch.equal(result, F.linear(x, w * 2, b))
