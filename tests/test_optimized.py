"""The engine needs none of its assertions: `python -O -m pytest tests` passes, too.

Under `-O`, pytest still runs the assertions of test modules, and of others that
`conftest.py` names, because it compiles them itself; those of the package are gone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SAMPLE = (
    *("tests/matching/test_matchers.py", "tests/language/test_chains.py"),
    *("tests/dsl/test_validator.py", "tests/rewriting/test_safety.py"),
    "tests/test_edit.py",
)


def passes(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-O", "-m", "pytest", "-q", "-x", *arguments]
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )


def test_the_engine_works_without_its_assertions() -> None:
    done = passes(*SAMPLE)
    assert done.returncode == 0, done.stdout[-3000:]


def test_assertions_of_tests_are_still_run(tmp_path: Path) -> None:
    wrong = tmp_path / "test_wrong.py"
    wrong.write_text("def test_wrong() -> None:\n    assert __debug__\n")
    done = passes("--rootdir", str(tmp_path), "-c", "/dev/null", str(wrong))
    assert done.returncode == 1 and "1 failed" in done.stdout


def test_assertions_outside_of_test_modules_are_still_run() -> None:
    named = (ROOT / "tests/conftest.py").read_text()
    for path in (ROOT / "tests").rglob("[!t]*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if path.name != "conftest.py" and asserts(path):
            assert f'"{module}"' in named


def asserts(path: Path) -> bool:
    return re.search(r"^ *assert ", path.read_text(), re.MULTILINE) is not None
