"""What `qat_fold` does to the state of a model: new parameters come, unread ones go."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.export import Dim

from benches.models import ConvBn, capture, randomise_batch_norms
from rewrite_engine import engine, load
from tests.qat.models import Two

FUSE, FOLD = load("qat_fuse"), load("qat_fold")


def pair(**options) -> ConvBn:
    return ConvBn(nn.Conv2d(3, 4, 3, **options), nn.BatchNorm2d(4, eps=1e-3))


def model() -> nn.Module:
    torch.manual_seed(0)
    second = ConvBn(nn.Conv2d(4, 3, 3, bias=False), nn.BatchNorm2d(3))
    return randomise_batch_norms(nn.Sequential(pair(), nn.ReLU(), second)).train()


X = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def fused(module: nn.Module) -> torch.fx.GraphModule:
    gm = capture(module.train(), (X,))
    assert engine.apply(gm, FUSE).modified
    return gm


def folded(module: nn.Module) -> torch.fx.GraphModule:
    return engine.apply(fused(module), FOLD).graph_module


def assert_evaluates_as(gm: torch.fx.GraphModule, module: nn.Module) -> None:
    with torch.no_grad():
        torch.testing.assert_close(gm(X), module.eval()(X), rtol=1e-5, atol=1e-5)


# --- a GraphModule ---


def test_only_what_is_read_is_left():
    gm = folded(model())
    assert sorted(gm.state_dict()) == [
        "0_conv_bias_bf",
        "0_conv_weight_wf",
        "2_bn_bias_bf",
        "2_conv_weight_wf",
    ]
    assert_evaluates_as(gm, model())


def test_a_second_run_changes_nothing():
    gm = folded(model())
    code = gm.code
    assert not engine.apply(gm, FOLD).modified
    assert gm.code == code


def test_dtype_format_and_training_are_those_of_the_originals():
    module = model().to(memory_format=torch.channels_last)
    module[0].conv.weight.requires_grad_(False)
    gm = folded(module)
    weight = gm.get_parameter("0_conv_weight_wf")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert weight.dtype == torch.float32 and not weight.requires_grad
    assert gm.get_parameter("0_conv_bias_bf").requires_grad
    assert gm.get_parameter("2_conv_weight_wf").requires_grad


def _tied_weight() -> nn.Module:
    module = Two(pair(), pair())
    module.second.conv.weight = module.first.conv.weight
    return module


def _tied_bias() -> nn.Module:
    module = Two(pair(), pair())
    module.second.conv.bias = module.first.conv.bias
    return module


def _one_convolution() -> nn.Module:
    module = Two(pair(), pair())
    module.second.conv = module.first.conv
    return module


def _one_pair() -> nn.Module:
    module = Two(pair(), pair())
    module.second = module.first
    return module


def _weight_in_a_buffer() -> nn.Module:
    module = Two(pair(), pair())
    weight = module.first.conv.weight.detach().clone()
    del module.first.conv.weight
    module.first.conv.register_buffer("weight", weight)
    return module


SHARED = {
    "nothing": lambda: Two(pair(), pair()),
    "weight": _tied_weight,
    "bias": _tied_bias,
    "convolution": _one_convolution,
    "pair": _one_pair,
    "weight in a buffer": _weight_in_a_buffer,
}


@pytest.mark.parametrize("shared", SHARED)
def test_shared_state_is_folded_for_each_reader(shared):
    module = randomise_batch_norms(SHARED[shared]())
    gm = folded(copy.deepcopy(module))
    assert not gm.graph.find_nodes(
        op="call_function", target=torch.ops.aten.batch_norm.default
    )
    assert gm.state_dict().keys() == {
        n.target for n in gm.graph.find_nodes(op="get_attr")
    }
    assert_evaluates_as(gm, module)


class AlsoRead(ConvBn):
    """The weight and gamma are read outside of the pair as well."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.conv.weight.mean() + self.bn.weight.sum()


