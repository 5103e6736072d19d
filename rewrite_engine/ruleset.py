"""A loaded set of rules: immutable, hashable, picklable, and itself an fx pass."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import attrs

from rewrite_engine import torch_ops
from rewrite_engine.collector import paused_gc
from rewrite_engine.dsl.checked import Phase, RuleFile, Test
from rewrite_engine.errors import RuleError
from rewrite_engine.lowering.result_types import check_result_types
from rewrite_engine.lowering.rule import CompiledRule, compile_rule
from rewrite_engine.report import Report

# What matches and rewrites is imported when a graph is there; loading needs none of it.
if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from rewrite_engine.caching.known_file import KnownFile
    from rewrite_engine.graph_text import Model
    from rewrite_engine.matching.machine import Judge
    from rewrite_engine.matching.program import Program
    from rewrite_engine.rewriting.driver import Limits
    from rewrite_engine.rewriting.run import Recompile, Result, Watcher


@attrs.frozen(eq=False, slots=False)
class _Compiled:
    """The rules of a file for the operators that are registered with torch."""

    rules: tuple[CompiledRule, ...]
    phases: tuple[Phase, ...]

    @staticmethod
    def of(file: RuleFile) -> _Compiled:
        return _Compiled(tuple(map(compile_rule, file.rules)), file.phases)

    @cached_property
    @paused_gc()
    def program(self) -> Program:
        return _program(self.rules)

    @cached_property
    def programs(self) -> tuple[Program, ...]:
        """What is run: the phases of the pipeline, or all rules together."""
        named = {rule.name: rule for rule in self.rules}
        if not self.phases:
            return (self.program,)
        return tuple(
            _program([named[name].running(once=phase.once) for name in phase.rules])
            for phase in self.phases
        )


def _program(rules: Sequence[CompiledRule]) -> Program:
    from rewrite_engine.matching.automaton import build_program

    return build_program(rules)


@attrs.frozen(eq=False, slots=False)
class RuleSet:
    """Rules that were parsed, checked and compiled together.

    Two rule sets are equal if their rules were written alike. One rule set may be used
    by several threads, on different graphs.
    """

    name: str
    _origin: RuleFile | KnownFile = attrs.field(repr=False)
    """The rules, or a file with them that is read when it is needed."""

    _compiled: dict[frozenset[str], _Compiled] = attrs.field(
        factory=dict, init=False, repr=False
    )
    """By the libraries whose operators were not there yet."""
    _parts: dict[frozenset[str], RuleSet] = attrs.field(
        factory=dict, init=False, repr=False
    )
    """The rules that the first model needed, by their names."""

    @property
    def file(self) -> RuleFile:
        """The checked rules, and the tests beside them."""
        origin = self._origin
        return origin if isinstance(origin, RuleFile) else origin.whole

    @property
    def rules(self) -> tuple[CompiledRule, ...]:
        return self._now.rules

    @property
    def program(self) -> Program:
        return self._now.program

    @property
    def _now(self) -> _Compiled:
        missing = torch_ops.missing_libraries()
        found = self._compiled.get(missing)
        return found or self._compiled.setdefault(missing, _Compiled.of(self.file))

    def check(self) -> None:
        """Compile the rules and check what only torch can tell.

        Raises: RuleError, if a right side cannot have the type of its left side.
        """
        pairs = zip(self.file.rules, self.rules, strict=True)
        found = [d for rule, made in pairs for d in check_result_types(rule, made)]
        if found:
            raise RuleError(found)

    @property
    def tests(self) -> tuple[Test, ...]:
        return self.file.tests

    @cached_property
    def content_hash(self) -> str:
        """Names the rules by their text and phases, the same in every process."""
        texts = sorted({rule.source.text for rule in self.file.rules})
        names = [rule.name for rule in self.file.rules]
        phases = map(repr, self.file.phases)
        return hashlib.sha256("\0".join([*names, *phases, *texts]).encode()).hexdigest()

    def __iter__(self) -> Iterator[CompiledRule]:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.file.rules)

    def __getitem__(self, name: str) -> CompiledRule:
        """The rule of a name. Raises: KeyError."""
        found = next((rule for rule in self.rules if rule.name == name), None)
        if found is None:
            known = ", ".join(rule.name for rule in self.rules)
            raise KeyError(f"no rule `{name}`; there is {known or 'none'}")
        return found

    def only(self, *names: str, once: bool = False) -> RuleSet:
        """The rules of these names alone, in the phases in which they run, or with
        `once` together, each at most once at each place.

        Raises: KeyError.
        """
        for name in names:
            self[name]
        return RuleSet(self.name, self.file.only(frozenset(names), once=once))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RuleSet) and other.content_hash == self.content_hash

    def __hash__(self) -> int:
        return hash(self.content_hash)

    def __getstate__(self) -> tuple[str, RuleFile]:
        return self.name, self.file

    def __setstate__(self, state: tuple[str, RuleFile]) -> None:
        self.__init__(*state)  # type: ignore[misc]  # the one way to fill frozen fields

    def __call__(self, model: Model) -> Result:
        """Apply the rules: the calling convention of fx passes, and of the passes over
        exported programs whose results have an `exported_program`.
        """
        return self.apply(model)

    def inductor_pass(self, stage: str = "post_grad_custom_pre_pass") -> Any:
        """The rules as a custom pass of inductor, and a context manager that adds it to
        inductor's setting `stage`: see `integrations.inductor`.
        """
        # Looked up by name: integrations are built on rule sets, and import inductor.
        made = import_module("rewrite_engine.integrations.inductor").InductorPass
        return made(self, stage)

    def as_exported_program_pass(
        self,
        *,
        recurse: bool = False,
        on_report: Callable[[Report], object] | None = None,
    ) -> Callable[[ExportedProgram], ExportedProgram]:
        """The rules as a function that leaves the program it is given as it is and
        returns the rewritten one: see `integrations.export`.
        """
        home = import_module("rewrite_engine.integrations.export")
        made: Callable[[ExportedProgram], ExportedProgram]
        made = home.ExportedProgramPass(self, recurse, on_report)
        return made

    def apply(
        self,
        model: Model,
        *,
        recurse: bool = False,
        guard: Judge | None = None,
        limits: Limits | None = None,
        watch: Watcher | None = None,
        recompile: Recompile = "eager",
    ) -> Result:
        """See `engine.apply`; `watch` makes what sees the rewrites of each graph."""
        from rewrite_engine.rewriting.driver import Limits
        from rewrite_engine.rewriting.run import run

        rules, known = self._enough_for(model), self._origin
        result = run(
            rules._now.programs,
            model,
            recurse=recurse,
            guard=guard,
            limits=limits or Limits(),
            watch=watch,
            recompile=recompile,
        )
        if rules is self or isinstance(known, RuleFile):
            return result
        return attrs.evolve(result, report=known.index.completed(result.report))

    def _enough_for(self, model: Model) -> RuleSet:
        """Some of the rules, or all, that do to a model what all of them do."""
        known = self._origin
        names = None if isinstance(known, RuleFile) else known.possible(model)
        if names is None or isinstance(known, RuleFile):
            return self
        for held, rules in list(self._parts.items()):
            if names <= held:
                return rules
        # Models that need other rules than the first one make it worth to have all.
        part = None if self._parts else known.part(names)
        if part is None:
            return self
        return self._parts.setdefault(names, RuleSet(self.name, part))
