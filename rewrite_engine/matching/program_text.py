"""A matching program to read: what is tested where, and the code that does it."""

from __future__ import annotations

from collections.abc import Iterator

from rewrite_engine.lowering.operators import OperatorPattern
from rewrite_engine.lowering.spellings import CallKey
from rewrite_engine.matching.branches import Branch
from rewrite_engine.matching.net import Net
from rewrite_engine.matching.net_source import NetFunction
from rewrite_engine.matching.program import Program, RuleProgram
from rewrite_engine.matching.sketches import IsCall, Position, Test

Names = dict[CallKey, str]


def program_text(program: Program, rule: str) -> str:
    """Where a rule is looked for: the tests that it shares with the others, and code.

    Raises: KeyError, if there is no such rule.
    """
    numbers = {i for i, each in enumerate(program.rules) if each.rule.name == rule}
    if not numbers:
        raise KeyError(rule)
    names = _names(program)
    alike: list[tuple[Net, list[CallKey]]] = []
    for key, net in program.nets.items():
        same = next((keys for known, keys in alike if known.rules == net.rules), None)
        if same is not None:
            same.append(key)
        elif numbers & net.rules.keys():
            alike.append((net, [key]))
    parts = [_net_text(program, net, keys, names) for net, keys in alike]
    parts += (_run_text(program.rules[number]) for number in sorted(numbers))
    return "\n\n".join(parts)


def _run_text(rule: RuleProgram) -> str:
    """What is done where a rule is tried, up to the first choice."""
    code = rule.instructions.entry.code
    constants = (f"# {name}: {meaning}" for name, meaning in code.meanings.items())
    return "\n".join([f"# to try {rule.rule.name}:", *constants, code.text.rstrip()])


def _names(program: Program) -> Names:
    """Operators as rule files write them."""
    return {
        key: spelling.signature.path
        for each in program.rules
        for node in each.rule.matcher_graph.nodes
        if isinstance(node.target, OperatorPattern)
        for spelling in node.target.spellings
        for key in spelling.keys
    }


def _net_text(program: Program, net: Net, keys: list[CallKey], names: Names) -> str:
    lines = [f"at {_listed(keys, names)}:"]
    lines += _branch_lines(program, net.tree, names, "  ")
    for function in _functions(net.function):
        lines += ["", *function.text.splitlines()]
    return "\n".join(lines)


def _listed(keys: list[CallKey], names: Names) -> str:
    return " | ".join(sorted({names[key] for key in keys}))


def _branch_lines(
    program: Program, branch: Branch, names: Names, indent: str
) -> Iterator[str]:
    for number in sorted(branch.rules):
        yield f"{indent}try {program.rules[number].rule.name}"
    for (position, _), tests in branch.tests.items():
        for test, below in tests.items():
            yield f"{indent}if {_place(position)} is {_wanted(test, names)}:"
            yield from _branch_lines(program, below, names, indent + "  ")


def _place(position: Position) -> str:
    return "argument " + ".".join(map(str, position))


def _wanted(test: Test, names: Names) -> str:
    if isinstance(test, IsCall):
        return _listed(list(test.keys), names)
    return str(test.key[1]) if isinstance(test.key, tuple) else repr(test.key)


def _functions(function: NetFunction) -> list[NetFunction]:
    """A function and those it calls; of those with the same code, the first."""
    found, todo = {function.text: function}, [function]
    while todo:
        for each in todo.pop().called():
            if each.text not in found:
                found[each.text] = each
                todo.append(each)
    return list(found.values())
