"""A test that hangs ends the run with a traceback, also one in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HANGING = """
def test_that_hangs():
    while True:
        pass

def test_that_passes():
    pass
"""


def test_a_test_that_hangs_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "test_hanging.py").write_text(HANGING)
    arguments = (
        *("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)),
        *("-o", "faulthandler_timeout=1", "-n", "1", "-p", "xdist", str(tmp_path)),
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        env={**os.environ, "PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stdout
    assert "Timeout" in done.stderr and " in test_that_hangs" in done.stderr
    assert "1 failed, 1 passed" in done.stdout
