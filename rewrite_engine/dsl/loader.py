"""Rule files and what they use, read and checked as one set of rules."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import attrs

from rewrite_engine.assets import rules_directory
from rewrite_engine.collector import paused_gc
from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.analysis import analyse
from rewrite_engine.dsl.catalog import Catalog, default_catalog
from rewrite_engine.dsl.checked import RuleFile
from rewrite_engine.dsl.definitions import check_definition
from rewrite_engine.dsl.hooks import use_hooks
from rewrite_engine.dsl.operators import Operators
from rewrite_engine.dsl.parser import NOTHING_KNOWN, Part, parse, read
from rewrite_engine.dsl.pipelines import resolve_pipeline
from rewrite_engine.dsl.resolver import check_name, resolve_rule
from rewrite_engine.dsl.scanner import MAX_FILE_BYTES
from rewrite_engine.dsl.scopes import (
    Definition,
    Findings,
    Scope,
    spans_of_names,
)
from rewrite_engine.dsl.test_blocks import resolve_test
from rewrite_engine.dsl.used_files import locate
from rewrite_engine.dsl.validator import MAX_RULES, validate_rules
from rewrite_engine.errors import Diagnostic, RuleError
from rewrite_engine.source import Source, Span

PRELUDE: Final = "prelude.rules"
"""The shipped file whose operators and patterns every file has in scope."""

_MAX_LEVELS: Final = 100


def load_file(path: str | Path, catalog: Catalog | None = None) -> RuleFile:
    """The rules and tests of a file and of the files it uses.

    Raises RuleError with every fault of all of them, OSError if the file itself cannot
    be read. `catalog` holds the operators that may be named, by default torch's own.
    """
    return right(examine(read_source(path), Path(path), catalog=catalog)).file


def load_text(
    text: str, name: str = "<text>", catalog: Catalog | None = None
) -> RuleFile:
    """The rules and tests of a text, which may use shipped files only.

    Raises RuleError with every fault; `name` is what positions are reported under.
    """
    return right(examine(Source(name, text), None, catalog=catalog)).file


def check_file(
    path: str | Path, catalog: Catalog | None = None
) -> tuple[Diagnostic, ...]:
    """Every finding about a file and those it uses, warnings included."""
    try:
        source = read_source(path)
    except RuleError as error:
        return error.diagnostics
    return _with_analysis(examine(source, Path(path), catalog=catalog))


def check_text(
    text: str, name: str = "<text>", catalog: Catalog | None = None
) -> tuple[Diagnostic, ...]:
    """Every finding about a text and the files it uses, warnings included."""
    return _with_analysis(examine(Source(name, text), None, catalog=catalog))


@attrs.frozen(eq=False)
class Unit:
    """One file, opened: its items, what it defines or imports, and its tests.

    The files it uses are looked up beside `path`; a text has none.
    """

    scope: Scope
    path: Path | None
    items: tuple[nodes.Item, ...] = ()
    tests: list[tuple[nodes.TestDef, Scope]] = attrs.field(factory=list)
    uses: list[tuple[nodes.Use, Path]] = attrs.field(factory=list)


@attrs.frozen(eq=False)
class Examination:
    """A file as an editor asks about it, whatever is wrong with it.

    `units` are the file and those it uses by their real paths; `parts` are their items
    as read, by their text.
    """

    unit: Unit
    file: RuleFile
    findings: tuple[Diagnostic, ...]
    units: Mapping[str, Unit]
    parts: Mapping[str, Part]

    @property
    def errors(self) -> list[Diagnostic]:
        """The findings that are no mere warnings."""
        return [found for found in self.findings if found.is_error]


@paused_gc()
def examine(
    source: Source,
    path: Path | None,
    *,
    texts: Mapping[str, str] = MappingProxyType({}),
    known: Mapping[str, Part] = NOTHING_KNOWN,
    catalog: Catalog | None = None,
) -> Examination:
    """Everything about a text that is, or will be, the file at `path`.

    `texts` are used instead of the files at those real paths; `known` are the parts of
    earlier examinations, which are not parsed again.
    """
    session = _Session(catalog or default_catalog(), texts, known)
    unit = session.open(source, path)
    file = session.resolve(unit)
    found = session.findings.sorted()
    return Examination(unit, file, found, session.units, session.parts)


def prelude_scope() -> Scope:
    """What every file has in scope."""
    return _prelude(default_catalog())


def right(found: Examination) -> Examination:
    """What was given. Raises: RuleError, with every fault, if there is one."""
    if found.errors:
        raise RuleError(found.errors)
    return found


def _with_analysis(found: Examination) -> tuple[Diagnostic, ...]:
    return found.findings if found.errors else (*found.findings, *analyse(found.file))


@attrs.define(eq=False)
class _Session:
    """One load: every file is opened once, and all findings are gathered."""

    catalog: Catalog
    texts: Mapping[str, str]
    known: Mapping[str, Part]
    findings: Findings = attrs.field(factory=Findings)
    operators: Operators = attrs.field(init=False)
    units: dict[str, Unit] = attrs.field(factory=dict)
    parts: dict[str, Part] = attrs.field(factory=dict)
    _opening: list[str] = attrs.field(factory=list)

    @operators.default
    def _shared_operators(self) -> Operators:
        return _operators(self.catalog)

    def open(self, source: Source, path: Path | None) -> Unit:
        """Parse a file and those it uses, and check its definitions."""
        real = os.path.realpath(path) if path else ""
        is_prelude = real == _prelude_path()
        enclosing = None if is_prelude else _prelude(self.catalog)
        scope = Scope(source, self.catalog, self.findings, enclosing)
        self.findings.register(source)
        unit = Unit(scope, path, self._items(scope))
        self._opening.append(real)
        for item in unit.items:
            self._add(item, unit)
        self._opening.pop()
        self.units[real] = unit
        for definition in scope.definitions.values():
            if definition.scope is scope:
                check_definition(definition, self.operators)
        return unit

    def _items(self, scope: Scope) -> tuple[nodes.Item, ...]:
        reading = read(scope.source, self.known)
        self.parts.update((part.text, part) for part in reading.parts)
        self.findings.add_syntax(scope.source, reading.problems)
        return tuple(_fit_items(scope, reading.parts))

    def resolve(self, unit: Unit) -> RuleFile:
        """The rules and tests of a unit, checked."""
        definitions = tuple(unit.scope.rules.values())
        if len(definitions) > MAX_RULES:
            message = f"more than {MAX_RULES:,} rules are loaded together"
            unit.scope.report("E508", message, definitions[MAX_RULES].name_span)
            return RuleFile(())
        found = (resolve_rule(each, self.operators) for each in definitions)
        rules = tuple(rule for rule in found if rule is not None)
        tests = tuple(
            resolve_test(test, scope, self.operators) for test, scope in unit.tests
        )
        pipelines = [i for i in unit.items if isinstance(i, nodes.PipelineDef)]
        file = RuleFile(rules, tests, resolve_pipeline(unit.scope, pipelines))
        if not any(found.is_error for found in self.findings.sorted()):
            for diagnostic in validate_rules(file):
                self.findings.add(diagnostic)
        return file

    def _add(self, item: nodes.Item, unit: Unit) -> None:
        scope = unit.scope
        match item:
            case nodes.Use():
                self._use(item, unit)
            case nodes.UseHooks():
                use_hooks(item, scope)
            case nodes.PipelineDef():
                pass  # resolved when all rules are known
            case nodes.TestDef():
                unit.tests.append((item, scope))
            case _:
                definition = Definition(item, scope)
                check_name(scope, definition.name, definition.name_span)
                scope.define(definition)

    # --- used files ---

    def _use(self, use: nodes.Use, unit: Unit) -> None:
        folder = None if unit.path is None else unit.path.parent
        path = locate(use, unit.scope, folder, self.texts)
        if path is None:
            return
        real = os.path.realpath(path)
        unit.uses.append((use, path))
        if real == _prelude_path():
            _check_names(use, unit.scope, _prelude(self.catalog))
        elif real in self._opening:
            message = f"`{use.path}` uses this file, directly or through others"
            unit.scope.report("E211", message, use.span)
        else:
            used = self.units.get(real) or self._read_used(use, path, unit)
            if used is not None:
                _import(use, used, unit)

    def _read_used(self, use: nodes.Use, path: Path, unit: Unit) -> Unit | None:
        try:
            source = self._source(path)
        except RuleError as error:
            for diagnostic in error.diagnostics:
                self.findings.add(diagnostic)
        except OSError as error:
            message = f"`{use.path}` cannot be read: {error.strerror}"
            unit.scope.report("E210", message, use.span)
        else:
            return self.open(source, path)
        return None

    def _source(self, path: Path) -> Source:
        text = self.texts.get(os.path.realpath(path))
        return read_source(path) if text is None else Source(str(path), text)


def _fit_items(scope: Scope, parts: Iterable[Part]) -> Iterator[nodes.Item]:
    """The items of a file that are fit for visitors that recurse."""
    for part in parts:
        if part.levels <= _MAX_LEVELS:
            yield from part.items
            continue
        message = "an expression in here is nested too deep"
        hint = "give parts of it names, `y = …`"
        scope.report("E105", message, part.items[0].span, hint=hint)


def _import(use: nodes.Use, used: Unit, unit: Unit) -> None:
    """Make what a `use` asks for visible: all, or the names it lists."""
    if not _check_names(use, unit.scope, used.scope):
        return
    wanted = frozenset(use.names)
    for definition in (*used.scope.definitions.values(), *used.scope.rules.values()):
        if not wanted or definition.name in wanted:
            unit.scope.define(definition, use.span)
    known = {id(test) for test, _ in unit.tests}
    for test, scope in used.tests:
        if id(test) not in known and _is_wanted(test, wanted):
            unit.tests.append((test, scope))


def _is_wanted(test: nodes.TestDef, wanted: frozenset[str]) -> bool:
    """Whether a test is about the rules asked for."""
    expected = (e for e in test.expect if not isinstance(e, nodes.ExpectEqual))
    return not wanted or any(e.rule in wanted for e in expected)


def _check_names(use: nodes.Use, scope: Scope, used: Scope) -> bool:
    known = {*used.definitions, *used.rules}
    unknown = [name for name in use.names if name not in known]
    spans = spans_of_names(scope.source, use.span)
    for name in unknown:
        message = f"`{use.path}` defines no `{name}`"
        span = spans.get(name, use.span)
        scope.report("E210", message, span, hint=scope.did_you_mean(name, known))
    return not unknown


# --- paths and texts ---


@functools.cache
def _prelude_path() -> str:
    return os.path.realpath(rules_directory() / PRELUDE)


@functools.lru_cache(maxsize=4)
def _prelude(catalog: Catalog) -> Scope:
    source = read_source(_prelude_path())
    scope = Scope(attrs.evolve(source, name=PRELUDE), catalog, Findings())
    for item in parse(scope.source).items:
        if isinstance(item, nodes.OpDef | nodes.PatternDef | nodes.FamilyDef):
            scope.define(Definition(item, scope))
    return scope


@functools.lru_cache(maxsize=4)
def _operators(catalog: Catalog) -> Operators:
    return Operators()


def read_source(path: str | Path) -> Source:
    """The text of a file. Raises RuleError if it is too large or no UTF-8, OSError if
    it cannot be read.
    """
    with Path(path).open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    empty = Source(str(path), "")
    if len(data) > MAX_FILE_BYTES:
        message = f"a rule file holds at most {MAX_FILE_BYTES:,} bytes"
        raise RuleError([Diagnostic("E104", message, Span(0, 0), empty)])
    try:
        return Source(str(path), data.decode())
    except UnicodeDecodeError as error:
        shown = Source(str(path), data.decode(errors="replace"))
        start = len(data[: error.start].decode())
        message = "the text is not UTF-8"
        place = Span(start, start + 1)
        raise RuleError([Diagnostic("E108", message, place, shown)]) from None
