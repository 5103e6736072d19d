"""torchao's own entry points with our passes, and torchao left as it was."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable

import pytest
import torch
from torch import fx, nn
from torch.fx import GraphModule
from torchao.quantization.pt2e import quantize_pt2e
from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

from benches.models import ConvBn, capture
from rewrite_engine.integrations import torchao
from rewrite_engine.report import Report
from tests.integrations.quantizers import QUANTIZERS

PASSES = ("_fuse_conv_bn_qat", "_fold_conv_bn_qat")
aten = torch.ops.aten


def passes() -> list[Callable[..., object]]:
    return [getattr(quantize_pt2e, name) for name in PASSES]


def exported() -> GraphModule:
    pair = ConvBn(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3, eps=1e-2)).train()
    return capture(pair, (torch.randn(2, 2, 9),))


def prepared(
    prepare: Callable[..., GraphModule] = prepare_qat_pt2e,
    gm: GraphModule | None = None,
) -> GraphModule:
    return prepare(gm or exported(), QUANTIZERS["per_tensor"]())


def is_ours(gm: GraphModule) -> bool:
    """Whether our fuse made the graph: torchao loses the BatchNorm's eps."""
    (norm,) = gm.graph.find_nodes(op="call_function", target=aten.batch_norm.default)
    return norm.args[7] == 1e-2


@pytest.mark.parametrize("name", ["prepare_qat_pt2e", "convert_pt2e"])
def test_the_signatures_are_torchaos(name: str) -> None:
    ours, theirs = (
        list(inspect.signature(getattr(module, name)).parameters.values())
        for module in (torchao, quantize_pt2e)
    )
    for mine, other in zip(ours, theirs, strict=False):
        assert mine.replace(annotation=None) == other.replace(annotation=None)
    more = ours[len(theirs) :]
    assert [p.name for p in more] == ["on_report"]
    assert more[0].kind is inspect.Parameter.KEYWORD_ONLY


def test_our_entry_points_leave_torchao_alone() -> None:
    before = passes()
    assert is_ours(prepared(torchao.prepare_qat_pt2e))
    assert passes() == before
    assert not is_ours(prepared())


def test_torchaos_entry_points_use_our_passes_inside_only() -> None:
    before, reports = passes(), list[Report]()
    with torchao.patched(on_report=reports.append):
        assert is_ours(prepared())
    assert [report.matches for report in reports] == [1]
    assert passes() == before
    assert not is_ours(prepared())


def test_blocks_nest_and_the_inner_one_reports() -> None:
    before = passes()
    outer, inner = list[Report](), list[Report]()
    with torchao.patched(on_report=outer.append):
        with torchao.patched(on_report=inner.append):
            assert is_ours(prepared())
        assert is_ours(prepared())
        assert passes() != before
    assert len(outer) == len(inner) == 1
    assert passes() == before


# torch's tracing, and so torchao's passes, work in one thread at a time: the threads of
# these tests take turns.


def test_other_threads_keep_torchaos_passes() -> None:
    before, gm, found = passes(), exported(), {}
    turns = threading.Barrier(2)

    def inside() -> None:
        with torchao.patched():
            turns.wait(60)
            turns.wait(60)
            found["inside"] = is_ours(prepared(gm=gm))

    thread = threading.Thread(target=inside)
    thread.start()
    turns.wait(60)
    found["beside"] = is_ours(prepared())
    turns.wait(60)
    thread.join()
    assert found == {"inside": True, "beside": False}
    assert passes() == before


def test_blocks_may_overlap() -> None:
    before, gm, found = passes(), exported(), []
    turns = threading.Barrier(2)

    def other() -> None:
        with torchao.patched():
            turns.wait(60)  # both are inside
            turns.wait(60)  # the first has left
            found.append(is_ours(prepared(gm=gm)))

    thread = threading.Thread(target=other)
    thread.start()
    with torchao.patched():
        turns.wait(60)
    turns.wait(60)
    thread.join()
    assert found == [True]
    assert passes() == before


def test_a_failure_inside_takes_the_patch_back() -> None:
    before = passes()
    with pytest.raises(ZeroDivisionError), torchao.patched():
        1 / 0  # noqa: B018
    assert passes() == before


def test_what_others_patch_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def theirs(gm: GraphModule) -> GraphModule:
        return gm

    with torchao.patched():
        monkeypatch.setattr(quantize_pt2e, PASSES[0], theirs)
    assert passes()[0] is theirs


def test_an_unknown_torchao_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as other:
        other.delattr(quantize_pt2e, PASSES[1])
        with (
            pytest.raises(RuntimeError, match="has no _fold_conv_bn_qat"),
            torchao.patched(),
        ):
            pass
    monkeypatch.setattr(quantize_pt2e, "convert_pt2e", prepare_qat_pt2e)
    with pytest.raises(RuntimeError, match="does not call _fold_conv_bn_qat"):
        torchao.convert_pt2e(fx.GraphModule(nn.Module(), fx.Graph()))
