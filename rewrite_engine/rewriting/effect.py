"""What running a node does besides computing a new value."""

from __future__ import annotations

from typing import Final

import attrs
from torch import fx, nn


@attrs.frozen
class Effect:
    """What running a node does besides computing a new value.

    `writes`: operands whose storage is written. `aliases`: operands whose storage the
    result may share. `clobbers`: may write anything. `random`: draws from the random
    number stream. `own_state`: writes tensors that the called module owns.
    `effectful`: must not be dropped, duplicated or reordered.
    """

    writes: tuple[fx.Node, ...] = ()
    aliases: tuple[fx.Node, ...] = ()
    clobbers: bool = False
    random: bool = False
    own_state: bool = False
    effectful: bool = False

    @property
    def is_private(self) -> bool:
        """Whether nothing is done but to what the called module owns."""
        others = self.writes or self.clobbers or self.random
        return self.own_state and not others


PURE: Final = Effect()
"""The effect of a node that only computes a new value."""


def clobber(node: fx.Node) -> Effect:
    """The effect of a call of which nothing is known."""
    return Effect(aliases=tuple(node.all_input_nodes), clobbers=True, effectful=True)


def gather(node: fx.Node) -> Effect:
    """The effect of a call whose result may be any of its operands."""
    return Effect(aliases=tuple(node.all_input_nodes))


def owned_module(node: fx.Node, module: nn.Module | None) -> nn.Module | None:
    """The module that a `call_module` node calls; None when there is none."""
    if module is None or node.op != "call_module":
        return None
    try:
        return module.get_submodule(str(node.target))
    except AttributeError:
        return None
