"""`lsp`: the language server that editors start."""

from __future__ import annotations

import argparse
import gc
import sys
from typing import TYPE_CHECKING

from rewrite_engine.commands.outcome import DONE, UsageError
from rewrite_engine.language_server.replies import own_output

if TYPE_CHECKING:
    from rewrite_engine.commands import Subparsers

_MISSING = "the language server needs an extra: pip install 'rewrite-engine[lsp]'"


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser("lsp", help="serve an editor over standard input")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until the editor says that it is done."""
    try:
        from rewrite_engine.language_server.server import create_server
    except ModuleNotFoundError as error:
        if error.name not in ("pygls", "lsprotocol"):
            raise
        raise UsageError(_MISSING) from None
    # What is loaded by now stays; no time is spent on looking for garbage in it.
    gc.freeze()
    with own_output() as replies:
        create_server().start_io(sys.stdin.buffer, replies)
    return DONE
