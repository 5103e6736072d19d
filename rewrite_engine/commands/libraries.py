"""Rule files as they are named on the command line, found without torch."""

from __future__ import annotations

from pathlib import Path

from rewrite_engine.commands.outcome import UsageError
from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.parser import parse
from rewrite_engine.rule_files import rule_file
from rewrite_engine.source import Source


def rule_path(name: str) -> Path:
    """The file of a path, of a shipped library, or of an installed pack.

    Raises UsageError if there is none, with the name that may have been meant.
    """
    if Path(name).is_dir():
        raise UsageError(f"{name}: is a folder; a rule file is expected")
    if name.endswith(".rules"):
        if not Path(name).exists():
            raise UsageError(f"{name}: no such file")
        return Path(name)
    try:
        return rule_file(name)
    except FileNotFoundError as error:
        raise UsageError(f"{name}: {error}") from None


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
