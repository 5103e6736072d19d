"""The shipped parse table: made from the grammar, and read instead of computed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from types import ModuleType

import pytest

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


def test_states_are_numbered_from_the_start_by_the_names_of_tokens(
    generator: ModuleType,
) -> None:
    shift, reduce = 0, 1
    automaton = {
        "tokens": {0: "B", 1: "A"},
        "states": {
            5: {0: (shift, 9), 1: (shift, 7)},
            7: {0: (reduce, {"@": 3})},
            9: {},
        },
        "start_states": {"start": 5},
        "end_states": {"start": 9},
    }
    assert generator.in_order(automaton) == {
        "tokens": {0: "A", 1: "B"},
        "states": {
            0: {0: (shift, 1), 1: (shift, 2)},
            1: {1: (reduce, {"@": 3})},
            2: {},
        },
        "start_states": {"start": 0},
        "end_states": {"start": 2},
    }


def test_loading_rules_neither_computes_tables_nor_reads_a_grammar() -> None:
    code = """if True:
        import lark.load_grammar, lark.parsers.lalr_analysis as analysis
        from rewrite_engine import load
        analysis.LALR_Analyzer.compute_lalr = lambda self: 1 / 0
        lark.load_grammar.GrammarBuilder.load_grammar = lambda *_: 1 / 0
        print(len(load("qat_fuse").program.rules))
    """
    assert int(run(code)) > 0


def test_loading_rules_imports_neither_sympy_nor_dynamo() -> None:
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
    assert not {"sympy", "torch._dynamo"} & set(imported)
