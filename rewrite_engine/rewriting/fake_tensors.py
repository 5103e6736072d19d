"""Fake tensors of known types, made without running an operator."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorConfig, FakeTensorMode
from torch.utils._mode_utils import no_dispatch

from rewrite_engine.tensor_types import TensorType

_META: Final = torch.device("meta")
_INTERNALS_KNOWN: Final = torch.__version__.startswith("2.13.")


class FakeTensors:
    """Makes fake tensors of one mode."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self._mode = mode
        # What the constructor gives every tensor of a device.
        self._attributes: dict[torch.device, dict[str, Any]] = {}

    def fresh(self, kind: TensorType) -> FakeTensor:
        """A fake tensor with memory of its own."""
        dtype, shape, stride, device = kind
        with no_dispatch():
            meta = torch.empty_strided(shape, stride, dtype=dtype, device=_META)
        return self._over(meta, device)

    def view(self, base: FakeTensor, kind: TensorType) -> FakeTensor:
        """A fake tensor over the memory of `base`, from its first element on."""
        dtype, shape, stride, device = kind
        storage, offset = base.untyped_storage(), base.storage_offset()
        with no_dispatch():
            meta = torch.empty(0, dtype=dtype, device=_META)
            meta.set_(storage, offset, shape, stride)
        return self._over(meta, device)

    def _over(self, meta: torch.Tensor, device: torch.device) -> FakeTensor:
        attributes = self._attributes.get(device)
        if attributes is None:
            value = FakeTensor(self._mode, meta, device)
            if _makes_all_alike():
                self._attributes[device] = dict(vars(value))
            return value
        # What the constructor does, at a quarter of its cost.
        value = torch.Tensor._make_subclass(
            FakeTensor,
            meta,
            False,
            dispatch_device=True,
            device_for_backend_keys=device,
        )
        if self._mode._allow_unsafe_data_ptr_access:
            torch._C._set_warn_deprecated_on_mutable_data_ptr(value)
        else:
            torch._C._set_throw_on_mutable_data_ptr(value)
        value.__dict__ = attributes.copy()
        return value


def _makes_all_alike() -> bool:
    """Whether the constructor of fake tensors does what is known here, and no more."""
    exporting = torch.compiler.is_exporting()
    return _INTERNALS_KNOWN and not exporting and not FakeTensorConfig.debug
