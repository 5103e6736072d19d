"""The rule files that an editor shows, and those beside them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Final

import attrs
from lsprotocol import types
from pygls import uris

from rewrite_engine.assets import rules_directory
from rewrite_engine.dsl import loader, nodes
from rewrite_engine.dsl.catalog import checking_catalog
from rewrite_engine.dsl.loader import Examination
from rewrite_engine.dsl.parser import Part
from rewrite_engine.dsl.scopes import Scope
from rewrite_engine.dsl.symbols import Occurrence, Symbol, symbols_of
from rewrite_engine.language_server.positions import Positions
from rewrite_engine.source import Source, Span

_MOST_FILES: Final = 2000
"""Rule files that are looked at in the folders of a workspace."""

_SKIPPED: Final = frozenset({"node_modules", "site-packages", "__pycache__"})


@attrs.define(eq=False, slots=False)
class Document:
    """A text, as it is in the editor or on disk, and what an examination tells of it.

    `path` is None for a text that has no file yet.
    """

    uri: str
    path: Path | None
    source: Source
    positions: Positions
    examination: Examination
    version: int | None = None

    @property
    def text(self) -> str:
        return self.source.text

    @property
    def scope(self) -> Scope:
        return self.examination.unit.scope

    @property
    def items(self) -> tuple[nodes.Item, ...]:
        return self.examination.unit.items

    @cached_property
    def occurrences(self) -> tuple[Occurrence, ...]:
        """Every name in the text that means something, in order."""
        return symbols_of(self.scope, self.items)

    def occurrence_at(self, offset: int) -> Occurrence | None:
        """The name that a character belongs to, or that ends right before it."""
        return next(
            (o for o in self.occurrences if o.span.start <= offset <= o.span.end), None
        )

    def of(self, symbol: Symbol) -> tuple[Span, ...]:
        """Where a symbol stands in this text."""
        place = place_of(symbol.source, symbol.span)
        return tuple(
            o.span
            for o in self.occurrences
            if o.symbol.span == symbol.span
            and place_of(o.symbol.source, o.symbol.span) == place
        )


Place = tuple[str, Span]


def place_of(source: Source, span: Span) -> Place:
    """A place in a file, however the file was reached."""
    return os.path.realpath(path_of(source)), span


def path_of(source: Source) -> Path:
    """The file of a source; the prelude goes by a short name."""
    is_prelude = source.name == loader.PRELUDE
    return rules_directory() / source.name if is_prelude else Path(source.name)


def is_shipped(source: Source) -> bool:
    """Whether a source came with the package and is not for users to edit."""
    real = Path(os.path.realpath(path_of(source)))
    return real.is_relative_to(os.path.realpath(rules_directory()))


@attrs.define(eq=False)
class Documents:
    """Open texts by their addresses; each is examined once for each change.

    Items that were read before, in whatever file, are not parsed again.
    """

    encoding: str = "utf-16"
    folders: list[Path] = attrs.field(factory=list)
    _texts: dict[str, tuple[str, int | None]] = attrs.field(factory=dict)
    _examined: dict[str, Document] = attrs.field(factory=dict)
    _parts: dict[str, dict[str, Part]] = attrs.field(factory=dict)
    _last: tuple[Source, Positions] | None = None
    """The positions that were asked for last: findings come file by file."""

    # --- texts ---

    def put(self, uri: str, text: str, version: int | None) -> None:
        """Take over a text from the editor."""
        self._texts[uri] = text, version
        self._forget(uri)

    def close(self, uri: str) -> None:
        """From now on the file on disk counts."""
        self._texts.pop(uri, None)
        self._parts.pop(uri, None)
        self._forget(uri)

    def forget_files(self) -> None:
        """Files on disk have changed."""
        self._examined.clear()

    def _forget(self, uri: str) -> None:
        for user in self.users(uri):
            self._examined.pop(user, None)
        self._examined.pop(uri, None)

    # --- documents ---

    def open_uris(self) -> tuple[str, ...]:
        return tuple(self._texts)

    def is_open(self, uri: str) -> bool:
        return uri in self._texts

    def stale_uris(self) -> list[str]:
        """Open documents not examined since they, or what they use, changed."""
        return [uri for uri in self._texts if uri not in self._examined]

    def texts(self) -> dict[str, str]:
        """Open texts by the real paths of their files."""
        return {_real(uri): text for uri, (text, _) in self._texts.items()}

    def users(self, uri: str) -> tuple[str, ...]:
        """Open documents that use a file, as they were when last examined."""
        real = _real(uri)
        return tuple(
            other
            for other, document in self._examined.items()
            if other != uri and real in document.examination.units
        )

    def get(self, uri: str) -> Document:
        """An open document, examined as it is now."""
        if uri not in self._examined:
            text, version = self._texts[uri]
            document = self._examine(uri, text, version)
            self._examined[uri] = document
            self._parts[uri] = dict(document.examination.parts)
        return self._examined[uri]

    def with_texts(self, changed: dict[str, str]) -> Documents:
        """The same documents as if some texts were changed, by their addresses."""
        other = Documents(self.encoding, self.folders, dict(self._texts))
        other._parts = dict(self._parts)
        for uri, text in changed.items():
            other.put(uri, text, None)
        return other

    def find(self, uri: str) -> Document | None:
        """A document, open or on disk; None if it cannot be read."""
        if uri in self._texts:
            return self.get(uri)
        try:
            text = Path(_path(uri) or "").read_bytes().decode()
        except (OSError, ValueError):
            return None
        return self._examine(uri, text, None)

    def uri_of(self, source: Source) -> str:
        """The address of a source: as the editor has it, if it is open there."""
        if source.name in self._texts:
            return source.name
        path = path_of(source)
        real = os.path.realpath(path)
        opened = (uri for uri in self._texts if _real(uri) == real)
        return next(opened, None) or str(uris.from_fs_path(str(path)))

    def range(self, source: Source, span: Span) -> types.Range:
        """A stretch of a source as the protocol has it."""
        if self._last is None or source is not self._last[0]:
            self._last = source, Positions(source.text, self.encoding)
        return self._last[1].range(span)

    def mentioning(self, word: str) -> Iterator[Document]:
        """Documents whose text holds a word: open ones, and files of the folders."""
        addresses = dict.fromkeys((*self._texts, *self._files()))
        opened = {_real(uri) for uri in self._texts}
        for uri in addresses:
            if uri not in self._texts and (
                _real(uri) in opened or not _holds(uri, word)
            ):
                continue
            document = self.find(uri)
            if document is not None and word in document.text:
                yield document

    def _files(self) -> Iterable[str]:
        paths = (path for folder in self.folders for path in _rule_files(folder))
        return [
            str(uris.from_fs_path(str(path)))
            for path, _ in zip(paths, range(_MOST_FILES), strict=False)
        ]

    def _examine(self, uri: str, text: str, version: int | None) -> Document:
        path = _path(uri)
        source = Source(uri if path is None else str(path), text)
        known = {k: part for parts in self._parts.values() for k, part in parts.items()}
        examination = loader.examine(
            source,
            path,
            texts=self.texts(),
            known=known,
            catalog=checking_catalog(),
        )
        positions = Positions(text, self.encoding)
        return Document(uri, path, source, positions, examination, version)


def location(documents: Documents, source: Source, span: Span) -> types.Location:
    """A place in a source as the protocol has it."""
    return types.Location(documents.uri_of(source), documents.range(source, span))


def _path(uri: str) -> Path | None:
    found = uris.to_fs_path(uri) if uri.startswith("file:") else None
    return Path(found) if found else None


def _real(uri: str) -> str:
    path = _path(uri)
    return uri if path is None else os.path.realpath(path)


def _holds(uri: str, word: str) -> bool:
    path = _path(uri)
    try:
        return path is not None and word.encode() in path.read_bytes()
    except OSError:
        return False


def _rule_files(folder: Path) -> Iterator[Path]:
    for found, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if name[0] != "." and name not in _SKIPPED
        )
        yield from (Path(found, f) for f in sorted(files) if f.endswith(".rules"))
