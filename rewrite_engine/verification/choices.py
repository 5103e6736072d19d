"""What is chosen for an instance of a rule; everything else follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs
import torch

from rewrite_engine.verification.operands import Sizes
from rewrite_engine.verification.subject import Example

Layout = Literal["contiguous", "transposed"]


@attrs.frozen
class Choice:
    """What is chosen for an instance; everything else follows.

    `options` are arguments that the rule leaves open, by call and parameter.
    `dtypes` are those of inputs that differ from `dtype`.
    `example` is a test whose shapes are used, in place of `sizes`.
    `spelling` counts through the spellings of each operator. `along`: operands of
    elementwise calls have one axis, this one, and are broadcast. `state`: inputs that
    could be state of the module are. `exposed` is a call whose value is given out, too,
    beside those of the rule's roots. `written`: what the roots give is written later,
    so that it shows what else lies in its storage. `recorded`: nodes record their
    values, with a `dynamic` first dimension of the arguments that have the batch size
    there.
    """

    dtype: torch.dtype = torch.float64
    sizes: Sizes = attrs.field(factory=Sizes)
    dtypes: Mapping[str, torch.dtype] = attrs.field(factory=dict)
    example: Example | None = None
    literals: Mapping[str, Any] = attrs.field(factory=dict)
    options: Mapping[tuple[str, str], Any] = attrs.field(factory=dict)
    spelling: int = 0
    layout: Layout = "contiguous"
    along: int | None = None
    state: bool = True
    exposed: str | None = None
    written: bool = False
    recorded: bool = True
    dynamic: bool = False

    def options_of(self, call: str) -> dict[str, Any]:
        """The arguments of a call that the rule leaves open, by parameter."""
        named = self.options.items()
        return {name: value for (of, name), value in named if of == call}


class Unsuitable(Exception):  # noqa: N818 - an outcome, not an error
    """The left side does not run with what was chosen; the message says why."""
