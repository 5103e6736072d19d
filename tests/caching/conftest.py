"""A folder for indexes, in which they are kept of files of any size."""

from __future__ import annotations

from pathlib import Path

import pytest

from rewrite_engine import loading


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "kept"
    monkeypatch.setenv("REWRITE_ENGINE_CACHE", str(folder))
    monkeypatch.setattr(loading, "LEAST_RULES", 1)
    return folder
