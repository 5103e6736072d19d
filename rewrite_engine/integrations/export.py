"""Rules as a pass from exported programs to exported programs."""

from __future__ import annotations

import copy
from collections.abc import Callable

import attrs
from torch.export import ExportedProgram

from rewrite_engine.report import Report
from rewrite_engine.ruleset import RuleSet


@attrs.frozen
class ExportedProgramPass:
    """Gives the rewritten program and leaves the one it is given as it is.

    A program in which nothing matches is returned itself, as the passes of
    `torch.export` do. Weights are shared by both programs. `on_report` is called with
    the report of every run.
    """

    rules: RuleSet
    recurse: bool = False
    on_report: Callable[[Report], object] | None = None

    def __call__(self, program: ExportedProgram) -> ExportedProgram:
        """The program, rewritten.

        Raises: TypeError, if it is no exported program; RewriteError.
        """
        if not isinstance(program, ExportedProgram):
            got = type(program).__name__
            raise TypeError(f"expected an ExportedProgram, got {got}")
        rewritten = _copy(program)
        result = self.rules.apply(rewritten, recurse=self.recurse)
        if self.on_report is not None:
            self.on_report(result.report)
        if not result.modified:
            return program
        rewritten.validate()
        return rewritten


def _copy(program: ExportedProgram) -> ExportedProgram:
    """A program of its own graphs, on the same tensors: rules never write into one."""
    shared = (*program.state_dict.values(), *program.constants.values())
    inputs = program.example_inputs
    made = copy.deepcopy(program, {id(each): each for each in (*shared, inputs)})
    for node, copied in zip(program.graph.nodes, made.graph.nodes, strict=True):
        # The signature goes by names, and fx renames what is called like a builtin.
        copied.name = node.name
    return made
