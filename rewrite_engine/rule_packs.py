"""Rule files of installed distributions, found without importing any of their code."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Final

import attrs

GROUP: Final = "rewrite_engine.rule_packs"
"""The group of entry points that name packages with rule files."""


@attrs.frozen
class RulePack:
    """A package that holds rule files; `distribution` is what it was installed with.

    Its file `parts/silu.rules` is called `NAME/parts/silu`.
    """

    name: str
    folder: Path
    distribution: str

    def __str__(self) -> str:
        return f"the rule pack `{self.name}` ({self.distribution})"

    def file(self, name: str) -> Path:
        """The file of a name without the pack's. Raises: FileNotFoundError."""
        path = self.folder / f"{name}.rules"
        if not path.is_file():
            known = [f"{self.name}/{each}" for each in self.files()]
            message = (
                f"the rule pack `{self.name}` ({self.distribution}) has no `{name}`"
            )
            raise FileNotFoundError(
                f"{message} ({meant(f'{self.name}/{name}', known)})"
            )
        return path

    def files(self) -> dict[str, Path]:
        """Its files by their names, in order."""
        found = sorted(self.folder.rglob("*.rules"))
        names = (path.relative_to(self.folder).with_suffix("") for path in found)
        return dict(zip(map(Path.as_posix, names), found, strict=True))


def pack_names() -> list[str]:
    """The names under which packs are installed, usable or not."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def packed_files() -> tuple[dict[str, Path], list[str]]:
    """The files of all packs by their names, and what is wrong with broken packs."""
    found: dict[str, Path] = {}
    broken = []
    for name in pack_names():
        try:
            files = rule_pack(name).files()
        except FileNotFoundError as error:
            broken.append(str(error))
        else:
            found |= {f"{name}/{file}": path for file, path in files.items()}
    return found, broken


def rule_pack(name: str) -> RulePack:
    """The pack of a name.

    Raises: FileNotFoundError, if none is installed, if two are, or if what is installed
    is no folder with rule files.
    """
    points = list(entry_points(group=GROUP, name=name))
    if not points:
        known = pack_names()
        hint = meant(name, known) if known else "none is installed"
        raise FileNotFoundError(f"no rule pack is called `{name}` ({hint})")
    if len({(each.value, _origin(each)) for each in points}) > 1:
        owners = " and ".join(sorted(map(_origin, points)))
        raise FileNotFoundError(f"{owners} both have a rule pack called `{name}`")
    pack = RulePack(name, _folder(points[0]), _origin(points[0]))
    if not pack.files():
        message = (
            f"the rule pack `{name}` ({pack.distribution}) holds no `.rules` files"
        )
        raise FileNotFoundError(f"{message}: {pack.folder}")
    return pack


def meant(name: str, known: Iterable[str]) -> str:
    """What may have been meant by an unknown name, or all that there is."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean `{close[0]}`?" if close else f"there is: {', '.join(names)}"


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"


def _folder(point: EntryPoint) -> Path:
    """The folder of the package that an entry point names; nothing is imported."""
    package, _, _ = point.value.partition(":")
    folders: Iterable[str] = sys.path
    for part in package.strip().split("."):
        spec = PathFinder.find_spec(part, list(folders))
        folders = (spec and spec.submodule_search_locations) or ()
    for folder in map(Path, folders):
        if folder.is_dir():
            return folder
    message = f"the rule pack `{point.name}` ({_origin(point)}) names `{point.value}`"
    raise FileNotFoundError(f"{message}, which is no package in a folder")
