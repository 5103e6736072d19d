"""Functions of generated source. Those of one text share their code.

Every name in a source is made by the module that writes it, and every constant is
passed beside it: nothing that a rule file says is ever part of the code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any, Final

from torch import fx

# Where they are known, the attributes behind the properties of a node.
ARGUMENTS: Final = "_args" if hasattr(fx.Node, "_args") else "args"
KEYWORDS: Final = "_kwargs" if hasattr(fx.Node, "_kwargs") else "kwargs"


def function_of(text: str, names: Mapping[str, Any]) -> Callable[..., Any]:
    """The function that a text defines, with what its names stand for."""
    return FunctionType(_code(text), dict(names))


@lru_cache(maxsize=4096)
def _code(text: str) -> CodeType:
    module = compile(text, "<matching program>", "exec")
    return next(each for each in module.co_consts if isinstance(each, CodeType))
