"""Where in the user's model a graph node comes from: its source line and module."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import attrs
import torch
from torch import fx

_FRAME: Final = re.compile(
    r'File "(?P<file>[^"\n]*)", line (?P<line>\d+), in (?P<function>\S+)'
    r"(?:\n(?! *File \")[ \t]*(?P<text>[^\n]*))?"
)
_NOT_OWN: Final = (str(Path(torch.__file__).parent), "<eval_with_key>")


@attrs.frozen
class ModelSource:
    """The place that recorded a node; parts that are not known are empty."""

    file: str = ""
    line: int = 0
    function: str = ""
    text: str = ""
    """The source line, stripped."""
    module: str = ""
    """The path of the module that was called: `layer1.0.conv`."""
    module_class: str = ""

    def __bool__(self) -> bool:
        return bool(self.file or self.module)

    @property
    def place(self) -> str:
        """`model.py:12 in forward`."""
        return f"{self.file}:{self.line} in {self.function}" if self.file else ""

    @property
    def owner(self) -> str:
        """`layer1.0.conv (Conv2d)`."""
        cls = self.module_class.rpartition(".")[2]
        return f"{self.module} ({cls})" if self.module and cls else self.module


def model_source(node: fx.Node) -> ModelSource:
    """What a node's metadata says about where it comes from.

    Of the recorded frames the innermost outside torch and the code that it generates is
    taken: the user's own line.
    """
    frame = _frame(node.meta.get("stack_trace"))
    module, cls = _module(node.meta.get("nn_module_stack"))
    if frame is None:
        return ModelSource(module=module, module_class=cls)
    return ModelSource(
        _short(frame["file"]),
        int(frame["line"]),
        frame["function"],
        (frame["text"] or "").strip(),
        module,
        cls,
    )


def _frame(trace: object) -> re.Match[str] | None:
    if not isinstance(trace, str):
        return None
    frames = list(_FRAME.finditer(trace))
    own = [f for f in frames if not f["file"].startswith(_NOT_OWN)]
    return next(reversed(own or frames), None)


def _module(stack: object) -> tuple[str, str]:
    """The innermost module of a recorded stack: its path and its class."""
    if not isinstance(stack, dict) or not stack:
        return "", ""
    path, cls = list(stack.values())[-1]
    name = cls if isinstance(cls, str) else f"{cls.__module__}.{cls.__qualname__}"
    return re.sub(r"^L\['self'\]\.?", "", str(path)), name


def _short(file: str) -> str:
    """A path from the current folder, where it lies below that."""
    path = Path(file)
    return (
        str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
    )
