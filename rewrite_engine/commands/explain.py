"""`explain`: why rules did not rewrite what they might have."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from rewrite_engine.commands import console
from rewrite_engine.commands.libraries import rule_path, rules_in
from rewrite_engine.commands.options import add_trust_pickle
from rewrite_engine.commands.outcome import DONE, UsageError

if TYPE_CHECKING:
    from rewrite_engine.commands import Subparsers


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser("explain", help="say why rules did not match")
    parser.add_argument("model", type=Path, metavar="MODEL.pt2")
    parser.add_argument("rules", metavar="RULES", help="library, or path")
    parser.add_argument("--rule", metavar="R", help="only this rule")
    parser.add_argument("--node", metavar="N", help="only at this node of the graph")
    parser.add_argument(
        "--most", type=int, default=3, metavar="K", help="places a rule (default: 3)"
    )
    parser.add_argument(
        "--recurse", action="store_true", help="look into subgraphs, such as branches"
    )
    add_trust_pickle(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the nearest misses of every rule; the model is only read."""
    path = rule_path(arguments.rules)
    if arguments.rule is not None:
        _check_rule(arguments.rule, path)
    from rewrite_engine import engine
    from rewrite_engine.explaining.text import explanation_text
    from rewrite_engine.model_files import load_program

    with console.errors().status("looking for near misses"):
        program = load_program(arguments.model, trust_pickle=arguments.trust_pickle)
        rules = engine.load(path)
        explanation = engine.explain(
            program,
            rules,
            node=arguments.node,
            rule=arguments.rule,
            recurse=arguments.recurse,
        )
        text = explanation_text(explanation, arguments.most)
    console.output().print(coloured(text), end="")
    return DONE


def coloured(text: str) -> Text:
    """An explanation, coloured where colours are shown."""
    shown = Text(text)
    shown.highlight_regex(r"(?m)^(near miss|refused) at [^:]*", "bold yellow")
    shown.highlight_regex(r"(?m)^\w+(?=  \S+:\d+$)", "bold")
    shown.highlight_regex(r"(?m)^  (rule|graph|model|hint|then|note)(?=   | )", "cyan")
    shown.highlight_regex(r"(?m)^ *\| *\^+$", "bold red")
    return shown


def _check_rule(name: str, path: Path) -> None:
    known = [rule.name for rule in rules_in(path)]
    if name not in known:
        raise UsageError(f"no rule `{name}` in {path}; there is {', '.join(known)}")
