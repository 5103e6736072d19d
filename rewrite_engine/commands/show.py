"""`show`: a rule as written, as two graphs, and as concrete pairs."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from rewrite_engine.commands import console
from rewrite_engine.commands.libraries import rule_path, rules_in
from rewrite_engine.commands.outcome import DONE, UsageError
from rewrite_engine.rule_files import shipped_files

if TYPE_CHECKING:
    from pathlib import Path

    from torch import fx

    from rewrite_engine.commands import Subparsers
    from rewrite_engine.lowering.instances import Instance
    from rewrite_engine.lowering.rule import CompiledRule

# The homes of what stands for operators and choices in the graphs of a rule.
_HOMES = re.compile(r"rewrite_engine\.lowering\.\w+\.")


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser("show", help="show a rule, its graphs and instances")
    parser.add_argument("rule", metavar="RULE", help="name of a rule")
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="path, or library; by default all"
    )
    parser.add_argument(
        "--instance", type=int, metavar="N", help="show the graphs of one instance only"
    )
    sides = parser.add_mutually_exclusive_group()
    sides.add_argument("--before", action="store_true", help="the left side only")
    sides.add_argument("--after", action="store_true", help="the right side only")
    parser.add_argument(
        "--dot", action="store_true", help="print the graphs as Graphviz text"
    )
    parser.add_argument(
        "--program", action="store_true", help="show how the rule is looked for"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print one rule."""
    path = _file_of(arguments.rule, arguments.file)
    from rewrite_engine import engine

    rules = engine.load(path)
    rule = rules[arguments.rule]
    out = console.output()
    if arguments.program:
        from rewrite_engine.matching.program_text import program_text

        out.print(program_text(rules.program, rule.name))
        return DONE
    graphs = _graphs(rule, arguments)
    if arguments.dot:
        for title, module in graphs:
            out.print(_dot(title, module), end="")
    elif arguments.instance is None and not (arguments.before or arguments.after):
        _print_rule(rule, out)
    else:
        for title, module in graphs:
            _print_graph(title, module, out)
    return DONE


def _graphs(
    rule: CompiledRule, arguments: argparse.Namespace
) -> list[tuple[str, fx.GraphModule]]:
    """The two sides, of the rule or of one instance, or the one that is asked for."""
    sides: CompiledRule | Instance = rule
    titles = ("matcher", "replacement")
    if arguments.instance is not None:
        sides = _instance(rule, arguments.instance)
        titles = (f"{rule.name} {arguments.instance}: matched", "built")
    graphs = list(zip(titles, (sides.matcher, sides.replacement), strict=True))
    return graphs[:1] if arguments.before else graphs[1:] if arguments.after else graphs


def _instance(rule: CompiledRule, number: int) -> Instance:
    instances = rule.instances()
    if not 0 <= number < len(instances):
        raise UsageError(f"`{rule.name}` has the instances 0 to {len(instances) - 1}")
    return instances[number]


def _dot(title: str, module: fx.GraphModule) -> str:
    from rewrite_engine.graph_dot import dot_text

    return _HOMES.sub("", dot_text(module.graph, title))


def _file_of(rule: str, file: str | None) -> Path:
    """The file that holds a rule. Raises UsageError if none does."""
    paths = shipped_files() if file is None else [rule_path(file)]
    names = {found.name: path for path in paths for found in rules_in(path)}
    if rule not in names:
        where = "the shipped libraries" if file is None else file
        raise UsageError(f"no rule `{rule}` in {where}; there is {_listed(names)}")
    return names[rule]


def _listed(names: dict[str, Path]) -> str:
    return ", ".join(names) or "none"


def _print_rule(rule: CompiledRule, out: Console) -> None:
    out.print(Text(f"{rule.name}  {rule.place}", "bold"))
    out.print()
    for line in rule.doc.splitlines():
        out.print(f"## {line}".rstrip())
    out.print(rule.source_text)
    _print_graph("matcher", rule.matcher, out)
    _print_graph("replacement", rule.replacement, out)
    instances = rule.instances()
    console.print_heading(console.counted(len(instances), "instance"), out)
    for number, instance in enumerate(instances):
        out.print(f"{number:4}  {_calls(instance)}")


def _print_graph(title: str, module: fx.GraphModule, out: Console) -> None:
    from rewrite_engine.graph_text import graph_text

    console.print_heading(title, out)
    lines = graph_text(module, types=False).splitlines()[1:]
    out.print(_HOMES.sub("", "\n".join(line.removeprefix("  ") for line in lines)))


def _calls(instance: Instance) -> str:
    """The calls of a concrete left side, with the operands that are there."""
    names = {node: name for name, node in instance.calls.items()}
    return "  ".join(f"{name} = {_call(node, names)}" for node, name in names.items())


def _call(node: fx.Node, names: dict[fx.Node, str]) -> str:
    """A call with the operands that the rule names; `-` is one that is absent."""
    from rewrite_engine.value_text import target_text

    operands = [names.get(arg, str(arg)) if arg else "-" for arg in node.args]
    own = [each for each in operands if not each.startswith(f"{names[node]}_")]
    return f"{target_text(node.target).removesuffix('.default')}({', '.join(own)})"
