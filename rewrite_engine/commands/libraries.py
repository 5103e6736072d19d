"""Rule files as they are named on the command line, found without torch."""

from __future__ import annotations

import difflib
from pathlib import Path

from rewrite_engine.assets import rules_directory
from rewrite_engine.commands.outcome import UsageError
from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.parser import parse
from rewrite_engine.source import Source


def rule_path(name: str) -> Path:
    """The file of a shipped library, or of a path.

    Raises UsageError if there is none, with the name that may have been meant.
    """
    path = Path(name)
    if path.is_dir():
        raise UsageError(f"{name}: is a folder; a rule file is expected")
    if path.suffix == ".rules":
        if not path.exists():
            raise UsageError(f"{name}: no such file")
        return path
    shipped = {path.stem: path for path in shipped_files()}
    if name not in shipped:
        raise UsageError(f"{name}: {_unknown(name, list(shipped))}")
    return shipped[name]


def shipped_files() -> list[Path]:
    """The rule files that come with the package, in order of their names."""
    return sorted(rules_directory().glob("*.rules"))


def read_source(path: Path) -> Source:
    """The text of a rule file. Raises UsageError if it is no UTF-8."""
    try:
        return Source(str(path), path.read_bytes().decode())
    except UnicodeDecodeError:
        raise UsageError(f"{path}: the text is not UTF-8") from None


def rules_in(path: Path) -> list[nodes.RuleDef]:
    """The rules written in a file, unchecked. Raises RuleError if it does not parse."""
    items = parse(read_source(path)).items
    return [item for item in items if isinstance(item, nodes.RuleDef)]


def _unknown(name: str, known: list[str]) -> str:
    kind = "no such file" if "/" in name or "." in name else "no such library"
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"shipped: {', '.join(known)}"
    return f"{kind} ({hint})"
