"""Mutation testing of the modules that match, rewrite and keep indexes:

    python -m tests.mutation 100          # that many mutants, chosen by seed 0
    python -m tests.mutation 100 1 matching/   # seed 1, of modules in the folder

Torch is imported once. Then every test runs once and it is noted which functions it
calls; each mutant is a forked process in which one module is compiled from a changed
syntax tree, and the tests that call the changed function are run, the fastest first,
and after these all of its folder.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.abc
import importlib.machinery
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import attrs
import pytest

ROOT: Final = Path(__file__).parents[1]
TESTS: Final = {
    "caching": ("tests/caching",),
    "matching": ("tests/matching", "tests/language", "tests/test_engine.py"),
    "rewriting": (
        "tests/rewriting",
        "tests/language",
        "tests/lowering/test_module_forms.py",
        "tests/test_engine.py",
        "tests/test_misuse.py",
    ),
}
"""The folders whose modules are changed, with the tests that are run."""
SLOW: Final = (
    "not test_scale and not anywhere and not shared_constants"
    " and not random_rule and not random_graphs and not random_exchanges"
)
SECONDS: Final = 100
"""Of the processor, after which a mutant counts as killed: it does not end."""
ENOUGH: Final = 25.0
"""Seconds that the tests of a mutant take together, as they are; slower ones are left
out, so some survivors would be killed by them.
"""

_COMPARED: Final = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Lt: ast.LtE, ast.LtE: ast.Lt,
    ast.Gt: ast.GtE, ast.GtE: ast.Gt,
}  # fmt: skip


@attrs.frozen
class Mutant:
    """A place in a module, and what is done to it."""

    path: Path
    line: int
    what: str
    number: int
    """Counts the changes that are possible in the module."""
    function: int | None
    """The first line of the function around it, None outside of functions."""

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} {self.what}"


class _Mutator(ast.NodeTransformer):
    """Makes one of the possible changes, and lists all of them."""

    def __init__(self, wanted: int = -1) -> None:
        self.found: list[tuple[int, str]] = []
        self._wanted = wanted

    def _is_wanted(self, node: ast.AST, what: str) -> bool:
        self.found.append((node.lineno, what))  # type: ignore[attr-defined]
        return len(self.found) - 1 == self._wanted

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        other = _COMPARED.get(type(node.ops[0]))
        if other and self._is_wanted(node, f"{ast.unparse(node)}: {other.__name__}"):
            node.ops[0] = other()
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        other = ast.Or if isinstance(node.op, ast.And) else ast.And
        if self._is_wanted(node, f"{ast.unparse(node)}: {other.__name__}"):
            node.op = other()
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        is_not = isinstance(node.op, ast.Not)
        if is_not and self._is_wanted(node, f"{ast.unparse(node)}: no `not`"):
            return node.operand
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        for value in (True, False):
            if self._is_wanted(node, f"if {ast.unparse(node.test)}: {value}"):
                node.test = ast.copy_location(ast.Constant(value), node.test)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, bool):
            if self._is_wanted(node, f"{node.value}: {not node.value}"):
                return ast.copy_location(ast.Constant(not node.value), node)
        elif isinstance(node.value, int) and self._is_wanted(
            node, f"{node.value}: {node.value + 1}"
        ):
            return ast.copy_location(ast.Constant(node.value + 1), node)
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        self.generic_visit(node)
        is_call = isinstance(node.value, ast.Call) and "_log" not in ast.unparse(node)
        if is_call and self._is_wanted(node, f"{ast.unparse(node)}: left out"):
            return ast.copy_location(ast.Pass(), node)
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if self._is_wanted(node, f"{ast.unparse(node)}: left out"):
            return ast.copy_location(ast.Pass(), node)
        return node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        self.generic_visit(node)
        is_value = node.value is not None and ast.unparse(node.value) != "None"
        if is_value and self._is_wanted(node, f"{ast.unparse(node)}: None"):
            node.value = ast.copy_location(ast.Constant(None), node)
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return node  # it states what is always so

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return node


def mutants(name: str) -> list[Mutant]:
    """Every change of the modules whose names, with their folder, contain a text."""
    found = []
    for folder in TESTS:
        for path in sorted((ROOT / "rewrite_engine" / folder).glob("*.py")):
            if name in f"{folder}/{path.name}":
                mutator = _Mutator()
                mutator.visit(ast.parse(path.read_text()))
                tree = ast.parse(path.read_text())
                found += [
                    Mutant(path, line, what, i, _function_around(tree, line))
                    for i, (line, what) in enumerate(mutator.found)
                ]
    return found


def _function_around(tree: ast.Module, line: int) -> int | None:
    """The line where the code of the innermost function begins, decorators included."""
    found = None
    for node in ast.walk(tree):  # outer functions come first
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            decorators = [each.lineno for each in node.decorator_list]
            if node.body[0].lineno <= line <= (node.end_lineno or node.lineno):
                found = min([node.lineno, *decorators])
    return found


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles a module with a mutant in it."""

    mutant: Mutant

    def get_code(self, fullname: str) -> CodeType:
        tree = ast.parse(self.mutant.path.read_text())
        changed = _Mutator(self.mutant.number).visit(tree)
        return compile(ast.fix_missing_locations(changed), self.path, "exec")


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        parts = mutant.path.relative_to(ROOT).with_suffix("").parts
        self._name = ".".join(parts)
        self._loader = _Loader(self._name, str(mutant.path))
        self._loader.mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        return importlib.machinery.ModuleSpec(
            fullname, self._loader, origin=self._loader.path
        )


