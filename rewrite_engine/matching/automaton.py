"""From matcher graphs to a matching program: one for a whole rule set.

Every rule's matcher becomes sketches, which say where the rule is worth trying, and a
graph of instructions, which decides. The sketches of all rules are merged into one net
for each anchoring operator.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from rewrite_engine.lowering.patterns import roots_of
from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.lowering.spellings import CallKey
from rewrite_engine.matching.net import Net
from rewrite_engine.matching.net_source import keys_of
from rewrite_engine.matching.program import Program, RuleProgram
from rewrite_engine.matching.sketches import IsCall, Sketch, sketches


def build_program(rules: Sequence[CompiledRule]) -> Program:
    """The program of a rule set; rules of equal benefit stay in the order given."""
    ordered = sorted(rules, key=lambda rule: -rule.benefit)
    programs = tuple(
        RuleProgram(rule, sketches(roots_of(rule.matcher_graph)[0])) for rule in ordered
    )
    found: dict[CallKey, dict[int, tuple[Sketch, ...]]] = {}
    for number, program in enumerate(programs):
        for key, ways in program.sketches.items():
            found.setdefault(key, {})[number] = ways
    nets = {key: Net(rules_here) for key, rules_here in found.items()}
    return Program(programs, nets, _depths(nets.values()))


def _depths(nets: Iterable[Net]) -> dict[Hashable, int]:
    depths: dict[Hashable, int] = {}
    for test in {test for net in nets for sketch in net.sketches for test in sketch}:
        for key in keys_of(test) if isinstance(test, IsCall) else ():
            depths[key] = max(depths.get(key, 0), len(test.position))
    return depths
