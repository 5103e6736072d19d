"""Module classes as rules see them: a function of inputs, tensors and settings.

`nn.Linear(x)` is `F.linear(x, weight, bias)` with the tensors that the module holds, so
a call of a module lines up with every other spelling of its function. What an instance
holds is read by the names of the function's parameters; an instance that computes
anything else (hooks, a replaced `forward`, an unusual setting) has no such reading.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import attrs
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from rewrite_engine.dsl.catalog import Catalog
from rewrite_engine.signatures import REQUIRED, Parameter, Signature
from rewrite_engine.tensor_types import UNKNOWN, attribute

_NAMESPACES: Final = {
    "nn": "torch.nn",
    "nni": "torch.ao.nn.intrinsic",
    "ao": "torch.ao.quantization",
    "equalization": "rewrite_engine.equalize.observers",
}
_EQUALIZATION: Final = "torch.ao.quantization.fx._equalize"

_WATCHED: Final = {
    "min_val": "activation_post_process.min_val",
    "max_val": "activation_post_process.max_val",
}
# Where a class keeps what a function's parameter stands for, if not under its name.
_PLACES: Final[Mapping[str, Mapping[str, str]]] = {
    "ao.FakeQuantize": _WATCHED,
    "ao.FusedMovingAvgObsFakeQuantize": _WATCHED,
    "ao._InputEqualizationObserver": {
        "min_val": "input_obs.min_val",
        "max_val": "input_obs.max_val",
    },
    "ao._WeightEqualizationObserver": {
        "min_val": "weight_col_obs.min_val",
        "max_val": "weight_col_obs.max_val",
    },
}


@attrs.frozen(eq=False)
class ModuleClass:
    """A module class that a caller grants to rule files.

    `function` names the function that an instance computes (`"F.linear"`), of its
    inputs and of what it holds under the names of the function's parameters; `places`
    gives the path of what it holds elsewhere (`{"weight": "inner.weight"}`). Without a
    function, `places` lists the tensors that rules may read by keyword.
    """

    kind: type[nn.Module]
    function: str | None = None
    places: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(eq=False)
class ModuleForm:
    """How the instances of one class compute.

    `run` computes it from all operands; `inputs` of them are given by the call.
    """

    kind: type[nn.Module]
    run: Callable[..., Any]
    inputs: int
    places: Mapping[str, str]
    parts: tuple[type[nn.Module], ...] = ()
    """The classes of the modules that a fused sequence runs one after the other."""
    subclasses: bool = False
    """Whether instances of subclasses that compute the same are meant, too."""

    def fits(self, module: nn.Module) -> bool:
        """Whether this instance computes the function, and nothing else."""
        return (
            self._is_instance(module) and _is_usual(module) and self._has_parts(module)
        )

    def _is_instance(self, module: nn.Module) -> bool:
        kind = type(module)
        return kind is self.kind or (self.subclasses and inherits(kind, self.kind))

    def _has_parts(self, module: nn.Module) -> bool:
        if not self.parts:
            return True
        parts = tuple(module.children())
        return tuple(map(type, parts)) == self.parts and all(map(_is_usual, parts))

    def held(self, module: nn.Module, parameter: Parameter) -> Any:
        """What an instance has for a parameter: a tensor of its own, a literal, or the
        default; REQUIRED if there is nothing that a rule can read.
        """
        value = attribute(module, self.place(parameter.name))
        if isinstance(value, torch.Tensor):
            return value if _is_stored(module, self.place(parameter.name)) else REQUIRED
        if value is UNKNOWN or (value is None and not _may_be_none(parameter)):
            return parameter.default
        return value if _is_literal(value) else REQUIRED

    def place(self, parameter: str) -> str:
        """The path, inside an instance, of what a parameter stands for."""
        return self.places.get(parameter) or "0." * bool(self.parts) + parameter


def inherits(kind: type, base: type) -> bool:
    """Whether a subclass of `base` computes what `base` does: it replaces no method
    but those that make, print or reset an instance.
    """
    if not issubclass(kind, base):
        return False
    between = kind.__mro__[: kind.__mro__.index(base)]
    own = {name for each in between for name in vars(each)}
    return not (own - _HARMLESS) & set(dir(base))


_HARMLESS: Final = frozenset(
    {
        *("__doc__", "__init__", "__module__", "__qualname__", "__annotations__"),
        *("__repr__", "__constants__", "__parameters__", "__orig_bases__"),
        *("__static_attributes__", "__firstlineno__", "__dict__", "__weakref__"),
        *("extra_repr", "reset_parameters"),
    }
)


def _is_stored(module: nn.Module, path: str) -> bool:
    """Whether an attribute is a tensor that the module keeps, and no property."""
    owner, _, name = path.rpartition(".")
    holder = module.get_submodule(owner)
    kept = (holder._parameters, holder._buffers, vars(holder))
    return not hasattr(type(holder), name) and any(name in each for each in kept)


def _may_be_none(parameter: Parameter) -> bool:
    return parameter.type.endswith("?") or parameter.type == ""


def _is_literal(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_literal, value))
    return value is None or type(value) in _LITERALS


_LITERALS: Final = frozenset(
    {bool, int, float, str, torch.dtype, torch.device, torch.layout}
)


def is_customized(module: nn.Module) -> bool:
    """Whether something else runs when this instance is called: a hook, an own
    `forward`.
    """
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)
    )


def module_form(signature: Signature) -> ModuleForm:
    """The form of a module class that a rule file names.

    Raises: LookupError, if its library is not installed.
    """
    path = signature.path.removesuffix("+")
    granted = cast("ModuleClass | None", signature.granted)
    kind = _class(path) if granted is None else granted.kind
    places = _PLACES.get(path, {}) if granted is None else granted.places
    return ModuleForm(
        kind,
        _runnable(signature),
        _inputs(signature, kind),
        places,
        _FUSED.get(signature.functions, ()),
        signature.path.endswith("+"),
    )


def granted_signature(path: str, granted: ModuleClass, catalog: Catalog) -> Signature:
    """The signature under which a granted class stands in a catalog.

    Raises: LookupError, if its function is not in the catalog.
    """
    if granted.function is None:
        state = tuple(
            Parameter(name, "Tensor", REQUIRED, True) for name in granted.places
        )
        names = inspect.signature(granted.kind.forward).parameters
        inputs = tuple(Parameter(name) for name in list(names)[1:])
        return Signature(path, "module", (*inputs, *state), granted=granted)
    found = catalog.lookup(granted.function)
    if not found:
        raise LookupError(f"`{granted.function}` is not in the catalog of operators")
    functions = (granted.function,)
    return attrs.evolve(
        found[0], path=path, kind="module", functions=functions, granted=granted
    )


def _class(path: str) -> type[nn.Module]:
    namespace, _, name = path.partition(".")
    library = _NAMESPACES[namespace]
    if namespace == "ao" and name.startswith("_"):
        library = _EQUALIZATION
    return cast("type[nn.Module]", getattr(importlib.import_module(library), name))


def _inputs(signature: Signature, kind: type[nn.Module]) -> int:
    """How many operands a call gives; the others an instance holds."""
    if not signature.functions:
        return len(signature.positional)
    parameters = list(inspect.signature(kind.forward).parameters.values())[1:]
    return sum(p.default is p.empty for p in parameters)


_FUSED: Final[Mapping[tuple[str, ...], tuple[type[nn.Module], ...]]] = {
    ("F.linear", "F.relu"): (nn.Linear, nn.ReLU),
    ("F.conv1d", "F.relu"): (nn.Conv1d, nn.ReLU),
    ("F.conv2d", "F.relu"): (nn.Conv2d, nn.ReLU),
    ("F.conv3d", "F.relu"): (nn.Conv3d, nn.ReLU),
}


def _is_usual(module: nn.Module) -> bool:
    if is_customized(module) or getattr(module, "padding_mode", "zeros") != "zeros":
        return False
    if isinstance(module, nn.modules.batchnorm._NormBase):
        # Training also counts batches, which no function does.
        return not module.training and module.running_mean is not None
    return True


def _runnable(signature: Signature) -> Callable[..., Any]:
    functions = tuple(map(_function, signature.functions))
    if len(functions) == 1:
        return functions[0]
    return _Composition(signature.path, functions)


def _function(path: str) -> Callable[..., Any]:
    space, _, name = path.partition(".")
    return cast("Callable[..., Any]", getattr({"F": F, "torch": torch}[space], name))


@attrs.frozen(eq=False)
class _Composition:
    """The function of a fused sequence, or of a module that only watches its input."""

    path: str
    functions: tuple[Callable[..., Any], ...]
    __name__: str = attrs.field(init=False)

    @__name__.default
    def _default_name(self) -> str:
        return self.path.replace(".", "_").rstrip("+")

    def __call__(self, *operands: Any, **options: Any) -> Any:
        if not self.functions:
            return operands[0]
        first, *others = self.functions
        result = first(*operands, **options)
        return functools.reduce(lambda value, function: function(value), others, result)
