"""torchao exports its pattern graphs at every call; tests let it do so once each, and
only for the convolutions that a model has.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import pytest
import torch
from torch.fx import GraphModule
from torchao.quantization.pt2e import qat_utils, utils
from torchao.testing.pt2e import _xnnpack_quantizer_utils

_EXPORT = "_get_aten_graph_module_for_pattern"
_HELPERS = ("_fuse_conv_bn_qat_helper", "_fold_conv_bn_qat_helper")
_exported = utils._get_aten_graph_module_for_pattern
_memo: dict[Hashable, GraphModule] = {}


def _key(value: Any) -> Hashable:
    """What an export depends on: the pattern function and the kinds of its inputs."""
    if isinstance(value, torch.Tensor):
        return (tuple(value.shape), value.dtype)
    if isinstance(value, (tuple, list)):
        return tuple(map(_key, value))
    if isinstance(value, dict):
        return tuple((key, _key(item)) for key, item in value.items())
    function = getattr(value, "fn", value)
    code = getattr(function, "__code__", None)
    if code is None:
        return value
    cells = tuple(cell.cell_contents for cell in function.__closure__ or ())
    return (code, cells)


def _export(*args: Any, **kwargs: Any) -> GraphModule:
    key = _key(args), _key(kwargs)
    if key not in _memo:
        _memo[key] = _exported(*args, **kwargs)
    return copy.deepcopy(_memo[key])


def _only_if_present(helper: Callable[..., GraphModule]) -> Callable[..., GraphModule]:
    """One of torchao's passes for one kind of convolution."""

    def run(
        gm: GraphModule, kind: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        wanted = f"aten.{kind.__name__}."
        present = any(str(n.target).startswith(wanted) for n in gm.graph.nodes)
        return helper(gm, kind, *args, **kwargs) if present else gm

    return run


@pytest.fixture(scope="module", autouse=True)
def _patterns_are_exported_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (utils, qat_utils, _xnnpack_quantizer_utils):
            patch.setattr(module, _EXPORT, _export)
        for name in _HELPERS:
            helper = getattr(qat_utils, name)
            patch.setattr(qat_utils, name, _only_if_present(helper))
        yield
