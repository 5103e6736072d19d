"""Operator signatures, without torch: what a call's arguments are named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import attrs


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"

    def __reduce__(self) -> str:
        return "REQUIRED"


REQUIRED: Final = _Required()
"""Stands where a parameter has no default."""

Kind = Literal["overload", "function", "method", "module", "hook"]


@attrs.frozen
class Parameter:
    """One parameter; `type` is the schema's text (`Tensor`, `SymInt[2]`) or empty."""

    name: str
    type: str = ""
    default: Any = REQUIRED
    keyword_only: bool = False

    @property
    def takes_tensor(self) -> bool:
        return self.type.startswith("Tensor") or self.type == ""


@attrs.frozen
class Signature:
    """How one spelling of an operator is called.

    `path` is its name in rule files: `aten.add.Tensor`, `torch.add`, `F.relu`,
    `operator.add`, `.relu` (a method), `nn.ReLU` (a module class).
    """

    path: str
    kind: Kind
    parameters: tuple[Parameter, ...]
    returns: int = 1
    result: str = ""
    """The schema's type of the only result (`Tensor`), empty where it is not known."""
    functions: tuple[str, ...] = ()
    """Of a module class: what an instance computes, one function after the other."""
    granted: object = attrs.field(default=None, repr=False)
    """The module class or hook that the caller granted under this path."""
    positional: tuple[Parameter, ...] = attrs.field(init=False, eq=False, repr=False)
    """The parameters that may be given by position."""
    _by_name: Mapping[str, Parameter] = attrs.field(init=False, eq=False, repr=False)
    _required: frozenset[str] = attrs.field(init=False, eq=False, repr=False)

    @positional.default
    def _positional(self) -> tuple[Parameter, ...]:
        return tuple(p for p in self.parameters if not p.keyword_only)

    @_by_name.default
    def _named(self) -> Mapping[str, Parameter]:
        return {p.name: p for p in self.parameters}

    @_required.default
    def _without_default(self) -> frozenset[str]:
        return frozenset(p.name for p in self.parameters if p.default is REQUIRED)

    def parameter(self, key: int | str) -> Parameter | None:
        """The parameter at a position (keyword-only ones excluded) or of a name."""
        if isinstance(key, str):
            return self._by_name.get(key)
        return self.positional[key] if key < len(self.positional) else None

    def gathered(self, args: Sequence[Any]) -> Sequence[Any]:
        """Positional arguments, one a parameter: methods take sizes one by one, too."""
        if self.kind != "method":
            return args
        return _gathered(args, self.positional)

    def bind(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Arguments by parameter name, without defaults; None if they do not fit."""
        args = self.gathered(args)
        if len(args) > len(self.positional):
            return None
        pairs = zip(self.positional, args, strict=False)
        bound = {parameter.name: value for parameter, value in pairs}
        if any(name in bound or name not in self._by_name for name in kwargs):
            return None
        bound.update(kwargs)
        return bound if bound.keys() >= self._required else None


def _gathered(args: Sequence[Any], positional: Sequence[Parameter]) -> Sequence[Any]:
    """`x.reshape(2, -1)` and `x.reshape(-1)` mean `x.reshape([...])`."""
    takes_sizes = len(positional) == 2 and positional[1].type.endswith("[]")
    if takes_sizes and (len(args) > 2 or any(isinstance(a, int) for a in args[1:])):
        return args[0], list(args[1:])
    return args
