"""On a GPU: results are those of eager models, and nothing changes its place.

Skipped without one; `README.md` says on what these were last run.
"""

from __future__ import annotations

import copy
import io
import operator
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.export import ExportedProgram

from benches.models import ConvBn, randomise_batch_norms
from rewrite_engine import engine, load, loads
from rewrite_engine.equalize import UncalibratedWarning, convert, prepare
from rewrite_engine.equivalence import assert_equivalent
from rewrite_engine.graph_text import graph_text

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

GPU = torch.device("cuda", 0)
FORMATS = [torch.contiguous_format, torch.channels_last]
FORMAT_IDS = ["contiguous", "channels_last"]
DTYPES = [torch.float32, torch.bfloat16]
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2}


@pytest.fixture(autouse=True)
def _exact_products() -> Iterator[None]:
    """Products of float32 are computed in float32."""
    with torch.backends.cudnn.flags(allow_tf32=False, deterministic=True):
        yield


def network() -> nn.Module:
    """Convolutions, one of them transposed with groups, and a linear layer, each with a
    BatchNorm.
    """
    grouped = nn.ConvTranspose2d(8, 8, 3, groups=2, bias=False)
    model = nn.Sequential(
        ConvBn(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8, eps=1e-2), nn.ReLU()),
        ConvBn(grouped, nn.BatchNorm2d(8, affine=False)),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 5),
        nn.BatchNorm1d(5),
    )
    return randomise_batch_norms(model)


def tensors(model: nn.Module | ExportedProgram) -> dict[str, torch.Tensor]:
    if isinstance(model, ExportedProgram):
        return {**model.state_dict, **model.constants}
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def where(model: nn.Module | ExportedProgram) -> set[torch.device]:
    return {tensor.device for tensor in tensors(model).values()}


def error(actual: torch.Tensor, truth: torch.Tensor) -> float:
    """The largest one, relative to the largest magnitude."""
    actual, truth = actual.detach().double(), truth.detach()
    return float((actual - truth).abs().max() / truth.abs().max())


# --- folded and fused ---


@pytest.mark.parametrize("kind", ["program", "module", "core ATen"])
@pytest.mark.parametrize("memory_format", FORMATS, ids=FORMAT_IDS)
@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES])
def test_bn_fold(dtype, memory_format, kind):
    model = network().eval().to(GPU, dtype).to(memory_format=memory_format)
    x = torch.randn(4, 3, 8, 8, device=GPU, dtype=dtype)
    x = x.to(memory_format=memory_format)
    made: Any = torch.export.export(copy.deepcopy(model), (x,))
    if kind == "core ATen":
        made = made.run_decompositions()
    elif kind == "module":
        made = made.module()
    report = engine.apply(made, load("bn_fold")).report
    assert report.matches == 3 and not report.refusals

    folded = made if kind == "module" else made.module()
    truth = copy.deepcopy(model).double()(x.double())
    assert error(folded(x), truth) <= TOLERANCES[dtype]
    assert error(folded(x), truth) <= 4 * error(model(x), truth) + 1e-15
    assert where(made) == {GPU}
    parameters = dict(folded.named_parameters())
    assert {parameter.dtype for parameter in parameters.values()} == {dtype}
    weights = [p for p in parameters.values() if p.ndim == 4]
    assert len(weights) == 2
    assert all(w.is_contiguous(memory_format=memory_format) for w in weights)


