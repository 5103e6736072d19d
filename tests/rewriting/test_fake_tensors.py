"""Quickly made fake tensors are what torch's constructor makes."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from rewrite_engine.rewriting import fake_tensors
from rewrite_engine.rewriting.fake_tensors import FakeTensors
from rewrite_engine.tensor_types import TensorType, type_of

KIND = TensorType(torch.float64, (2, 3), (3, 1), torch.device("cpu"))


def made(known: bool) -> tuple[FakeTensor, FakeTensor]:
    """A tensor and a view of another; the second of each, made the quick way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_tensors, "_INTERNALS_KNOWN", known)
        fakes = FakeTensors(FakeTensorMode())
        fakes.fresh(KIND)
        fresh = fakes.fresh(KIND)
        return fresh, fakes.view(fresh, KIND._replace(shape=(6,), stride=(1,)))


def test_they_are_as_torch_makes_them() -> None:
    for quick, slow in zip(made(True), made(False), strict=True):
        assert type_of(quick) == type_of(slow)
        assert vars(quick) | {"fake_mode": None} == vars(slow) | {"fake_mode": None}
        assert torch._C._dispatch_keys(quick) == torch._C._dispatch_keys(slow)
        assert quick.requires_grad is slow.requires_grad is False


def test_each_has_memory_of_its_own_and_a_view_does_not() -> None:
    fresh, view = made(True)
    other = FakeTensors(fresh.fake_mode).fresh(KIND)
    assert view.untyped_storage()._cdata == fresh.untyped_storage()._cdata
    assert other.untyped_storage()._cdata != fresh.untyped_storage()._cdata
    assert vars(view) is not vars(fresh)


def test_operators_take_them_and_their_data_is_out_of_reach() -> None:
    fresh, view = made(True)
    with fresh.fake_mode:
        assert (fresh @ fresh.T).shape == (2, 2)
        assert view.sum().fake_mode is fresh.fake_mode
    with pytest.warns(UserWarning, match="data pointer"):
        fresh.data_ptr()


def test_they_are_made_without_the_constructor(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = FakeTensors(FakeTensorMode())
    fakes.fresh(KIND)
    monkeypatch.setattr(fake_tensors, "_makes_all_alike", pytest.fail)
    assert type_of(fakes.fresh(KIND)) == KIND
