"""`qat_fuse` changes no number: outputs, gradients, running statistics.

One exported model a convolution kind and dtype holds every variant as a branch of its
own, so that each variant is checked without an export of its own. The untouched
exported model is the oracle.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import attrs
import pytest
import torch
from torch import nn

from benches.models import ConvBn, capture, randomise_batch_norms
from tests.qat.models import BY_RANK, Branches

CHANNELS = 4
BATCH = 8
SIDES = {1: 14, 2: 6, 3: 6}
KINDS = [(conv, rank) for conv in ("conv", "conv_transpose") for rank in (1, 2, 3)]
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 2e-2}
# What the rank changes is seen in double precision.
CASES = [(conv, rank, torch.float64) for conv, rank in KINDS]
CASES += [("conv", 2, dtype) for dtype in (torch.float32, torch.bfloat16)]
CASES += [("conv_transpose", 1, dtype) for dtype in (torch.float32, torch.bfloat16)]
STEPS = 5
STATISTICS = [(1e-3, 0.01), (1e-5, 0.1), (0.1, 0.7)]


@attrs.frozen
class Variant:
    """One convolution and batch-norm; `padding` is a form, see `_conv`."""

    padding: str
    bias: bool
    groups: int
    dilation: int
    affine: bool
    eps: float
    momentum: float


def _variants(transposed: bool) -> Iterator[Variant]:
    """Every padding form x bias x groups x affine; the rest takes turns."""
    paddings = ("none", "output") if transposed else ("none", "int", "same", "valid")
    grid = itertools.product(paddings, (True, False), (1, 2, CHANNELS), (True, False))
    for i, (padding, bias, groups, affine) in enumerate(grid):
        dilation = 1 + i // 2 % 2
        eps, momentum = STATISTICS[(i + i // 6) % len(STATISTICS)]
        yield Variant(padding, bias, groups, dilation, affine, eps, momentum)


def _conv(kind: str, rank: int, variant: Variant) -> nn.Module:
    options = {
        "bias": variant.bias,
        "groups": variant.groups,
        "dilation": variant.dilation,
    }
    if kind == "conv_transpose":
        if variant.padding == "output":
            options |= {"stride": 2, "padding": 1, "output_padding": 1}
        return BY_RANK[kind][rank](CHANNELS, 2 * CHANNELS, 3, **options)
    if variant.padding == "int":
        options |= {"stride": 2, "padding": 1}
    if variant.padding in ("same", "valid"):
        options |= {"padding": variant.padding}
    return BY_RANK[kind][rank](CHANNELS, 2 * CHANNELS, 3, **options)


def _branch(kind: str, rank: int, variant: Variant) -> ConvBn:
    norm = BY_RANK["norm"][rank](
        2 * CHANNELS,
        affine=variant.affine,
        eps=variant.eps,
        momentum=variant.momentum,
    )
    return ConvBn(_conv(kind, rank, variant), norm)


def _model(kind, rank, dtype):
    torch.manual_seed(0)
    variants = list(_variants(kind == "conv_transpose"))
    model = Branches([_branch(kind, rank, variant) for variant in variants])
    randomise_batch_norms(model).to(dtype).train()
    inputs = (torch.randn(BATCH, CHANNELS, *(SIDES[rank],) * rank, dtype=dtype),)
    return capture(model, inputs), inputs, variants


def _branch_of(name: str) -> int:
    """`blocks.3.conv.weight` belongs to branch 3, and so does output `3`."""
    return int(name.removeprefix("blocks.").split(".")[0])


def _scales(tensors):
    """Largest magnitude in each branch, by name of the tensor.

    A bias before a batch-norm has a gradient of rounding errors only, so gradients and
    what they did to the parameters are measured by their branch.
    """
    largest = {}
    for name, tensor in tensors.items():
        branch = _branch_of(name)
        largest[branch] = max(largest.get(branch, 0.0), tensor.abs().max().item())
    return {name: largest[_branch_of(name)] for name in tensors}


def _distance(a, b):
    return (a.double() - b.double()).abs().max().item()


def _differences(actual, expected, exact, scales, tolerance):
    """Names and relative errors of the tensors that are out of tolerance.

    What rounding does to the original itself, seen against `exact`, is allowed on top:
    in bfloat16 it depends on the machine, and after some steps exceeds the tolerance.
    """
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        error = _distance(actual[name], tensor) - _distance(tensor, exact[name])
        scale = scales.get(name) or tensor.abs().max().item()
        if not error <= tolerance * scale:
            yield name, error / scale


def _assert_close(actual, expected, exact, variants, tolerance):
    parameters = {name: expected.state[name] for name in expected.gradients}
    triples = (
        (actual.outputs, expected.outputs, exact.outputs, {}),
        (
            actual.gradients,
            expected.gradients,
            exact.gradients,
            _scales(expected.gradients),
        ),
        (actual.state, expected.state, exact.state, _scales(parameters)),
    )
    wrong = [
        f"{name}: {error:.1e} {variants[_branch_of(name)]}"
        for triple in triples
        for name, error in _differences(*triple, tolerance)
    ]
    assert wrong == []


def _exactly(train, gm, inputs):
    """The same training in fp64."""
    return train(copy.deepcopy(gm).double(), tuple(x.double() for x in inputs), STEPS)


@pytest.mark.parametrize(("kind", "rank", "dtype"), CASES, ids=str)
def test_fused_trains_like_the_original(kind, rank, dtype, fuse, train):
    gm, inputs, variants = _model(kind, rank, dtype)
    result = fuse(gm)
    grouped = sum(v.groups > 1 for v in variants) if kind == "conv_transpose" else 0
    assert {rule.name: rule.matches for rule in result.report.rules} == {
        "fuse_conv_bn": len(variants) - grouped,
        "fuse_grouped_conv_transpose_bn": grouped,
    }
    expected = train(gm, inputs, STEPS)
    actual = train(result.graph_module, inputs, STEPS)
    exact = expected
    if dtype is torch.bfloat16:
        exact = _exactly(train, gm, inputs)
    _assert_close(actual, expected, exact, variants, TOLERANCES[dtype])


@pytest.mark.parametrize(("kind", "rank"), KINDS)
def test_zeros_in_gamma_stay_exact(kind, rank, fuse, train):
    gm, inputs, variants = _model(kind, rank, torch.float64)
    for i in (i for i, variant in enumerate(variants) if variant.affine):
        gamma = gm.get_parameter(f"blocks.{i}.bn.weight").data
        gamma[: 1 + i % len(gamma)] = 0.0
    expected, actual = (train(m, inputs, STEPS) for m in (gm, fuse(gm).graph_module))
    assert all(tensor.isfinite().all() for tensor in actual.state.values())
    _assert_close(actual, expected, expected, variants, TOLERANCES[torch.float64])


def test_the_variants_cover_every_combination():
    for transposed, count in ((False, 48), (True, 24)):
        variants = list(_variants(transposed))
        assert len(variants) == len(set(variants)) == count
        for conv_groups in (1, 2, CHANNELS):
            of_groups = [v for v in variants if v.groups == conv_groups]
            assert {v.eps for v in of_groups} == {eps for eps, _ in STATISTICS}
            assert {v.dilation for v in of_groups} == {1, 2}