@pytest.mark.parametrize("memory_format", FORMATS, ids=FORMAT_IDS)
@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES])
def test_qat_fuse_and_fold(dtype, memory_format):
    model = network().train().to(GPU, dtype).to(memory_format=memory_format)
    x = torch.randn(8, 3, 8, 8, device=GPU, dtype=dtype)
    x = x.to(memory_format=memory_format)
    before = torch.export.export(model, (x,)).module()
    gm = torch.export.export(model, (x,)).module()
    report = engine.apply(gm, load("qat_fuse")).report
    assert report.matches == 3 and not report.refusals

    rtol = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 6e-2}[dtype]
    is_exact = dtype is not torch.bfloat16  # of eight bits, gradients keep few
    assert_equivalent(before, gm, (x,), rtol=rtol, check_gradients=is_exact)
    truth = copy.deepcopy(model).double()(x.double())
    assert error(gm(x), truth) <= rtol
    assert {n.meta["val"].device for n in gm.graph.nodes if _is_float(n)} == {GPU}

    if dtype is torch.float64:
        aten = torch.ops.aten
        for norm in gm.graph.find_nodes(
            op="call_function", target=aten.batch_norm.default
        ):
            norm.update_arg(5, False)
        gm.recompile()
        trained = gm(x)
        assert engine.apply(gm, load("qat_fold")).report.matches >= 3
        assert error(gm(x), trained) <= 1e-10
    assert where(gm) == {GPU}


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


# --- ranges moved between layers ---


def perceptron() -> nn.Module:
    layers = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5)
    model = nn.Sequential(nn.LayerNorm(6), *layers).double().eval()
    with torch.no_grad():
        model[1].weight.mul_(torch.logspace(-2, 2, 8, dtype=torch.float64)[:, None])
        model[0].weight[3] = 40.0
    return model.to(GPU)


@torch.no_grad()
def test_cross_layer_equalization():
    model, x = perceptron(), torch.randn(5, 6, device=GPU, dtype=torch.float64)
    program = torch.export.export(copy.deepcopy(model), (x,))
    assert engine.apply(program, load("cross_layer")).report.matches == 2
    assert error(program.module()(x), model(x)) < 1e-10
    assert not torch.equal(program.state_dict["1.weight"], model[1].weight)
    assert where(program) == {GPU}


@pytest.mark.parametrize("rules", ["equalize", "smoothquant"])
@torch.no_grad()
def test_equalization_of_what_was_observed(rules):
    model, x = perceptron(), torch.randn(64, 6, device=GPU, dtype=torch.float64)
    prepared = prepare(torch.export.export(model, (x,)).module())
    assert where(prepared) == {GPU}
    prepared(x)
    equalized = convert(prepared, rules)
    assert error(equalized(x), model(x)) < 1e-10
    assert not torch.equal(equalized.get_parameter("3.weight"), model[3].weight)
    assert where(equalized) == {GPU}


@torch.no_grad()
def test_what_was_not_observed_is_equalized_by_ones():
    model, x = perceptron(), torch.randn(64, 6, device=GPU, dtype=torch.float64)
    prepared = prepare(torch.export.export(model, (x,)).module())
    with pytest.warns(UncalibratedWarning):
        equalized = convert(prepared)
    assert error(equalized(x), model(x)) < 1e-10
    assert where(equalized) == {GPU}


# --- two devices in one program ---


class Halves(nn.Module):
    """Layers that take turns on the CPU and the GPU, several of each alike."""

    def __init__(self) -> None:
        super().__init__()
        blocks = (ConvBn(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)) for _ in range(8))
        self.blocks = nn.ModuleList(blocks)
        randomise_batch_norms(self).eval()
        for block in self.blocks[1::2]:
            block.to(GPU)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number, block in enumerate(self.blocks):
            x = block(x.to("cuda:0" if number % 2 else "cpu"))
        return x


@pytest.mark.parametrize("kind", ["program", "module"])
def test_each_layer_is_folded_where_it_lies(kind):
    model, x = Halves(), torch.randn(2, 4, 5, 5)
    made: Any = torch.export.export(copy.deepcopy(model), (x,))
    made = made if kind == "program" else made.module()
    assert engine.apply(made, load("bn_fold")).report.matches == 8
    folded = made.module() if kind == "program" else made
    assert error(folded(x), model(x).double()) < 1e-5
    convs = made.graph.find_nodes(
        op="call_function", target=torch.ops.aten.conv2d.default
    )
    places = [conv.args[1].meta["val"].device for conv in convs]
    assert places == [torch.device("cpu"), GPU] * 4
    assert where(made) == {torch.device("cpu"), GPU}


