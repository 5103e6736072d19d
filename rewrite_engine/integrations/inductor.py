"""Rules as a custom pass of inductor, whose cache depends on their content."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Literal, TypeAlias

from torch import fx
from torch._inductor import config
from torch._inductor.custom_graph_pass import CustomGraphPass, get_custom_graph_passes

from rewrite_engine.errors import GraphError
from rewrite_engine.ruleset import RuleSet

Stage: TypeAlias = Literal[
    "pre_grad_custom_pass",
    "joint_custom_pre_pass",
    "joint_custom_post_pass",
    "post_grad_custom_pre_pass",
    "post_grad_custom_post_pass",
]
"""A setting of inductor that holds custom passes; the earliest first."""


class InductorPass(CustomGraphPass):
    """Applies rules to the graphs that inductor compiles.

    As a context manager it adds itself to the passes of its stage, after those that are
    there, and leaves the setting as it was:

        with rules.inductor_pass():
            compiled(x)  # compiled with the rules

    Compiled graphs are cached under the content of the rules: the same rules hit the
    cache, changed ones miss it.
    """

    def __init__(self, rules: RuleSet, stage: Stage) -> None:
        self.rules = rules
        self.stage = stage
        self._before: list[Any] = []

    def __call__(self, graph: fx.Graph) -> None:
        """Rewrite the graph of a module that is being compiled, in place.

        Raises: GraphError, if the graph belongs to no module.
        """
        module = graph.owning_module
        if module is None:
            raise GraphError("the graph to compile belongs to no module")
        self.rules.apply(module)

    def uuid(self) -> str:
        """What the compiled code depends on beside the graph."""
        return f"rewrite_engine {self.stage} {self.rules.content_hash}"

    def __reduce__(self) -> tuple[type[InductorPass], tuple[RuleSet, Stage]]:
        return InductorPass, (self.rules, self.stage)

    def __enter__(self) -> InductorPass:
        before = getattr(config, self.stage)
        self._before.append(before)
        setattr(config, self.stage, (*get_custom_graph_passes(before), self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        setattr(config, self.stage, self._before.pop())
