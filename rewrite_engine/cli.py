"""The command line: what each command does is in `commands`, how it ends is here."""

from __future__ import annotations

import argparse
import functools
import os
import sys
import traceback
import warnings
from collections.abc import Sequence

from rewrite_engine.commands import (
    apply,
    bisect,
    check,
    console,
    coverage,
    demo,
    diff,
    explain,
    explain_code,
    extract,
    fmt,
    lsp,
    outcome,
    show,
    test,
    verify,
)
from rewrite_engine.commands import list as list_
from rewrite_engine.errors import GraphError, RewriteError, RuleError

_COMMANDS = (
    demo,
    apply,
    explain,
    extract,
    bisect,
    coverage,
    diff,
    check,
    fmt,
    show,
    list_,
    test,
    verify,
    explain_code,
    lsp,
)
_DESCRIPTION = "Rewrite PyTorch graphs with rules."
_EPILOG = (
    "exit status: 0 done, 1 findings, 2 usage or rule error, 3 refused input, "
    "70 internal error"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command with `argv`, by default the process's arguments.

    Returns the exit status: 0 done, 1 findings, 2 usage or rule error, 3 refused
    input, 70 internal error; 130 if interrupted, 141 if the reader of a pipe is gone.
    """
    try:
        arguments = _parser().parse_args(argv, argparse.Namespace(traceback=False))
    except SystemExit as exit:
        return int(exit.code or 0)
    try:
        status = _run(arguments)
    except KeyboardInterrupt:
        return outcome.INTERRUPTED
    except BrokenPipeError:
        return _leave_pipe()
    except Exception as error:
        return _report(error, show_traceback=arguments.traceback)
    return status


def _run(arguments: argparse.Namespace) -> int:
    with warnings.catch_warnings():
        # Those of torch about itself are not for the user of a command.
        warnings.simplefilter("ignore")
        status: int = arguments.run(arguments)
    sys.stdout.flush()
    return status


def _parser() -> argparse.ArgumentParser:
    # Accepted before and after the command, hence no default that would reset it.
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    text = "show where an internal error happened"
    common.add_argument("--traceback", action="store_true", help=text)
    parser = argparse.ArgumentParser(
        "rewrite-engine", description=_DESCRIPTION, epilog=_EPILOG, parents=[common]
    )
    commands = parser.add_subparsers(
        required=True,
        metavar="COMMAND",
        parser_class=functools.partial(argparse.ArgumentParser, parents=[common]),  # type: ignore[call-overload]  # any factory will do
    )
    for command in _COMMANDS:
        command.register(commands)
    return parser


def _report(error: Exception, *, show_traceback: bool) -> int:
    """Say what went wrong, in as many lines as it needs."""
    err = console.errors()
    if isinstance(error, RuleError):
        for diagnostic in error.diagnostics:
            err.print(console.diagnostic_text(diagnostic), end="\n\n")
        return outcome.USAGE
    status = _status(error)
    if show_traceback:
        traceback.print_exception(error, file=sys.stderr)
    elif status == outcome.INTERNAL:
        err.print(f"internal error: {_in_one_line(error)}")
        err.print("`--traceback` shows where; please report it with the model or rules")
    else:
        err.print(f"error: {error}")
    return status


def _status(error: Exception) -> int:
    if isinstance(error, outcome.UsageError | RewriteError | OSError):
        return outcome.USAGE
    if isinstance(error, GraphError):
        return outcome.REFUSED
    return outcome.INTERNAL


def _in_one_line(error: Exception) -> str:
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _leave_pipe() -> int:
    # Python flushes standard output once more at exit, and must find it open.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return outcome.BROKEN_PIPE