class Recorder:
    """A pytest plugin that notes the functions of the package that each test calls, and
    how long it takes. What the import of a test module calls, all of its tests call.
    """

    def __init__(self) -> None:
        self.calls: dict[str, set[str]] = {}
        self.seconds: dict[str, float] = {}
        self._folder = str(ROOT / "rewrite_engine")

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Any:
        with self._noted(collector.nodeid):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        started = time.perf_counter()
        with self._noted(item.nodeid):
            result = yield
        self.seconds[item.nodeid] = time.perf_counter() - started
        return result

    @contextlib.contextmanager
    def _noted(self, name: str) -> Iterator[None]:
        calls = self.calls.setdefault(name, set())

        def note(frame: FrameType, event: str, _: object) -> None:
            code = frame.f_code
            if event == "call" and code.co_filename.startswith(self._folder):
                calls.add(f"{code.co_filename}:{code.co_firstlineno}")

        before = sys.getprofile()
        sys.setprofile(note)
        try:
            yield
        finally:
            sys.setprofile(before)


@attrs.frozen
class Plan:
    """Which tests call which function (by path and first line), and their seconds."""

    tests: dict[str, list[str]]
    seconds: dict[str, float]

    @classmethod
    def measured(cls, tests: Iterable[str]) -> Plan | None:
        """Runs the tests, in another process; None if one of them fails."""
        with tempfile.NamedTemporaryFile() as file:
            child = os.fork()
            if child == 0:
                recorder = Recorder()
                code = _run(["-k", SLOW, *tests], [recorder])
                found = {name: sorted(calls) for name, calls in recorder.calls.items()}
                Path(file.name).write_text(json.dumps([found, recorder.seconds]))
                os._exit(code)
            if os.waitpid(child, 0)[1] != 0:
                return None
            return cls.of(*json.loads(Path(file.name).read_text()))

    @classmethod
    def of(cls, calls: dict[str, list[str]], seconds: dict[str, float]) -> Plan:
        tests: dict[str, list[str]] = {}
        for test in sorted(seconds, key=lambda test: seconds[test]):
            module = calls.get(test.partition("::")[0], [])
            for function in {*calls[test], *module}:
                tests.setdefault(function, []).append(test)
                path = function.rpartition(":")[0]
                if test not in tests.setdefault(path, [])[-1:]:
                    tests[path].append(test)
        return cls(tests, seconds)

    def tests_of(self, mutant: Mutant) -> list[str]:
        """The fastest of the tests that call the changed function; of a change outside
        of functions, those that call any of the module.
        """
        place = mutant.function
        name = str(mutant.path) if place is None else f"{mutant.path}:{place}"
        chosen, left = [], ENOUGH
        for test in self.tests.get(name, []):
            left -= self.seconds[test]
            if left < 0:
                break
            chosen.append(test)
        return chosen


def is_killed(mutant: Mutant, tests: list[str]) -> bool:
    """Whether a test fails with the mutant, or does not end."""
    child = os.fork()
    if child == 0:
        # Time of the processor: the machine may be busy with something else.
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        sys.meta_path.insert(0, _Finder(mutant))
        os._exit(_run(["-x", *tests]))
    return os.waitpid(child, 0)[1] != 0


def _run(options: list[str], plugins: list[object] | None = None) -> int:
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    return int(pytest.main(["-q", "-p", "no:randomly", *options], plugins))


def sample(count: int, seed: int, name: str) -> list[Mutant]:
    found = mutants(name)
    random.Random(seed).shuffle(found)
    print(f"{len(found)} mutants, {min(count, len(found))} are tried", flush=True)
    return found[:count]


def main(count: int, seed: int = 0, name: str = "") -> int:
    import torch
    import torch.export
    import torch.fx.passes.fake_tensor_prop

    torch.set_num_threads(1)
    # What torch imports late, no process should have to.
    torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)).run_decompositions()
    chosen = sample(count, seed, name)
    folders = {mutant.path.parent.name for mutant in chosen}
    plan = Plan.measured(dict.fromkeys(t for f in sorted(folders) for t in TESTS[f]))
    if plan is None:
        print("the tests fail as they are")
        return 1
    tried = killed = 0
    for mutant in chosen:
        tried += 1
        tests = plan.tests_of(mutant)
        # What is cached is called by one test only, and used by others.
        folder = ["-k", SLOW, f"tests/{mutant.path.parent.name}"]
        if (tests and is_killed(mutant, tests)) or is_killed(mutant, folder):
            killed += 1
        else:
            print(f"survives {len(tests)} tests: {mutant}", flush=True)
        if tried % 20 == 0:
            print(f"{killed} of {tried} killed", flush=True)
    print(f"{killed} of {tried} killed ({killed / max(1, tried):.0%})")
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(int(sys.argv[1]), *map(int, sys.argv[2:3]), *sys.argv[3:4]))
