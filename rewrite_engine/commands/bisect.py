"""`bisect`: the first rewrite that breaks a check."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rewrite_engine.commands import console
from rewrite_engine.commands.libraries import rule_path
from rewrite_engine.commands.options import add_trust_pickle
from rewrite_engine.commands.outcome import FINDINGS

if TYPE_CHECKING:
    from rewrite_engine.bisecting import FirstRewrites
    from rewrite_engine.commands import Subparsers
    from rewrite_engine.ruleset import RuleSet


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser("bisect", help="find the rewrite that breaks a check")
    parser.add_argument("model", type=Path, metavar="MODEL.pt2")
    parser.add_argument("rules", metavar="RULES", help="library, or path")
    parser.add_argument(
        "--check",
        required=True,
        metavar="CMD",
        help="a command that ends with 0 for a good model; its path takes the place "
        "of `{}`, or comes last",
    )
    add_trust_pickle(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the check with fewer and fewer rewrites; the model itself is only read."""
    path = rule_path(arguments.rules)
    from rewrite_engine import engine
    from rewrite_engine.bisecting import first_failure

    rules, out = engine.load(path), console.output()
    with tempfile.TemporaryDirectory() as folder:
        changed = Path(folder) / "model.pt2"

        def passes(limit: int) -> bool:
            _apply(arguments, rules, limit, changed)
            good = _check(arguments.check, changed)
            out.print(f"{console.counted(limit, 'rewrite')}: {_OUTCOME[good]}")
            return good

        total = len(_apply(arguments, rules, 1 << 62, changed).made)
        number = first_failure(total, passes)
        rule, node = _apply(arguments, rules, number, changed).made[-1]
    out.print()
    out.print(f"rewrite {number} of {total} breaks the check: {rule} at {node}")
    out.print(f"  {rules[rule].place}")
    command = f"rewrite-engine apply {arguments.model} {arguments.rules}"
    out.print(f"  {command} --bisect-limit {number} -o OUT.pt2 writes that model")
    return FINDINGS


_OUTCOME = {True: "passes", False: "fails"}


def _apply(
    arguments: argparse.Namespace, rules: RuleSet, limit: int, target: Path
) -> FirstRewrites:
    from rewrite_engine.bisecting import FirstRewrites
    from rewrite_engine.model_files import load_program, save_program

    program = load_program(arguments.model, trust_pickle=arguments.trust_pickle)
    first = FirstRewrites(limit)
    first.apply(program, rules)
    save_program(program, target)
    return first


def _check(command: str, model: Path) -> bool:
    words = shlex.split(command)
    if "{}" in words:
        words = [str(model) if word == "{}" else word for word in words]
    else:
        words.append(str(model))
    return subprocess.run(words, check=False, capture_output=True).returncode == 0
