"""Indexes on disk: one file for each content, replaced as a whole or not at all.

Nothing that goes wrong here matters: an index that cannot be read, or is damaged, is
one that there is not, and what cannot be written is not.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from rewrite_engine import torch_ops
from rewrite_engine.assets import grammar_directory, rules_directory
from rewrite_engine.atomic import replacing
from rewrite_engine.caching.index import Index, from_json, to_json
from rewrite_engine.source import Source

FOLDER: Final = "REWRITE_ENGINE_CACHE"
"""The variable of the environment that names another folder, or says `off`."""

_MOST_BYTES: Final = 16 << 20
_MOST_ENTRIES: Final = 64
_SUFFIX: Final = ".rule-index"


def entry_path(path: Path, source: Source) -> Path | None:
    """Where the index of a rule file is kept, by its text, its path, and whatever else
    decides what becomes of it; None if no indexes are kept.
    """
    folder = _folder()
    if folder is None:
        return None
    modules = map(sys.modules.get, ("torch", "torchao"))
    versions = [getattr(module, "__version__", "") for module in modules]
    versions += sorted(torch_ops.missing_libraries())
    parts = (_engine(), *versions, str(path.absolute()), source.text)
    key = hashlib.sha256("\0".join(parts).encode(errors="surrogateescape"))
    return folder / f"{key.hexdigest()}{_SUFFIX}"


def read_entry(path: Path) -> Index | None:
    """The index in a file of the cache, if it is there as it was written."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        checksum, _, body = data.partition(b"\n")
        is_whole = len(data) <= _MOST_BYTES and checksum == _checksum(body)
        return from_json(body) if is_whole else None
    except (OSError, ValueError):
        return None


def write_entry(path: Path, index: Index) -> None:
    """Keep an index, and of older ones those that were made last."""
    body = to_json(index).encode()
    data = _checksum(body) + b"\n" + body
    if len(data) > _MOST_BYTES:
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(path) as fresh:
            fresh.write_bytes(data)
        _forget_oldest(path.parent)
    except OSError:
        return


def _folder() -> Path | None:
    asked = os.environ.get(FOLDER)
    if asked in ("", "0", "off"):
        return None
    if asked is not None:
        return Path(asked)
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        home = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # nothing says where the user's files are
        return None
    return home / "rewrite_engine"


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


def _forget_oldest(folder: Path) -> None:
    found = [(path.stat().st_mtime_ns, path) for path in folder.glob(f"*{_SUFFIX}")]
    for _, path in sorted(found)[:-_MOST_ENTRIES]:
        path.unlink(missing_ok=True)


# --- what decides what becomes of a text ---


@cache
def _engine() -> str:
    """The engine, its grammar and its rules, by what Python trusts of sources: their
    sizes, and when they were changed.
    """
    package = Path(__file__).parents[1]
    folders = (package, grammar_directory(), rules_directory())
    return repr(sorted(file for folder in folders for file in _files(str(folder))))


def _files(folder: str) -> Iterator[tuple[str, int, int]]:
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _files(entry.path) if entry.name != "__pycache__" else ()
        else:
            found = entry.stat()
            yield entry.path, found.st_size, found.st_mtime_ns
