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
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache, partial
from importlib import import_module
from types import FunctionType
from typing import Any, Final

import torch
from torch import fx

from rewrite_engine.engine import load
from rewrite_engine.integrations.exchange import Exchange
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
_NOT_ANNOTATED: Final = "none of its operands is annotated"

aten = torch.ops.aten
_SWITCHED: Final = (
    aten.batch_norm.default,
    aten.dropout.default,
    aten.dropout_.default,
)

# Calls and constants that the scale of a fused BatchNorm is computed from: 8 at most.
_LARGEST_SCALE: Final = 16

_TRAINS: Final = (
    " and goes on training, which a call of `move_exported_model_to_eval` before the "
    "conversion stops; a BatchNorm that other calls train is folded only then"
)

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
    reset: dict[fx.Node, tuple[float, float]] = {}
    _apply("qat_fold", gm, partial(_note_eps, reset), on_report)
    for norm in filter(_is_fused, _batch_norms(gm)):
        advice = _TRAINS if _argument(norm, 5, "training", True) else ""
        around = "it keeps what training put around it"
        _log.warning("'%s' is not folded: %s%s", norm, around, advice)
    if reset:
        norm, (trained, evaluated) = next(iter(reset.items()))
        _log.warning(
            "a mode switch has reset the eps of %d BatchNorms, as of '%s' from %g to "
            "%g; the converted model has the eps of its training",
            *(len(reset), norm, trained, evaluated),
        )
    return gm


def _apply(
    library: str,
    gm: fx.GraphModule,
    guard: Callable[[Match], str | None] | None,
    on_report: OnReport | None,
) -> fx.GraphModule:
    _mend_values(gm)
    report = _rules(library).apply(gm, recurse=True, guard=guard).report
    for refusal in report.refusals:
        wanted = refusal.reason != _NOT_ANNOTATED
        _log.log(logging.WARNING if wanted else logging.INFO, "left alone: %s", refusal)
    if on_report is not None:
        on_report(report)
    return gm


def _batch_norms(gm: fx.GraphModule) -> Sequence[fx.Node]:
    found = gm.graph.find_nodes(op="call_function", target=aten.batch_norm.default)
    return list(found)


def _is_fused(norm: fx.Node) -> bool:
    """Whether a BatchNorm has the scale of a fused convolution in front of it."""
    source, *state = norm.all_input_nodes
    if source.target is aten.add.Tensor and source.all_input_nodes:
        source = source.all_input_nodes[0]
    if source.target is not aten.div.Tensor:
        return False
    return any(
        n in state for scale in source.all_input_nodes[1:] for n in _roots(scale)
    )


def _roots(node: fx.Node) -> set[fx.Node]:
    """What a few calls compute a value from, and their own results."""
    found, last = {node}, {node}
    while last and len(found) < _LARGEST_SCALE:
        last = {operand for each in last for operand in each.all_input_nodes} - found
        found |= last
    return found


def _note_eps(reset: dict[fx.Node, tuple[float, float]], match: Match) -> None:
    """Note a BatchNorm whose eps is not that of the scale in front of it."""
    norm, trained = match.bindings.get("z"), match.bindings.get("eps")
    if norm is None or trained is None:
        return
    evaluated = _argument(norm, 7, "eps", 1e-5)
    if evaluated != trained:
        reset[norm] = trained, evaluated


def _argument(call: fx.Node, position: int, name: str, default: Any) -> Any:
    given = call.args[position : position + 1] or (call.kwargs.get(name, default),)
    return given[0]


# --- recorded values ---


def _mend_values(gm: fx.GraphModule) -> None:
    """Give the nodes made by torchao's mode switches the types that they have.

    `move_exported_model_to_eval` and `..._train` put new BatchNorms and dropouts in
    place of the old, which record the example values of torchao's patterns.
    """
    mode = _mode(gm)
    find = gm.graph.find_nodes
    switched = [n for t in _SWITCHED for n in find(op="call_function", target=t)]
    for node in sorted(switched):
        if _is_foreign(node, mode):
            _mend_value(node, mode)


def _mend_value(node: fx.Node, mode: Any) -> None:
    # The scaffold that torchao's own fuse builds records its patterns' values, too.
    source = node.args[0]
    while _is_foreign(source, mode) and source.target in (
        aten.add.Tensor,
        aten.div.Tensor,
    ):
        source = source.args[0]
    if "val" in source.meta and not _is_foreign(source, mode):
        node.meta["val"] = source.meta["val"]
    else:
        del node.meta["val"]


def _mode(gm: fx.GraphModule) -> Any:
    """The mode in which the values of the graph's inputs are fake."""
    inputs = gm.graph.find_nodes(op="placeholder")
    modes = (getattr(node.meta.get("val"), "fake_mode", None) for node in inputs)
    return next((mode for mode in modes if mode is not None), None)


def _is_foreign(node: fx.Node, mode: Any) -> bool:
    own = getattr(node.meta.get("val"), "fake_mode", None)
    return own is not None and own is not mode


# --- what may be fused ---


def _unfoldable(match: Match) -> str | None:
    """Why fold could not undo the fusion, None if it can."""
    conv, norm = match.bindings["y"], match.bindings["z"]
    if not any(_input_qspecs(conv).values()):
        return _NOT_ANNOTATED
    if _output_qspec(conv) or _input_qspecs(norm).get(conv):
        return f"'{conv}' is quantized before the BatchNorm"
    for name in ("w", "b", "gamma", "beta", "mean", "var"):
        node = match.bindings[name]
        if node is not None and not _is_constant(node):
            return (
                f"'{node}' is computed in the graph or given to it, so nothing can be "
                "folded into it"
            )
        if node is not None and _output_qspec(node):
            return f"'{node}' is quantized before the scale is folded into it"
    if _observes_zeros(_input_qspecs(conv).get(match.bindings["b"])):
        return (
            "the observer of the bias would see zeros, not the folded bias; a scale "
            "that is derived from those of input and weight is right for both"
        )
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
    That bias depends on running statistics, which training does not read: to show it
    to an observer, it would have to be added to what the BatchNorm normalizes, and its
    rounding error would become a part of the statistics from which it is computed.
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

_exchange = Exchange(_ENTRY_POINTS)


def patched(*, on_report: OnReport | None = None) -> AbstractContextManager[None]:
    """Make torchao's own `prepare_qat_pt2e` and `convert_pt2e` use our passes inside.

    Holds for the code of the `with` block alone: other threads, and threads that the
    block starts, keep torchao's passes. Blocks may be nested and may overlap.

    Raises: RuntimeError, on entry, if the torchao installed has no such passes.
    """
    return _exchange.inside(
        _fuse_conv_bn_qat=partial(fuse_conv_bn_qat, on_report=on_report),
        _fold_conv_bn_qat=partial(fold_conv_bn_qat, on_report=on_report),
    )
