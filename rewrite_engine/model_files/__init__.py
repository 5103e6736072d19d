"""Exported programs in `.pt2` files: read as untrusted data, written as a whole."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.export import ExportedProgram
from torch.export.pt2_archive._package import load_pt2

from rewrite_engine.atomic import replacing
from rewrite_engine.model_files.archive import ModelFileError, check_archive, one_line

__all__ = ["ModelFileError", "load_program", "save_program"]


def load_program(
    path: str | os.PathLike[str],
    *,
    trust_pickle: bool = False,
    extra_files: dict[str, str] | None = None,
) -> ExportedProgram:
    """The exported program in a `.pt2` file.

    Nothing in the file is run: one that would need it is refused before it is loaded,
    unless `trust_pickle`. `extra_files` is filled with the texts stored beside the
    program, by name.

    Raises: ModelFileError, with a message of one line.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            # One handle for both: what was checked is what is loaded.
            check_archive(file, str(path), trust_pickle=trust_pickle)
            file.seek(0)
            contents = load_pt2(file)
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise ModelFileError(f"{path}: {reason}") from None
    except ModelFileError:
        raise
    except Exception as error:
        # Torch's reader raises whatever a damaged file leads it to.
        raise ModelFileError(f"{path}: cannot be loaded: {one_line(error)}") from error
    if extra_files is not None:
        extra_files.update(contents.extra_files)
    (program,) = contents.exported_programs.values()
    return program


def save_program(
    program: ExportedProgram,
    path: str | os.PathLike[str],
    *,
    extra_files: dict[str, str] | None = None,
) -> None:
    """Write a program to a `.pt2` file, which is replaced as a whole or not at all.

    Raises: OSError; whatever torch raises for a program that it cannot store.
    """
    with replacing(Path(path)) as fresh, fresh.open("wb") as file:
        sink = _Sink(file)
        torch.export.save(program, sink, extra_files=extra_files)
        file.flush()
        if sink.error is not None:
            raise sink.error


class _Sink(io.RawIOBase):
    """A file for torch's writer, which ends the process if writing raises: the first
    error is kept, and the rest is written nowhere.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.error: OSError | None = None
        self._file = file

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Torch rewinds what it has written; nobody reads it here."""
        return 0

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return len(data)
