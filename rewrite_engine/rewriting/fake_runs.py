"""Calls of a graph, run on fake tensors: what they give, without computing it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental import _config

from rewrite_engine.errors import RewriteError, first_line


class ValueInferenceError(RewriteError):
    """The value of a new node cannot be derived; `reason` says why, in one line."""

    def __init__(self, node: fx.Node, reason: str) -> None:
        self.node = node
        self.reason = reason
        super().__init__(f"the type of {node.name} cannot be derived: {reason}")


def run(
    node: fx.Node,
    value_of: Callable[[fx.Node], Any],
    mode: FakeTensorMode,
    sizes: AbstractContextManager[None] | None = None,
) -> Any:
    """The value of a call whose operands have the values that `value_of` gives.

    `sizes` answers what it asks about dynamic sizes; without it nothing is answered
    that would specialise them.

    Raises: ValueInferenceError, if the call fails, or would need such an answer.
    """
    if node.op == "call_module":
        raise ValueInferenceError(node, "it calls a module")
    if torch.Tag.inplace_view in getattr(node.target, "tags", ()):
        raise ValueInferenceError(node, "it changes the shape of its operand")
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), value_of)
    try:
        with torch.no_grad(), mode, sizes or _sizes_unchanged(mode):
            if node.op == "call_method":
                return getattr(args[0], node.target)(*args[1:], **kwargs)
            return node.target(*args, **kwargs)
    except Exception as error:
        raise ValueInferenceError(node, first_line(error)) from error


@contextmanager
def _sizes_unchanged(mode: FakeTensorMode) -> Iterator[None]:
    """Fails if the code needs a new guard on a dynamic size, or a new such size.

    What operators ask about sizes only to be quick (`guard_or_false`) is answered as
    if it was not known: the answer then holds for every size, and needs no guard.
    """
    sizes = mode.shape_env
    if sizes is None:
        yield
        return
    pending = sizes.pending_fresh_unbacked_symbols
    known = len(pending)
    general = _config.patch(backed_size_oblivious=True)
    with sizes.error_on_new_guards(), general, _unlogged():
        yield
    if len(pending) > known:
        del pending[known:]
        raise ValueError("the shape of its result depends on data")


_LOGS: Final = tuple(
    logging.getLogger(f"torch.{name}")
    for name in ("_subclasses.fake_tensor", "fx.experimental.symbolic_shapes")
)


@contextmanager
def _unlogged() -> Iterator[None]:
    """Without what torch logs when an operator raises: that is an answer here."""
    thread = threading.get_ident()

    def others(_record: logging.LogRecord) -> bool:
        return threading.get_ident() != thread

    for log in _LOGS:
        log.addFilter(others)
    try:
        yield
    finally:
        for log in _LOGS:
            log.removeFilter(others)
