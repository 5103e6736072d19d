"""Which file a `use` names: one beside the using file, a shipped one, or a pack's."""

from __future__ import annotations

import os
import re
from collections.abc import Container
from pathlib import Path
from typing import Final

from rewrite_engine.assets import rules_directory
from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.scopes import Scope
from rewrite_engine.rule_files import shipped_files
from rewrite_engine.rule_packs import rule_pack

# A path of plain names: no root, no drive, no `..`, nothing a shell would expand.
_USABLE: Final = re.compile(
    r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/){0,8}[A-Za-z0-9_-]+\.rules"
)
_MAX_PATH: Final = 255


def used_file(name: str, folder: Path) -> Path | None:
    """The file that `use "name"` means in a file of a folder; None if there is none."""
    try:
        return (_beside(name, folder, ()) or (folder, _packed(name)))[1]
    except FileNotFoundError:
        return None


def locate(
    use: nodes.Use, scope: Scope, folder: Path | None, texts: Container[str]
) -> Path | None:
    """The file that a `use` in a file of a folder means; a text has no folder.

    None if there is none that may be used, which is reported. At the real paths of
    `texts` there are files in any case.
    """
    if len(use.path) > _MAX_PATH or not _USABLE.fullmatch(use.path):
        _report_name(use, scope)
        return None
    found = _beside(use.path, folder, texts)
    if found is None:
        return _of_pack(use, scope)
    home, path = found
    if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(home)):
        return path
    message = f"`{use.path}` is a link that leads out of its folder"
    scope.report("E210", message, use.span)
    return None


def _beside(
    name: str, folder: Path | None, texts: Container[str]
) -> tuple[Path, Path] | None:
    """The folder in which a file of a name stands, and its path."""
    for home in (*(() if folder is None else (folder,)), rules_directory()):
        path = home / name
        if path.is_file() or os.path.realpath(path) in texts:
            return home, path
    return None


def _packed(name: str) -> Path:
    """The file of an installed pack, `acme/fusions.rules`. Raises FileNotFoundError."""
    pack, slash, rest = name.removesuffix(".rules").partition("/")
    if not slash:
        raise FileNotFoundError
    return rule_pack(pack).file(rest)


def _of_pack(use: nodes.Use, scope: Scope) -> Path | None:
    shipped = [path.name for path in shipped_files()]
    meant = scope.did_you_mean(use.path, shipped)
    try:
        return _packed(use.path)
    except FileNotFoundError as error:
        message = f"there is no file `{use.path}`"
        scope.report("E210", message, use.span, hint=str(error) or meant)
    return None


def _report_name(use: nodes.Use, scope: Scope) -> None:
    message = "a used file is named by a plain relative path that ends in `.rules`"
    scope.report("E210", message, use.span, hint=_name_hint(use.path))


def _name_hint(path: str) -> str:
    if ".." in path or path.startswith("/"):
        return "it leads out of the folder, which no path may"
    if len(path) < _MAX_PATH and _USABLE.fullmatch(f"{path}.rules"):
        return f'did you mean `use "{path}.rules"`?'
    return "names of letters, digits, `_`, `-` and `.`, with `/` between them"
