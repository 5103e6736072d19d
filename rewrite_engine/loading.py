"""From a rule file or a text to a rule set, with what the caller grants to it.

Of a large file an index is kept: see `caching`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import attrs
from torch._ops import OpOverload, OpOverloadPacket

from rewrite_engine import torch_ops
from rewrite_engine.caching.entries import entry_path, read_entry, write_entry
from rewrite_engine.caching.known_file import KnownFile
from rewrite_engine.dsl import loader
from rewrite_engine.dsl.catalog import Catalog, default_catalog
from rewrite_engine.dsl.checked import RuleFile
from rewrite_engine.errors import RuleError
from rewrite_engine.hooks import Hooks, hook_signatures
from rewrite_engine.module_forms import ModuleClass, granted_signature
from rewrite_engine.rule_files import rule_file
from rewrite_engine.ruleset import RuleSet
from rewrite_engine.source import Source

_USE: Final = re.compile(r"^\s*use\b", re.MULTILINE)
LEAST_RULES: Final = 100
"""Of fewer rules no index is kept: they are loaded in less than 0.1 s."""

Modules = Mapping[str, ModuleClass]
"""Module classes under the dotted names (`"acme.Linear"`) that rule files give them."""

Operators = Iterable[OpOverload | OpOverloadPacket]
"""Of other libraries: `torch.ops.acme.f` is `acme.f` in rule files, with its overloads,
and `torch.ops.acme.f.default` is `acme.f.default`."""


@attrs.frozen
class Grants:
    """What a caller grants to a file, which imports nothing itself."""

    modules: Modules | None = None
    hooks: Hooks | None = None
    operators: Operators = ()

    def __bool__(self) -> bool:
        return bool(self.modules or self.hooks or self.operators)

    def catalog(self) -> Catalog:
        """Torch's operators, and those that are granted."""
        known = default_catalog()
        if not self:
            return known
        modules = {
            path: [granted_signature(path, each, known)]
            for path, each in (self.modules or {}).items()
        }
        hooks = hook_signatures(self.hooks or {})
        return Catalog(modules | hooks | torch_ops.granted_signatures(self.operators))


def from_file(source: str | Path, grants: Grants, *, cache: bool) -> RuleSet:
    """See `engine.load`."""
    path = rule_file(source)
    if grants or not cache:
        return _checked(path.stem, loader.load_file(path, grants.catalog()))
    text = loader.read_source(path)
    entry = entry_path(path, text) if _may_be_large(text.text) else None
    found = _found(path, text, entry)
    return _loaded(path, text, entry) if found is None else found


def _may_be_large(text: str) -> bool:
    """Whether an index may be kept: to look for one takes 2 ms in a new process."""
    return text.count("rule") >= LEAST_RULES or _USE.search(text) is not None


def _found(path: Path, text: Source, entry: Path | None) -> RuleSet | None:
    """The rules of a file that was loaded before, and of which an index was kept."""
    index = None if entry is None else read_entry(entry)
    if index is None:
        return None
    try:
        known = KnownFile.of(path, text, index)
    except (OSError, RuleError):  # what is wrong is said where the file is loaded
        return None
    return None if known is None else RuleSet(path.stem, known)


def _loaded(path: Path, text: Source, entry: Path | None) -> RuleSet:
    found = loader.right(loader.examine(text, path))
    rules = _checked(path.stem, found.file)
    # Compiling may have imported a library: then the rules mean more than they did.
    if entry is not None and entry == entry_path(path, text):
        _keep_index(entry, found, rules)
    return rules


def _keep_index(entry: Path, found: loader.Examination, rules: RuleSet) -> None:
    if len(rules) < LEAST_RULES:
        return
    # Imported where an index is made: who finds one needs no matching program.
    from rewrite_engine.caching.indexing import index_of

    index = index_of(found, rules.program)
    if index is not None:
        write_entry(entry, index)


def from_text(text: str, name: str, grants: Grants) -> RuleSet:
    """See `engine.loads`."""
    if not isinstance(text, str):
        raise TypeError(f"expected the text of rules, got {type(text).__name__}")
    return _checked(name, loader.load_text(text, name, grants.catalog()))


def _checked(name: str, file: RuleFile) -> RuleSet:
    rules = RuleSet(name, file)
    rules.check()
    return rules
