"""Calls that mean what a rule's operator means, in a spelling that it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import attrs
from torch import fx

from rewrite_engine.lowering.operators import OperatorPattern
from rewrite_engine.tensor_types import attribute
from rewrite_engine.value_text import class_text, target_text

Relation: TypeAlias = Literal[
    "spelling", "overload", "in place", "module", "decomposed", "composite"
]

_PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "linear": ("addmm", "mm"),
    "matmul": ("mm", "bmm", "dot", "mv"),
    "conv1d": ("convolution", "_convolution"),
    "conv2d": ("convolution", "_convolution", "mkldnn_convolution"),
    "conv3d": ("convolution", "_convolution"),
    "conv_transpose1d": ("convolution",),
    "conv_transpose2d": ("convolution",),
    "conv_transpose3d": ("convolution",),
    "batch_norm": (
        "native_batch_norm",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_functional",
        "_native_batch_norm_legit_no_training",
        "_batch_norm_with_update",
        "_batch_norm_with_update_functional",
        "_batch_norm_no_update",
        "cudnn_batch_norm",
    ),
    "layer_norm": ("native_layer_norm",),
    "group_norm": ("native_group_norm",),
    "rms_norm": ("_fused_rms_norm",),
    "softmax": ("_softmax", "_safe_softmax"),
    "log_softmax": ("_log_softmax",),
    "dropout": ("native_dropout", "bernoulli"),
    "scaled_dot_product_attention": (
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_attention_math_for_mps",
    ),
    "max_pool2d": ("max_pool2d_with_indices",),
    "max_pool3d": ("max_pool3d_with_indices",),
    "adaptive_avg_pool2d": ("_adaptive_avg_pool2d",),
    "relu6": ("hardtanh", "clamp"),
    "hardtanh": ("clamp",),
    "reshape": ("view", "_unsafe_view"),
    "flatten": ("view", "reshape"),
    "contiguous": ("clone",),
    "to": ("_to_copy",),
    "chunk": ("split",),
    "std": ("var",),
    "stack": ("cat",),
}
"""What ATen's decompositions make of an operator: base names."""

_MODULES: Final[Mapping[str, str]] = {
    "batchnorm1d": "batchnorm",
    "batchnorm2d": "batchnorm",
    "batchnorm3d": "batchnorm",
    "syncbatchnorm": "batchnorm",
    "dropout1d": "featuredropout",
}
_SAME: Final[Mapping[str, str]] = {
    "truediv": "div",
    "divide": "div",
    "multiply": "mul",
    "subtract": "sub",
    "negative": "neg",
    "concat": "cat",
    "concatenate": "cat",
    "absolute": "abs",
}


@attrs.frozen
class Dialect:
    """How a call is related to the operator that a rule names."""

    relation: Relation
    found: str
    """The call, as its graph has it."""
    message: str
    hint: str


def dialect(operator: OperatorPattern, node: fx.Node) -> Dialect | None:
    """How a call that the operator does not cover is related to it, if it is."""
    if node.op not in ("call_function", "call_method", "call_module"):
        return None
    found, base = call_text(node), _base_of(node)
    wanted = {_base(s.signature.path): s.signature.path for s in operator.spellings}
    path = wanted.get(base)
    if path is not None:
        return _same_operator(operator, node, found, path)
    if base.endswith("_") and not base.startswith("_") and base[:-1] in wanted:
        message = f"your graph has `{found}`, which writes its operand in place"
        hint = "rules take values that nothing writes: `program.run_decompositions({})`"
        return Dialect("in place", found, message, f"{hint} makes calls functional")
    return _decomposed(operator, found, base, tuple(wanted))


def _same_operator(
    operator: OperatorPattern, node: fx.Node, found: str, path: str
) -> Dialect:
    says = f"the rule says {_spellings(operator)}"
    if node.op == "call_module":
        message = f"your graph calls the module {found}, {says}, a function"
        hint = "`torch.export.export` gives a graph of functions"
        return Dialect("module", found, message, hint)
    is_overload = found.startswith("aten.") and path.startswith("aten.")
    relation: Relation = "overload" if is_overload else "spelling"
    name = operator.name if "." not in operator.name else _base(path)
    hint = f"add the spelling: `op {name} = … | {found}`"
    if operator.name != name:
        hint = f"name both: `op {name} = {path} | {found}`"
    return Dialect(relation, found, f"your graph has `{found}`, {says}", hint)


def _decomposed(
    operator: OperatorPattern, found: str, base: str, wanted: tuple[str, ...]
) -> Dialect | None:
    parts = {
        name: set(map(_plain, _PARTS.get(_composite(name), ()))) for name in wanted
    }
    if not parts.keys().isdisjoint(set().union(*parts.values())):
        return None  # it is of both dialects, and covers the call in neither
    for name in wanted:
        if base in parts[name]:
            message = f"decomposed: `{found}` where the rule says `{operator.name}`"
            hint = "apply the rule before `run_decompositions()`, or write it for"
            return Dialect("decomposed", found, message, f"{hint} `{found}`")
        if name in map(_plain, _PARTS.get(_composite(base), ())):
            message = f"not decomposed: `{found}` where the rule says `{operator.name}`"
            hint = "`program.run_decompositions()` gives the calls that the rule names"
            return Dialect("composite", found, message, hint)
    return None


def call_text(node: fx.Node) -> str:
    """What a node calls: `aten.relu.default`, `.relu`, `nn.ReLU 'act'`."""
    if node.op == "call_method":
        return f".{node.target}"
    if node.op == "call_function":
        return target_text(node.target)
    module = node.graph.owning_module
    if node.op == "call_module" and module is not None:
        return f"{class_text(attribute(module, str(node.target)))} '{node.target}'"
    return node.op


def _base_of(node: fx.Node) -> str:
    text = call_text(node)
    if node.op == "call_module":
        name = _plain(text.partition(" ")[0].rpartition(".")[2])
        return _MODULES.get(name, name)
    return _base(text)


def _base(path: str) -> str:
    """The name without namespace and overload: `aten.add.Tensor` is `add`."""
    parts = path.lstrip(".").split(".")
    has_overload = len(parts) == 3 and parts[0] not in ("torch", "F")
    name = parts[1] if has_overload or len(parts) == 2 else parts[-1]
    plain = _plain(name)
    plain = _MODULES.get(plain, plain) if path.startswith("nn.") else plain
    return _SAME.get(plain, plain)


def _plain(name: str) -> str:
    """A name up to case and inner underscores: `batch_norm` is `BatchNorm`."""
    start = "_" if name.startswith("_") else ""
    end = "_" if name.endswith("_") and not name.endswith("__") else ""
    return start + name.strip("_").replace("_", "").lower() + end


def _composite(base: str) -> str:
    return next((name for name in _PARTS if _plain(name) == base), base)


def _spellings(operator: OperatorPattern) -> str:
    """The operator as the rule names it, and what that covers."""
    paths = list(dict.fromkeys(s.signature.path for s in operator.spellings))
    if paths == [operator.name]:
        return f"`{operator.name}`"
    shown = ", ".join(f"`{path}`" for path in paths[:4])
    return f"`{operator.name}` ({shown}{', …' if len(paths) > 4 else ''})"
