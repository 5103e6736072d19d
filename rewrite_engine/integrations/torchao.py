"""Quantization-aware training of torchao 0.18 with rules in place of its passes.

`fuse_conv_bn_qat` and `fold_conv_bn_qat` keep the contract of torchao's private
`_fuse_conv_bn_qat` and `_fold_conv_bn_qat`; `prepare_qat_pt2e` and `convert_pt2e` are
torchao's flow around them. torchao itself is left as it is; `patched` is for programs
that call torchao's own entry points.

Places that were left alone are logged, those that a quantizer annotated as warnings.
The keyword `on_report`, which torchao's functions do not have, is called with the
report of each pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from importlib import import_module
from threading import Lock
from types import FunctionType, MappingProxyType
from typing import Any, Final

import attrs
import torch
from torch import fx

from rewrite_engine.engine import load
from rewrite_engine.matching.match import Match
from rewrite_engine.report import Report
from rewrite_engine.ruleset import RuleSet
from rewrite_engine.tensor_types import attribute

__all__ = [
    "convert_pt2e",
    "fold_conv_bn_qat",
    "fuse_conv_bn_qat",
    "patched",
    "prepare_qat_pt2e",
]

OnReport = Callable[[Report], object]

_ENTRY_POINTS: Final = "torchao.quantization.pt2e.quantize_pt2e"
_ANNOTATION: Final = "quantization_annotation"
_NOT_ANNOTATED: Final = "no operand of the convolution is annotated"

_log = logging.getLogger(__name__)
_rules: Callable[[str], RuleSet] = cache(load)


# --- the passes ---


def fuse_conv_bn_qat(
    gm: fx.GraphModule, *, on_report: OnReport | None = None
) -> fx.GraphModule:
    """Fuse each annotated convolution and the BatchNorm after it for training.

    Returns `gm`, changed in place. A pair is left alone, and reported, unless
    `fold_conv_bn_qat` will be able to undo the fusion after training.
    """
    return _apply("qat_fuse", gm, _unfoldable, on_report)


def fold_conv_bn_qat(
    gm: fx.GraphModule, *, on_report: OnReport | None = None
) -> fx.GraphModule:
    """Fold the BatchNorm of each fused pair of a converted model into its convolution.

    Returns `gm`, changed in place; quantize and dequantize nodes stay as they are.
    """
    return _apply("qat_fold", gm, None, on_report)


def _apply(
    library: str,
    gm: fx.GraphModule,
    guard: Callable[[Match], str | None] | None,
    on_report: OnReport | None,
) -> fx.GraphModule:
    report = _rules(library).apply(gm, recurse=True, guard=guard).report
    for refusal in report.refusals:
        wanted = refusal.reason != _NOT_ANNOTATED
        _log.log(logging.WARNING if wanted else logging.INFO, "left alone: %s", refusal)
    if on_report is not None:
        on_report(report)
    return gm


# --- what may be fused ---


def _unfoldable(match: Match) -> str | None:
    """Why fold could not undo the fusion, None if it can."""
    conv, norm = match.bindings["y"], match.bindings["z"]
    if not any(_input_qspecs(conv).values()):
        return _NOT_ANNOTATED
    if _output_qspec(conv) or _input_qspecs(norm).get(conv):
        return "the convolution's output is quantized before the BatchNorm"
    for name in ("w", "b", "gamma", "beta", "mean", "var"):
        node = match.bindings[name]
        if node is not None and not _is_constant(node):
            return (
                f"'{node}' is computed in the graph, so nothing can be folded into it"
            )
        if node is not None and _output_qspec(node):
            return f"'{node}' is quantized before the scale is folded into it"
    if _observes_zeros(_input_qspecs(conv).get(match.bindings["b"])):
        return "the observer of the bias would see zeros, not the folded bias"
    return None


def _input_qspecs(node: fx.Node) -> dict[fx.Node, Any]:
    annotation = node.meta.get(_ANNOTATION)
    return {} if annotation is None else annotation.input_qspec_map


def _output_qspec(node: fx.Node) -> Any:
    return getattr(node.meta.get(_ANNOTATION), "output_qspec", None)


def _is_constant(node: fx.Node) -> bool:
    module = node.graph.owning_module
    return node.op == "get_attr" and isinstance(
        attribute(module, str(node.target)), torch.Tensor
    )


def _observes_zeros(bias: Any) -> bool:
    """Whether a scale is learnt from the values of the bias.

    A fused convolution has zeros in place of its bias, so only a scale that is given,
    or that is derived from other operands, is right for the bias that is folded later.
    """
    quantizer = import_module("torchao.quantization.pt2e.quantizer")
    independent = (
        quantizer.DerivedQuantizationSpec,
        quantizer.FixedQParamsQuantizationSpec,
    )
    if bias is None or isinstance(bias, independent):
        return False
    dtype = getattr(bias, "dtype", None)
    is_cast = dtype is not None and dtype.is_floating_point and dtype.itemsize > 1
    return not is_cast


# --- torchao's flow around the passes ---


def prepare_qat_pt2e(
    model: fx.GraphModule, quantizer: Any, *, on_report: OnReport | None = None
) -> fx.GraphModule:
    """Annotate, fuse and insert fake quantizers, as torchao's `prepare_qat_pt2e`.

    Raises: RuntimeError if the torchao installed has another flow.
    """
    fuse = partial(fuse_conv_bn_qat, on_report=on_report)
    prepare = _entry_point("prepare_qat_pt2e", _fuse_conv_bn_qat=fuse)
    return prepare(model, quantizer)


def convert_pt2e(
    model: fx.GraphModule,
    use_reference_representation: bool = False,
    fold_quantize: bool = True,
    *,
    on_report: OnReport | None = None,
) -> fx.GraphModule:
    """Convert a trained or calibrated model, as torchao's `convert_pt2e`.

    Raises: RuntimeError if the torchao installed has another flow.
    """
    convert = _entry_point(
        "convert_pt2e",
        convert_pt2e=partial(convert_pt2e, on_report=on_report),  # of nested graphs
        _fold_conv_bn_qat=partial(fold_conv_bn_qat, on_report=on_report),
    )
    return convert(model, use_reference_representation, fold_quantize)


def _entry_point(name: str, **ours: Callable[..., Any]) -> Callable[..., Any]:
    """The function of torchao with some of the functions that it calls exchanged.

    The code is torchao's, its global names are a copy, so nobody else sees the change.
    """
    module = import_module(_ENTRY_POINTS)
    function = getattr(module, name, None)
    called = getattr(function, "__code__", None)
    unknown = ours.keys() - set(getattr(called, "co_names", ()))
    if function is None or called is None or unknown:
        raise RuntimeError(
            f"this version of torchao is not supported: its {name} does not call "
            f"{', '.join(sorted(unknown))}"
        )
    names = {**vars(module), **ours}
    return FunctionType(called, names, name, function.__defaults__)


# --- torchao's own entry points ---


@contextmanager
def patched(*, on_report: OnReport | None = None) -> Iterator[None]:
    """Make torchao's own `prepare_qat_pt2e` and `convert_pt2e` use our passes inside.

    Holds for the code of the `with` block alone: other threads, and threads that the
    block starts, keep torchao's passes. Blocks may be nested and may overlap.

    Raises: RuntimeError if the torchao installed has no such passes.
    """
    passes = {
        "_fuse_conv_bn_qat": partial(fuse_conv_bn_qat, on_report=on_report),
        "_fold_conv_bn_qat": partial(fold_conv_bn_qat, on_report=on_report),
    }
    _dispatchers.enter(passes)
    token = _active.set(passes)
    try:
        yield
    finally:
        _active.reset(token)
        _dispatchers.leave()


_active: ContextVar[Mapping[str, Callable[..., Any]]] = ContextVar(
    "_active", default=MappingProxyType({})
)
"""What replaces torchao's passes in this thread or task."""


