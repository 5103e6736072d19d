"""What a `.pt2` file must not hold, found before any of it is loaded.

Loading a program unpickles payloads, evaluates symbolic sizes and generates Python from
the names in the graph; a compiled model brings libraries along. Torch's own reader is
used throughout, so that what is checked is what it would load.
"""

from __future__ import annotations

import io
import json
import re
import textwrap
import warnings
from collections.abc import Iterator
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch

from rewrite_engine.errors import GraphError
from rewrite_engine.model_files.program_json import find_code

_MODEL = re.compile(r"models/([\w.-]+)\.json")

_ZIP_HEAD = b"PK\x03\x04"
_ZIP_TAIL = b"PK\x05\x06"
_ZIP_TAIL_BYTES = 22
_KINDS = (
    ("data.pkl", "a checkpoint of `torch.save`, not an exported program"),
    ("serialized_exported_program.json", "in the format of torch before 2.8"),
)
_NO_MODEL = "a zip archive, but not a .pt2 file"
_FREE_BYTES = 64 * 2**20
_MAX_RATIO = 8


class ModelFileError(GraphError):
    """A file that is no model, is damaged, or would run code; one line."""


def one_line(error: Exception) -> str:
    """What an exception of torch says, as one line of bearable length."""
    cause = error.__cause__
    if isinstance(cause, Exception):
        return one_line(cause)
    first = next(iter(str(error).strip().splitlines()), "")
    kind = "" if isinstance(error, RuntimeError) else f"{type(error).__name__} "
    return textwrap.shorten(f"{kind}{first}", 200, placeholder=" ...")


def check_archive(file: BinaryIO, name: str, *, trust_pickle: bool) -> None:
    """Refuse a file that is no `.pt2`, or that could run code when it is loaded.

    Raises: ModelFileError; RuntimeError, OSError or ValueError for damaged content.
    """
    reader = _open(file, name)
    _check_size(reader, file.seek(0, io.SEEK_END), name)
    model = _check_kind(reader, name)
    if trust_pickle:
        return
    for record in _pickles(reader, model, name):
        _check_pickle(reader.get_record(record), f"{name}: {record}")
    found = find_code(json.loads(reader.get_record(f"models/{model}.json")))
    if found is not None:
        raise ModelFileError(f"{name}: {found}; `--trust-pickle` loads it all the same")


def _open(file: BinaryIO, name: str) -> Any:
    head = file.read(len(_ZIP_HEAD))
    if not head:
        raise ModelFileError(f"{name}: the file is empty")
    if head != _ZIP_HEAD:
        raise ModelFileError(f"{name}: not a .pt2 file")
    file.seek(0)
    try:
        return torch._C.PyTorchFileReader(file)
    except (RuntimeError, OSError):
        reason = _NO_MODEL if _is_whole(file) else "truncated or damaged"
        raise ModelFileError(f"{name}: {reason}") from None


def _is_whole(file: BinaryIO) -> bool:
    """Whether the last record of a zip archive is where it belongs."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _ZIP_TAIL_BYTES))
    return file.read().startswith(_ZIP_TAIL)


def _check_size(reader: Any, size: int, name: str) -> None:
    """Torch stores its records uncompressed; what unpacks to far more is no model."""
    unpacked = sum(map(reader.get_record_size, reader.get_all_records()))
    if unpacked > _FREE_BYTES + _MAX_RATIO * size:
        raise ModelFileError(
            f"{name}: {size:,} bytes that would unpack to {unpacked:,}"
        )


def _check_kind(reader: Any, name: str) -> str:
    """The name of the one program in the archive."""
    records = reader.get_all_records()
    if "archive_format" not in records or reader.get_record("archive_format") != b"pt2":
        raise ModelFileError(f"{name}: {_other_kind(records)}")
    if any(record.startswith("data/aotinductor/") for record in records):
        raise ModelFileError(f"{name}: a compiled model, which has no graph to rewrite")
    models = [record for record in records if record.startswith("models/")]
    found = _MODEL.fullmatch(models[0]) if len(models) == 1 else None
    if found is None:
        raise ModelFileError(
            f"{name}: one exported program is expected, {len(models)} found"
        )
    return found[1]


def _other_kind(records: list[str]) -> str:
    if any(record.startswith("code/") for record in records):
        return "a TorchScript module, not an exported program"
    kinds = (kind for record, kind in _KINDS if record in records)
    return next(kinds, _NO_MODEL)


def _pickles(reader: Any, model: str, name: str) -> Iterator[str]:
    """The records that torch would unpickle."""
    yield f"data/sample_inputs/{model}.pt"
    records = set(reader.get_all_records())
    for kind in ("weights", "constants"):
        folder = f"data/{kind}/"
        # Older archives hold one pickle instead of a table of payloads.
        if f"{folder}{model}.pt" in records:
            yield f"{folder}{model}.pt"
            continue
        table = json.loads(reader.get_record(f"{folder}{model}_{kind}_config.json"))
        for payload in table["config"].values():
            record = folder + payload["path_name"]
            if payload["path_name"].startswith(("custom_obj_", "opaque_obj_")):
                raise ModelFileError(_refusal(f"{name}: {record}", "a Python object"))
            if payload["use_pickle"]:
                yield record


def _check_pickle(data: bytes, name: str) -> None:
    """Refuse what does not load as plain tensors and containers of them."""
    if data.startswith(_ZIP_HEAD):
        reader = torch._C.PyTorchFileReader(io.BytesIO(data))
        _check_size(reader, len(data), name)
    if not data:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about protocols, for whoever wrote it
            torch.load(io.BytesIO(data), weights_only=True)
    except UnpicklingError as error:
        raise ModelFileError(_refusal(name, _culprit(error))) from None


def _culprit(error: UnpicklingError) -> str:
    """What the payload calls for, as far as torch names it."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f"`{found[1]}`" if found else "an object that is no tensor"


def _refusal(record: str, culprit: str) -> str:
    return (
        f"{record} is a pickle that calls for {culprit} and could run any code; "
        "`--trust-pickle` loads it all the same"
    )
