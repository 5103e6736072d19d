"""`extract`: a rule from a part of a graph, or from two Python functions."""

from __future__ import annotations

import argparse
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewrite_engine.commands import console
from rewrite_engine.commands.options import add_trust_pickle
from rewrite_engine.commands.outcome import DONE, UsageError

if TYPE_CHECKING:
    from rewrite_engine.commands import Subparsers

_DESCRIPTION = """\
Print a rule from a part of a graph, or from two Python functions:
  rewrite-engine extract MODEL.pt2 NODE NODE ...
  rewrite-engine extract FUNCTIONS.py PATTERN REPLACEMENT   (runs the file)
"""


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "extract",
        help="write a rule from a part of a graph or from two functions",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, metavar="MODEL.pt2|FUNCTIONS.py")
    parser.add_argument("names", nargs="+", metavar="NAME", help="nodes, or functions")
    parser.add_argument("--name", metavar="RULE", help="what the rule is called")
    parser.add_argument(
        "--capture",
        action="store_true",
        help="take any literals, as `$names`, instead of those of the example",
    )
    add_trust_pickle(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print one rule."""
    from_python = arguments.source.suffix == ".py"
    text = _from_functions(arguments) if from_python else _from_nodes(arguments)
    console.output().print(text, end="")
    return DONE


def _from_nodes(arguments: argparse.Namespace) -> str:
    from rewrite_engine import engine
    from rewrite_engine.model_files import load_program

    program = load_program(arguments.source, trust_pickle=arguments.trust_pickle)
    return engine.extract(program, arguments.names, **_options(arguments))


def _from_functions(arguments: argparse.Namespace) -> str:
    if len(arguments.names) != 2:
        raise UsageError("two functions make a rule: the pattern and the replacement")
    if not arguments.source.exists():
        raise UsageError(f"{arguments.source}: no such file")
    from rewrite_engine import engine

    defined = runpy.run_path(str(arguments.source))
    for name in arguments.names:
        if not callable(defined.get(name)):
            raise UsageError(f"{arguments.source} defines no function `{name}`")
    pattern, replacement = (defined[name] for name in arguments.names)
    return engine.extract_pair(pattern, replacement, **_options(arguments))


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    options = {"literals": "capture" if arguments.capture else "pin"}
    return options | ({"name": arguments.name} if arguments.name else {})