def test_state_that_is_read_elsewhere_stays():
    module = AlsoRead(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    gm = folded(randomise_batch_norms(module))
    names = ["bn.weight", "conv.weight", "conv_bias_bf", "conv_weight_wf"]
    assert sorted(gm.state_dict()) == names
    assert_evaluates_as(gm, module)


class Counting(ConvBn):
    """Counts calls in a buffer of its BatchNorm, and returns what torch counts."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.bn.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.bn.calls.add_(1)
        return super().forward(x), self.bn.num_batches_tracked + 0


@pytest.mark.parametrize("form", ["module", "program"])
def test_only_the_counter_of_batches_stands_still(form):
    program = torch.export.export(Counting().train(), (X,))
    model = program.module() if form == "module" else program
    assert engine.apply(model, FUSE).modified
    assert engine.apply(model, FOLD).modified
    gm = model if form == "module" else model.module()
    assert [gm(X)[1].item() for _ in range(2)] == [0, 0]
    assert gm.get_buffer("bn.calls").item() == 2
    if form == "program":
        program.validate()


def without_metadata(graph: torch.fx.Graph, *kept: str) -> None:
    for node in graph.nodes:
        if node.op not in kept:
            node.meta.clear()


@pytest.mark.parametrize("form", ["module", "program"])
def test_nothing_is_read_from_metadata_that_is_not_there(form):
    program = torch.export.export(model(), (X,))
    subject = program.module() if form == "module" else program
    assert engine.apply(subject, FUSE).report.matches == 2
    # torch itself cannot read a program whose inputs have none.
    without_metadata(subject.graph, *(["placeholder"] if form == "program" else []))
    assert engine.apply(subject, FOLD).report.matches == 4  # two pairs, two counters
    gm = subject if form == "module" else subject.module()
    assert_evaluates_as(gm, model())


def test_without_metadata_no_pair_is_fused():
    gm = capture(model(), (X,))
    without_metadata(gm.graph)
    result = engine.apply(gm, FUSE)
    reasons = [refusal.reason for refusal in result.report.refusals]
    assert len(reasons) == 2 and not result.modified
    assert all("no rank is recorded" in reason for reason in reasons)


class OneNormTwice(nn.Module):
    """A BatchNorm after a convolution and, once more, after nothing that folds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.bn(self.conv(x)) + 1)


def test_a_norm_that_is_not_folded_goes_on_training():
    gm = fused(OneNormTwice())
    code = gm.code
    result = engine.apply(gm, FOLD)
    assert not result.modified and gm.code == code
    reasons = {refusal.rule: refusal.reason for refusal in result.report.refusals}
    assert "may write the constant" in reasons["fold_conv_bn"]
    assert "what is not folded" in reasons["stop_training"]


class WithoutGrad(nn.Module):
    """A pair that is frozen by `no_grad`, which becomes a graph of its own, and one."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = ConvBn(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))
        self.pair = pair()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = self.frozen(x)
        return self.pair(y)


def test_a_graph_that_writes_other_constants_is_no_obstacle():
    module = randomise_batch_norms(WithoutGrad())
    gm = fused(module)
    report = engine.apply(gm, FOLD).report
    assert report.matches == 2 and not report.refusals
    module.train()
    module.pair.eval()
    torch.testing.assert_close(gm(X), module(X), rtol=1e-5, atol=1e-5)


def test_a_negative_variance_is_refused():
    gm = fused(model())
    gm.get_buffer("0.bn.running_var").fill_(-1.0)
    result = engine.apply(gm, FOLD)
    assert result.report.matches == 2  # the other pair, and its counter
    assert [r for r in result.report.refusals if "not finite" in r.reason]


def test_a_failure_brings_everything_back(monkeypatch):
    gm = fused(model())
    state = {name: id(tensor) for name, tensor in gm.state_dict(keep_vars=True).items()}
    code = gm.code
    monkeypatch.setattr("rewrite_engine.rewriting.lazy_code.recompile", _fail)
    with pytest.raises(MemoryError):
        engine.apply(gm, FOLD)
    restored = gm.state_dict(keep_vars=True)
    assert [(name, id(tensor)) for name, tensor in restored.items()] == [*state.items()]
    gm.recompile()
    assert gm.code == code


def _fail(*_: object) -> None:
    raise MemoryError


# --- an ExportedProgram ---


@pytest.fixture(scope="module")
def program() -> torch.export.ExportedProgram:
    batch = {0: Dim("batch", min=2)}
    program = torch.export.export(model(), (X,), dynamic_shapes=(batch,))
    assert engine.apply(program, FUSE).report.matches == 2
    assert engine.apply(program, FOLD).report.matches == 4
    return program


def test_a_program_holds_what_it_reads(program):
    names = {spec.target for spec in program.graph_signature.input_specs}
    assert names - {None} == program.state_dict.keys()
    assert len(program.state_dict) == 4 and not program.constants
    program.validate()


@pytest.mark.parametrize("batch", [2, 5])
def test_a_program_is_right_for_every_batch(program, batch):
    x = torch.randn(batch, 3, 9, 9)
    expected = model().eval()(x)
    torch.testing.assert_close(program.module()(x), expected, rtol=1e-5, atol=1e-5)


def test_a_program_survives_saving_and_decomposition(program):
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    expected = model().eval()(X)
    for again in (torch.export.load(file), program.run_decompositions()):
        again.validate()
        torch.testing.assert_close(again.module()(X), expected, rtol=1e-5, atol=1e-5)
