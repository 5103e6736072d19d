"""Code that a changed module gets when it is first needed.

Generating code is most of what a rewrite costs, and wasted if another pass follows.
fx gives every GraphModule a class of its own, so that class can hold attributes that
generate the code when they are read: whoever calls the module, asks for its code or
looks at its `forward` sees what an eager recompilation leaves.
"""

from __future__ import annotations

from threading import RLock
from typing import Any, Final
from weakref import ref

from torch import fx

from rewrite_engine.rewriting.codegen import recompile

GENERATED: Final = ("_code", "_lineno_map", "_prologue_start")
"""What `recompile` leaves in a module, beside the `forward` of its class."""

_GENERATING: Final = RLock()


# Pickling copies the module's attributes before it generates their code.
_READERS: Final = ("__reduce__", "__reduce_package__")

_LAZY: Final = ("forward", *GENERATED, *_READERS)


def recompile_now(module: fx.GraphModule) -> None:
    """Do what `module.recompile()` does; nothing is left to be generated."""
    recompile(module)
    for name in _LAZY:
        if isinstance(vars(type(module)).get(name), _Generated):
            delattr(type(module), name)


def recompile_when_needed(module: fx.GraphModule) -> None:
    """Do what `module.recompile()` does, when its code is first read.

    A module of a class that recompiles in a way of its own is left to it.
    """
    kind = type(module)
    if kind.recompile is not fx.GraphModule.recompile or not _is_its_own(kind):
        module.recompile()
        return
    for name in _LAZY:
        setattr(kind, name, _Generated(name, ref(module)))
    for name in GENERATED:
        module.__dict__.pop(name, None)


def _is_its_own(kind: type) -> bool:
    """Whether fx made this class for one module."""
    is_made = kind.__qualname__.endswith("GraphModuleImpl")
    return is_made and "forward" in vars(kind)


class _Generated:
    """An attribute that generates the code of its module when it is read."""

    def __init__(self, name: str, module: ref[fx.GraphModule]) -> None:
        self._name = name
        self._module = module

    def __get__(self, instance: fx.GraphModule | None, kind: type) -> Any:
        module = self._module() if instance is None else instance
        if module is None:
            raise AttributeError(self._name)
        with _GENERATING:
            if vars(kind).get(self._name) is self:
                recompile_now(module)
        return getattr(kind if instance is None else instance, self._name)
