"""Where the shipped grammar and rule libraries lie, installed or in a checkout."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def rules_directory() -> Path:
    """The folder of the shipped rule libraries."""
    return _directory("rules")


def grammar_directory() -> Path:
    """The folder that holds `rules.lark`."""
    return _directory("grammar")


@cache
def grammar_text() -> str:
    """The Lark grammar of rule files."""
    return (grammar_directory() / "rules.lark").read_text(encoding="utf-8")


def _directory(name: str) -> Path:
    installed = _PACKAGE / f"_{name}"
    checkout = _PACKAGE.parent / name
    for candidate in (installed, checkout):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(
        f"rewrite_engine lacks its `{name}` folder: neither {installed} nor "
        f"{checkout} exists; the installation is incomplete"
    )
