"""The order of the layers, kept by reading the imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rewrite_engine"
LAYERS = (
    ("source", "signatures"),
    ("errors", "report", "assets", "rule_packs", "rule_files", "atomic", "collector"),
    ("dsl",),
    (
        "torch_ops",
        "torch_warnings",
        "hooks",
        "module_forms",
        "tensor_types",
        "edit",
        "graph_facts",
        "graph_order",
        "value_text",
        "graph_dot",
        "graph_text",
        "model_source",
        "equivalence",
    ),
    ("lowering",),
    ("matching",),
    ("rewriting",),
    ("explaining", "extracting", "caching"),
    ("ruleset",),
    ("loading", "reporting", "bisecting", "rule_tests"),
    ("verification",),
    ("engine",),
    ("equalize",),
    (
        "integrations",
        "cli",
        "commands",
        "demo",
        "model_files",
        "pytest_plugin",
        "batch",
        "pygments_lexer",
        "language_server",
        "testing",
    ),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(PACKAGE.rglob("*.py"))


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports, at the top or inside."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    layer = layer_of(path)
    if layer in ("__init__", "__main__"):
        return
    own = LEVEL[layer]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "rewrite_engine" and len(parts) > 1 and parts[1] in LEVEL:
            assert LEVEL[parts[1]] <= own, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_libraries_stay_where_they_belong(path: Path) -> None:
    layer, heads = layer_of(path), {name.split(".")[0] for name in imports(path)}
    assert "lark" not in heads, "the parse table is computed beforehand"
    if layer in ("matching", "rewriting"):
        assert not any(n.startswith("rewrite_engine.dsl") for n in imports(path))
    torch_free = ("source", "signatures", "errors", "report", "assets", "dsl")
    if layer in (*torch_free, "language_server", "pygments_lexer"):
        assert "torch" not in heads


def test_importing_the_engine_imports_neither_torch_nor_its_stages() -> None:
    code = """if True:
        import sys
        from rewrite_engine import engine, load
        stages = {"dsl", "lowering", "matching", "rewriting"}
        heavy = {"torch", *(f"rewrite_engine.{stage}" for stage in stages)}
        sys.exit(bool(heavy & sys.modules.keys()))
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_and_functions_fit_the_eye(path: Path) -> None:
    tree = ast.parse(path.read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, functions):
            length = node.end_lineno - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"
    assert len(path.read_text().splitlines()) <= 560
