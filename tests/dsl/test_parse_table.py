"""The shipped parse table: made from the grammar, and read instead of computed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from types import ModuleType

import pytest
from lark.parsers.lalr_analysis import ParseTable, Reduce, Shift

from rewrite_engine.assets import grammar_directory

SCRIPT = grammar_directory() / "generate_table.py"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_table", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(code: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=grammar_directory().parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_file_is_what_the_grammar_generates(generator: ModuleType) -> None:
    shipped = (grammar_directory() / "rules.table.json").read_text(encoding="utf-8")
    # Not compared as text, for the sake of a short message.
    assert json.loads(shipped) == json.loads(generator.text()), f"run {SCRIPT.name}"


def test_the_file_does_not_depend_on_the_order_of_sets(generator: ModuleType) -> None:
    code = "import runpy; print(runpy.run_path('grammar/generate_table.py')['text']())"
    assert run(code, PYTHONHASHSEED="1").strip() == generator.text().strip()


def test_states_are_numbered_from_the_start_by_the_names_of_symbols(
    generator: ModuleType,
) -> None:
    states = {
        5: {"B": (Shift, 9), "A": (Shift, 7)},
        7: {"B": (Reduce, "second")},
        9: {"B": (Reduce, "first")},
    }
    automaton = ParseTable(states, {"start": 5}, {"start": 9})
    assert generator.in_order(automaton, ["first", "second"]) == [
        {"A": 1, "B": 2},
        {"B": ~1},
        {"B": ~0},
    ]


def test_loading_rules_imports_neither_lark_nor_sympy_nor_dynamo() -> None:
    code = """if True:
        import sys, torch
        known = set(sys.modules)
        from rewrite_engine import load
        load("qat_fuse").program
        print(*{name.partition(".")[0] for name in set(sys.modules) - known})
        print(*sys.modules.keys() & {"torch._dynamo"} - known)
    """
    imported = run(code).split()
    assert "rewrite_engine" in imported
    assert not {"lark", "sympy", "torch._dynamo"} & set(imported)