def test_a_guard_asks_for_the_device():
    rules = loads("""
    ## The negated absolute value, where a kernel for it would be.
    rule r { z = neg(abs(x)) where device(x) == "cuda" => z' = mul(abs(x), -1) }
    """)

    class Both(nn.Module):
        def forward(self, x, y):
            return -x.abs(), -y.abs()

    x = torch.randn(3)
    program = torch.export.export(Both(), (x, x.to(GPU)))
    assert engine.apply(program, rules).report.matches == 1
    (left,) = program.graph.find_nodes(
        op="call_function", target=torch.ops.aten.neg.default
    )
    assert left.meta["val"].device.type == "cpu"


class Factors(nn.Module):
    """x * a * b, for scalars or vectors on any devices."""

    def __init__(self, a: torch.Tensor, b: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("a", a)
        self.register_buffer("b", b)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.a * self.b


PRODUCT = "rule r { z = mul(mul(x, a), b) => buffer c = a * b  z' = mul(x, c) }"


@pytest.mark.parametrize("kind", ["program", "traced"])
@pytest.mark.parametrize(
    ("first", "second", "shape", "expected"),
    [
        ("cpu", "cuda", [3], "cuda"),
        ("cpu", "cpu", [], "cpu"),
        ("cuda", "cpu", [], "cuda"),
    ],
)
def test_scalars_on_the_cpu(first, second, shape, expected, kind):
    scalar, other = torch.tensor(2.0), torch.full(shape, 3.0)
    model = Factors(scalar.to(first), other.to(second))
    x = torch.randn(3, device=GPU)
    made: Any = fx.symbolic_trace(model)
    if kind == "program":
        made = torch.export.export(model, (x,))
    wanted = model(x)
    assert engine.apply(made, loads(PRODUCT)).report.matches == 1
    run = made.module() if kind == "program" else made
    assert run(x).device == GPU and error(run(x), wanted.double()) < 1e-6
    assert [tensor.device.type for tensor in tensors(made).values()] == [expected]


def test_constants_of_two_devices_make_none():
    gm = fx.symbolic_trace(Factors(torch.ones(3), torch.ones(3, device=GPU)))
    before = graph_text(gm)
    (refusal,) = engine.apply(gm, loads(PRODUCT)).report.refusals
    assert "a constant cannot be computed" in refusal.reason
    assert "device" in refusal.reason
    assert graph_text(gm) == before


def test_a_result_does_not_move():
    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("a", torch.tensor(2.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - self.a

    program = torch.export.export(Shift(), (torch.tensor(1.0, device=GPU),))
    rules = loads("rule r { z = sub(x, a) => z' = neg(a) }")
    (refusal,) = engine.apply(program, rules).report.refusals
    assert "device cuda:0 would become cpu" in refusal.reason


def test_a_write_does_not_move_a_tensor():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).to(GPU))
    for own in ("", "own "):
        gm = fx.symbolic_trace(copy.deepcopy(model))
        rules = loads(f"""
        rule r once {{
          z = linear(linear(x, w, b?), v, c?)
        =>
          {own}v <- w * 2
          keep z
        }}
        """)
        (refusal,) = engine.apply(gm, rules).report.refusals
        assert refusal.reason == "'v' is on cuda:0, and would be on cpu"
        assert torch.equal(gm.get_parameter("1.weight"), model[1].weight)


def test_what_a_hook_returns_stays_where_it_is():
    def away(w: torch.Tensor) -> torch.Tensor:
        return w.cpu()

    rules = loads(
        """
        use acme.hooks (away)
        rule r once { z = neg(mul(x, w)) => param c = away(w)  z' = mul(x, c) }
        """,
        hooks={"acme.hooks": {"away": away}},
    )
    for weight in (torch.randn(3, 3), torch.randn(3, 3).t()):
        root = nn.Module()
        root.w = nn.Parameter(weight.to(GPU))
        graph = fx.Graph()
        x, w = graph.placeholder("x"), graph.get_attr("w")
        product = graph.call_function(operator.mul, (x, w))
        graph.output(graph.call_function(operator.neg, (product,)))
        gm = fx.GraphModule(root, graph)
        engine.apply(gm, rules)
        assert {p.device.type for p in gm.parameters()} == {"cpu"}


# --- afterwards ---


@pytest.mark.parametrize("library", ["bn_fold", "qat_fuse", "cross_layer"])
@pytest.mark.parametrize("kind", ["program", "module"])
def test_a_failure_leaves_everything_as_it_was(kind, library):
    model: nn.Module = nn.Sequential(network(), nn.Linear(5, 4), nn.ReLU())
    model = nn.Sequential(*model, nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).to(GPU)
    model.train(library == "qat_fuse")
    x = torch.randn(4, 3, 8, 8, device=GPU)
    made: Any = torch.export.export(model, (x,))
    made = made if kind == "program" else made.module()
    state = tensors(made)
    before = {name: tensor.clone() for name, tensor in state.items()}
    marks = {name: (id(t), t.data_ptr(), t._version) for name, t in state.items()}
    text = graph_text(made)

    def second(match: Any) -> None:
        seen.append(match)
        if len(seen) == 2:
            raise KeyboardInterrupt

    seen: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        engine.apply(made, load(library), guard=second)
    after = tensors(made)
    assert graph_text(made) == text
    assert {n: (id(t), t.data_ptr(), t._version) for n, t in after.items()} == marks
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_rewritten_program_is_saved_decomposed_and_compiled():
    model, x = network().eval().to(GPU), torch.randn(4, 3, 8, 8, device=GPU)
    program = torch.export.export(model, (x,))
    engine.apply(program, load("bn_fold"))
    program.validate()
    expected = model(x).double()
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file)
    compiled = torch.compile(program.module(), backend="aot_eager")
    for run in (loaded.module(), program.run_decompositions().module(), compiled):
        assert error(run(x), expected) < 1e-5
    assert where(loaded) == {GPU}


