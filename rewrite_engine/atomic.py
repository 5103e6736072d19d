"""Files that are replaced as a whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A fresh file beside `path`: written in the block, it then takes its place.

    If the block raises, the fresh file is removed and `path` is as it was. A link is
    followed, and the permissions of a file that existed are kept.

    Raises OSError if the folder cannot be written to.
    """
    target = path.resolve()
    fresh = target.with_name(f".{target.stem}.{secrets.token_hex(8)}{target.suffix}")
    # Created here, not with `tempfile`, so that the permissions are the usual ones.
    os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield fresh
        if target.exists():
            shutil.copymode(target, fresh)
        _flush(fresh)
        fresh.replace(target)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _flush(path: Path) -> None:
    """Onto the disk, lest a power cut leaves the new name without its content."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
