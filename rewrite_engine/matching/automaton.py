"""From matcher graphs to a matching program: one for a whole rule set.

Every rule's matcher becomes a graph of instructions; the program dispatches a node to
the rules that a call of its target can anchor, larger benefit first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import fx

from rewrite_engine.lowering.operators import CallKey, Spelling
from rewrite_engine.lowering.patterns import roots_of
from rewrite_engine.lowering.rule import CompiledRule
from rewrite_engine.matching.compiler import RuleCompiler
from rewrite_engine.matching.program import Program, RuleProgram
from rewrite_engine.matching.structure import anchor_calls


def build_program(rules: Sequence[CompiledRule]) -> Program:
    """The program of a rule set; rules of equal benefit stay in the order given."""
    ordered = sorted(rules, key=lambda rule: -rule.benefit)
    programs = tuple(RuleCompiler.compile(rule) for rule in ordered)
    anchors: dict[CallKey, list[RuleProgram]] = {}
    targets: dict[CallKey, tuple[str, Any]] = {}
    for program in programs:
        for spelling in _anchor_spellings(roots_of(program.rule.matcher_graph)[0]):
            for key in spelling.keys:
                rules_here = anchors.setdefault(key, [])
                if program not in rules_here:
                    rules_here.append(program)
            for key, target in zip(spelling.keys, _indexed(spelling), strict=False):
                targets[key] = spelling.op, target
    frozen = {key: tuple(found) for key, found in anchors.items()}
    # Every module class is one entry of fx's index: all calls of modules.
    return Program(programs, frozen, tuple(dict.fromkeys(targets.values())))


def _indexed(spelling: Spelling) -> tuple[Any, ...]:
    """What fx indexes calls like these by: a module's calls have no common target."""
    return spelling.targets if spelling.form is None else (None,)


def _anchor_spellings(pattern: fx.Node) -> Iterator[Spelling]:
    for call in anchor_calls(pattern):
        yield from call.target.spellings
