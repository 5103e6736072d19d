"""Rule files by the names that users give them."""

from __future__ import annotations

from pathlib import Path

from rewrite_engine.assets import rules_directory
from rewrite_engine.rule_packs import meant, rule_pack


def rule_file(name: str | Path) -> Path:
    """The file of a path that ends in `.rules`, of a shipped library (`qat_fuse`), or
    of an installed pack (`acme/fusions`).

    Raises: FileNotFoundError, for a library or a pack, with what may have been meant.
    """
    path = Path(name)
    if path.suffix == ".rules":
        return path
    pack, slash, rest = str(name).partition("/")
    if pack and slash:
        return rule_pack(pack).file(rest)
    shipped = {path.stem: path for path in shipped_files()}
    if name not in shipped:
        hint = meant(str(name), shipped)
        raise FileNotFoundError(f"there is no library `{name}` ({hint})")
    return shipped[str(name)]


def shipped_files() -> list[Path]:
    """The rule files that come with the package, in order of their names."""
    return sorted(rules_directory().glob("*.rules"))