def test_inductor_compiles_what_rules_made():
    rules = loads("rule r { z = mul(x, sigmoid(x)) where x: f32 => z' = silu(x) }")
    x = torch.randn(64, device=GPU)
    torch._dynamo.reset()
    with rules.inductor_pass(), torch.no_grad():
        y = torch.compile(lambda x: x * torch.sigmoid(x))(x)
    assert error(y, torch.nn.functional.silu(x.double())) < 1e-6


def test_the_command_line(run, here):
    model, x = network().eval().to(GPU), torch.randn(4, 3, 8, 8, device=GPU)
    torch.export.save(torch.export.export(model, (x,)), here / "model.pt2")
    status, _, errors = run("apply", "model.pt2", "bn_fold", "-o", "out.pt2")
    assert status == 0, errors
    loaded = torch.export.load(here / "out.pt2")
    assert error(loaded.module()(x), model(x).double()) < 1e-5
    assert where(loaded) == {GPU}
    assert run("explain", "model.pt2", "bn_fold")[0] == 0


def test_models_are_compared_where_they_lie():
    model, x = nn.Dropout(0.5), torch.randn(100, device=GPU)
    assert_equivalent(model, copy.deepcopy(model), (x,))
    with pytest.raises(AssertionError, match="elements differ"):
        assert_equivalent(model, nn.Dropout(0.2), (x,))
    with pytest.raises(AssertionError, match=r"on cuda:0 became .* on cpu"):
        assert_equivalent(nn.Identity(), lambda x: x.cpu(), (x,))


def test_rules_are_verified_on_the_cpu():
    verification = engine.verify(load("bn_fold"), trials=0, most_instances=3)
    assert verification.passed and verification.rules[0].compared