@attrs.frozen(eq=False)
class _Dispatcher:
    """Stands in for one of torchao's passes: ours where `_active` has it."""

    name: str
    original: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _active.get().get(self.name, self.original)(*args, **kwargs)


@attrs.define(eq=False)
class _Dispatchers:
    """The dispatchers; in torchao's module while anyone is inside of `patched`."""

    lock: Any = attrs.field(factory=Lock)
    inside: int = 0
    installed: list[_Dispatcher] = attrs.field(factory=list)

    def enter(self, names: Iterable[str]) -> None:
        with self.lock:
            if self.inside == 0:
                self._install(names)
            self.inside += 1

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self._remove()

    def _install(self, names: Iterable[str]) -> None:
        module = import_module(_ENTRY_POINTS)
        missing = [name for name in names if not callable(getattr(module, name, None))]
        if missing:
            raise RuntimeError(
                f"this version of torchao is not supported: {_ENTRY_POINTS} has no "
                f"{', '.join(missing)}"
            )
        for name in names:
            self.installed.append(_Dispatcher(name, getattr(module, name)))
            setattr(module, name, self.installed[-1])

    def _remove(self) -> None:
        module = import_module(_ENTRY_POINTS)
        while self.installed:
            dispatcher = self.installed.pop()
            # What somebody else has put there since then is not ours to remove.
            if getattr(module, dispatcher.name) is dispatcher:
                setattr(module, dispatcher.name, dispatcher.original)


_dispatchers = _Dispatchers()
