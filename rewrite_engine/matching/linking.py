"""Blocks of instructions, and how they are linked: each knows the one that follows."""

from __future__ import annotations

from typing import Any, TypeAlias

from rewrite_engine.matching import instructions as code
from rewrite_engine.matching.chains import Repeat

Block: TypeAlias = list[Any]
"""Instructions in the order in which they run; those that branch, with the blocks of
their branches.
"""


def link(block: Block, after: Any) -> Any:
    """Set the successors of a block's instructions; its first instruction."""
    for item in reversed(block):
        after = _link_item(item, after)
    return after


def _link_item(item: Any, after: Any) -> Any:
    if not isinstance(item, tuple):
        item.next = after
        return item
    instruction, inner = item
    if isinstance(instruction, code.Once):
        instruction.next = after
        instruction.first = link(inner, after)
    elif isinstance(instruction, Repeat):
        instruction.done = after
        instruction.link = link(inner, instruction)
    elif isinstance(instruction, code.IfAbsent):
        instruction.absent, instruction.present = (link(b, after) for b in inner)
    else:
        instruction.branches = [link(branch, after) for branch in inner]
    return instruction
