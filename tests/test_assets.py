"""Where the shipped files are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from rewrite_engine import assets


def test_the_shipped_folders_exist() -> None:
    assert (assets.grammar_directory() / "rules.lark").is_file()
    assert list(assets.rules_directory().glob("*.rules"))


def test_an_installed_folder_wins_over_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "rewrite_engine"
    monkeypatch.setattr(assets, "_PACKAGE", package)
    (tmp_path / "rules").mkdir()
    assert assets.rules_directory() == tmp_path / "rules"
    (package / "_rules").mkdir(parents=True)
    assert assets.rules_directory() == package / "_rules"


def test_an_incomplete_installation_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "_PACKAGE", tmp_path / "rewrite_engine")
    with pytest.raises(FileNotFoundError, match="installation is incomplete"):
        assets.grammar_directory()
