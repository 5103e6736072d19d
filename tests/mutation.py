"""Mutation testing of the modules that match and rewrite:

    python -m tests.mutation 100          # that many mutants, chosen by seed 0
    python -m tests.mutation 100 1 safety # seed 1, of modules with `safety` in the name

Torch is imported once; each mutant is a forked process in which one module is compiled
from a changed syntax tree, and the tests of matching, rewriting and language are run.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.abc
import importlib.machinery
import os
import random
import resource
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType
from typing import Final

import attrs

ROOT: Final = Path(__file__).parents[1]
MUTATED: Final = ("matching", "rewriting")
TESTS: Final = (
    *("tests/matching", "tests/language", "tests/rewriting", "tests/test_misuse.py"),
)
SLOW: Final = "not scale and not anywhere and not shared_constants and not random"
SECONDS: Final = 240
"""After which a mutant counts as killed: it does not end."""

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
    """Every change of the modules whose names contain a text."""
    found = []
    for folder in MUTATED:
        for path in sorted((ROOT / "rewrite_engine" / folder).glob("*.py")):
            if name in path.name:
                mutator = _Mutator()
                mutator.visit(ast.parse(path.read_text()))
                places = enumerate(mutator.found)
                found += [Mutant(path, line, what, i) for i, (line, what) in places]
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


def is_killed(mutant: Mutant | None) -> bool:
    """Whether a test fails with the mutant, or does not end; `None` changes nothing."""
    child = os.fork()
    if child == 0:
        # Time of the processor: the machine may be busy with something else.
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        os._exit(_run_tests(mutant))
    return os.waitpid(child, 0)[1] != 0


def _run_tests(mutant: Mutant | None) -> int:
    import pytest

    if mutant is not None:
        sys.meta_path.insert(0, _Finder(mutant))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    tests = sorted(
        TESTS, key=lambda t: mutant is None or mutant.path.parts[-2] not in t
    )
    own = ROOT / f"tests/rewriting/test_{mutant.path.stem if mutant else None}.py"
    first = [str(own)] if own.exists() else []
    options = ["-q", "-x", "-p", "no:randomly", "-k", SLOW, *first, *tests]
    return int(pytest.main(options))


def sample(count: int, seed: int, name: str) -> Iterator[Mutant]:
    found = mutants(name)
    random.Random(seed).shuffle(found)
    print(f"{len(found)} mutants, {min(count, len(found))} are tried", flush=True)
    yield from found[:count]


def main(count: int, seed: int = 0, name: str = "") -> int:
    import torch
    import torch.export
    import torch.fx.passes.fake_tensor_prop

    torch.set_num_threads(1)
    if is_killed(None):
        print("the tests fail as they are")
        return 1
    tried = killed = 0
    for mutant in sample(count, seed, name):
        tried += 1
        if is_killed(mutant):
            killed += 1
        else:
            print(f"survives: {mutant}", flush=True)
        if tried % 20 == 0:
            print(f"{killed} of {tried} killed", flush=True)
    print(f"{killed} of {tried} killed ({killed / max(1, tried):.0%})")
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(int(sys.argv[1]), *map(int, sys.argv[2:3]), *sys.argv[3:4]))
