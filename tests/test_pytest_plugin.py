"""The example project of `examples/testing` passes, and fails when it should."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path) -> Path:
    target = tmp_path / "project"
    shutil.copytree(ROOT / "examples/testing", target)
    return target


def run_pytest(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "rewrite_engine.pytest_plugin"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    return subprocess.run(
        [*command, "-p", "syrupy", "-p", "no:cacheprovider", *arguments],
        cwd=project,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )


def test_the_example_project_passes(project: Path) -> None:
    done = run_pytest(project, "--rules", "-v")
    assert done.returncode == 0, done.stdout
    assert "silu.rules::it fires PASSED" in done.stdout
    assert "4 passed" in done.stdout


def test_a_block_that_fails_says_where_and_why(project: Path) -> None:
    rules = project / "silu.rules"
    rules.write_text(rules.read_text().replace("silu * 1", "silu * 2"))
    done = run_pytest(project, "--rules", "silu.rules")
    assert done.returncode == 1
    assert "silu.rules:9: expected silu * 2, found 1" in done.stdout
    assert "1 failed, 1 passed" in done.stdout


def test_rule_files_are_left_alone_unless_asked_for(project: Path) -> None:
    done = run_pytest(project, "--collect-only", "silu.rules")
    assert "no tests collected" in done.stdout
