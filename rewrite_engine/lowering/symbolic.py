"""Questions about dynamic sizes, answered without a new guard on the program."""

from __future__ import annotations

from typing import Any, Final

import torch

from rewrite_engine.lowering.scope import Unknown

SYMBOLIC: Final = (torch.SymInt, torch.SymFloat, torch.SymBool)
"""What stands for a number that is not known before the program runs."""


def decided(answer: Any) -> bool:
    """A truth value that holds for every size. Raises: Unknown, if sizes decide."""
    if not isinstance(answer, torch.SymBool):
        return bool(answer)
    # Imports sympy, a third of a second that only dynamic shapes should cost.
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    if statically_known_true(answer):
        return True
    if statically_known_true(torch.sym_not(answer)):
        return False
    raise Unknown(f"whether {answer} depends on a dynamic size")
