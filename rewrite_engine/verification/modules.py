"""Modules for calls that a rule spells as module classes.

A class is built from what its constructor asks for: sizes come from the tensors that an
instance shall hold, settings from the literals of the call. What was built is then read
as a rule reads it, so that a setting which got lost is noticed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import attrs
import torch
from torch import nn

from rewrite_engine.errors import first_line
from rewrite_engine.lowering.literals import literals_equal
from rewrite_engine.lowering.spellings import Spelling
from rewrite_engine.module_forms import ModuleForm
from rewrite_engine.tensor_types import attribute
from rewrite_engine.verification.choices import Unsuitable
from rewrite_engine.verification.operands import Operand, observed

Held: TypeAlias = Mapping[str, Any]
"""The operands that an instance holds, by parameter name; absent ones are left out."""


@attrs.frozen(eq=False)
class MadeModule:
    """A module class and the options of its constructor.

    `parts` are the classes of a fused sequence, the first of which takes the options.
    """

    kind: type[nn.Module]
    options: Mapping[str, Any]
    parts: tuple[type[nn.Module], ...] = ()
    watches: bool = False
    """Whether it passes its input on, and only records it."""

    def make(self) -> nn.Module:
        """A new instance, in eval mode."""
        if not self.parts:
            return self.kind(**self.options).eval()
        first, *others = self.parts
        made = first(**self.options), *(other() for other in others)
        return self.kind(*made).eval()

    @property
    def text(self) -> str:
        """The Python text that makes it, with classes by their full paths."""
        options = ", ".join(f"{key}={value!r}" for key, value in self.options.items())
        if not self.parts:
            return f"{_path(self.kind)}({options}).eval()"
        first, *others = self.parts
        parts = [f"{_path(first)}({options})", *(f"{_path(o)}()" for o in others)]
        return f"{_path(self.kind)}({', '.join(parts)}).eval()"


def module_for(spelling: Spelling, held: Held, axis: int) -> MadeModule:
    """The module of a call of a class that holds these operands.

    `axis` is that of the channels of its input, from the end.

    Raises: Unsuitable, if no instance of the class holds these.
    """
    form = spelling.form
    assert form is not None
    transposed = issubclass(form.kind, nn.modules.conv._ConvTransposeNd)
    options = dict(_options(form, {**held, "axis": axis, "transposed": transposed}))
    watches = not spelling.signature.functions
    made = MadeModule(form.kind, options, form.parts, watches)
    try:
        module = made.make()
    except Exception as error:  # whatever constructors raise
        raise Unsuitable(f"{spelling.signature.path}: {error}") from error
    if not form.fits(module):
        raise Unsuitable(f"`{spelling.signature.path}` is made otherwise")
    for name, value in held.items():
        parameter = spelling.signature.parameter(name)
        assert parameter is not None
        found = form.held(module, parameter)
        is_same = isinstance(found, torch.Tensor) == isinstance(value, torch.Tensor)
        if not isinstance(value, torch.Tensor):
            is_same = is_same and literals_equal(_full(value, found), found)
        if not is_same:
            raise Unsuitable(f"no `{spelling.signature.path}` has {name}={value!r}")
    return made


def watched(spelling: Spelling, axis: int, name: str, value: torch.Tensor) -> Operand:
    """What an observer holds for a parameter after it has seen a value.

    Raises: Unsuitable, if it cannot see such a value.
    """
    assert spelling.form is not None
    module = module_for(spelling, {}, axis).make()
    try:
        module(value)
    except Exception as error:  # whatever modules raise
        raise Unsuitable(first_line(error)) from error
    return observed(name, attribute(module, spelling.form.place(name)))


def keep(root: nn.Module, path: str, value: torch.Tensor) -> None:
    """Put a parameter or a buffer where a path says, in the place of what is there."""
    owner, _, name = path.rpartition(".")
    holder = root.get_submodule(owner)
    for kept in (holder._parameters, holder._buffers):
        kept.pop(name, None)
    if isinstance(value, nn.Parameter):
        holder.register_parameter(name, value)
    else:
        holder.register_buffer(name, value)


def _full(value: Any, example: Any) -> Any:
    """A number as the list of sizes that it stands for."""
    if isinstance(example, (list, tuple)) and isinstance(value, int):
        return [value] * len(example)
    return list(value) if isinstance(value, tuple) else value


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _options(form: ModuleForm, held: Held) -> Iterator[tuple[str, Any]]:
    maker = form.parts[0] if form.parts else form.kind
    asked = list(inspect.signature(maker.__init__).parameters.values())[1:]
    for parameter in asked:
        size = _SIZES.get(parameter.name)
        if size is not None:
            yield parameter.name, size(held)
        elif not isinstance(held.get(parameter.name), (torch.Tensor, type(None))):
            yield parameter.name, held[parameter.name]


def _channels(of_inputs: bool) -> Callable[[Held], int]:
    """Channels of a convolution; the weight holds those of one group."""

    def size(held: Held) -> int:
        weight, groups = held["weight"], held.get("groups", 1)
        is_whole = of_inputs == held["transposed"]
        return int(weight.shape[0] if is_whole else weight.shape[1] * groups)

    return size


_SIZES: Final[Mapping[str, Callable[[Held], Any]]] = {
    "in_features": lambda held: held["weight"].shape[1],
    "out_features": lambda held: held["weight"].shape[0],
    "in_channels": _channels(of_inputs=True),
    "out_channels": _channels(of_inputs=False),
    "kernel_size": lambda held: tuple(held["weight"].shape[2:]),
    "num_features": lambda held: held["running_mean"].numel(),
    "num_channels": lambda held: held["weight"].numel(),
    "num_parameters": lambda held: held["weight"].numel(),
    "bias": lambda held: held.get("bias") is not None,
    "affine": lambda held: held.get("weight") is not None,
    "elementwise_affine": lambda held: held.get("weight") is not None,
}
