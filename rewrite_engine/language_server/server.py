"""Table of contents: what an editor can ask, and when what is published."""

from __future__ import annotations

import asyncio
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Protocol

from lsprotocol import types
from pygls import uris
from pygls.exceptions import JsonRpcInvalidParams
from pygls.lsp.server import LanguageServer

from rewrite_engine.dsl.symbols import Symbol
from rewrite_engine.language_server import completion, hover, navigation, outline
from rewrite_engine.language_server import rename as renaming
from rewrite_engine.language_server.documents import Document, Documents
from rewrite_engine.language_server.formatting import format_document
from rewrite_engine.language_server.publishing import Board
from rewrite_engine.language_server.torch_process import TorchProcess

PAUSE: Final = 0.03
"""Seconds without a change after which a text is checked."""

_ERROR: Final = types.MessageType.Error
_HOVER_PATIENCE: Final = 0.5
_TEST_PATIENCE: Final = 120.0


class Positioned(Protocol):
    """What the parameters of requests about a position have in common."""

    @property
    def text_document(self) -> types.TextDocumentIdentifier: ...

    @property
    def position(self) -> types.Position: ...


class RuleServer(LanguageServer):
    """A language server with the documents of its one client."""

    def __init__(self) -> None:
        super().__init__(
            "rewrite-engine",
            _version(),
            # Lines are counted here, as the protocol counts them.
            text_document_sync_kind=types.TextDocumentSyncKind.Full,
        )
        self.documents = Documents()
        self.board = Board(self.documents)
        self.torch = TorchProcess()
        self.checks: dict[str, asyncio.Task[None]] = {}

    def at(self, params: Positioned) -> tuple[Document, int]:
        """The document and the offset that a request is about."""
        document = self.documents.get(params.text_document.uri)
        return document, document.positions.offset(params.position)

    def check_soon(self, uri: str, pause: float) -> None:
        """Check a document, and those that use it, unless it changes again before."""
        earlier = self.checks.get(uri)
        if earlier is not None:
            earlier.cancel()
        self.checks[uri] = asyncio.ensure_future(self._check(uri, pause))

    async def _check(self, uri: str, pause: float) -> None:
        await asyncio.sleep(pause)
        try:
            self._publish(uri)
            while stale := self.documents.stale_uris():
                # Requests that came in meanwhile are answered first.
                await asyncio.sleep(0)
                self._publish(stale[0])
        except Exception:  # a fault of ours: the editor goes on, and its log has it
            text = traceback.format_exc()
            self.window_log_message(types.LogMessageParams(_ERROR, text))

    def _publish(self, uri: str) -> None:
        if not self.documents.is_open(uri):
            return
        for params in self.board.put(self.documents.get(uri)):
            self.text_document_publish_diagnostics(params)


def create_server() -> RuleServer:
    """A server that is ready to be started."""
    server = RuleServer()
    for register in (_life, _texts, _questions, _edits, _tests):
        register(server)
    return server


def _life(server: RuleServer) -> None:
    @server.feature(types.INITIALIZE)
    def initialize(params: types.InitializeParams) -> None:
        encoding = server.workspace.position_encoding
        server.documents.encoding = types.PositionEncodingKind(encoding).value
        roots = [folder.uri for folder in params.workspace_folders or ()]
        paths = (uris.to_fs_path(uri) for uri in roots or [params.root_uri or ""])
        server.documents.folders += [Path(path) for path in paths if path]

    @server.feature(types.SHUTDOWN)
    def shutdown(params: None) -> None:
        server.torch.stop()


def _texts(server: RuleServer) -> None:
    @server.feature(types.TEXT_DOCUMENT_DID_OPEN)
    def opened(params: types.DidOpenTextDocumentParams) -> None:
        document = params.text_document
        server.documents.put(document.uri, document.text, document.version)
        server.check_soon(document.uri, 0)

    @server.feature(types.TEXT_DOCUMENT_DID_CHANGE)
    def changed(params: types.DidChangeTextDocumentParams) -> None:
        document = params.text_document
        text = params.content_changes[-1].text
        server.documents.put(document.uri, text, document.version)
        server.check_soon(document.uri, PAUSE)

    @server.feature(types.TEXT_DOCUMENT_DID_CLOSE)
    def closed(params: types.DidCloseTextDocumentParams) -> None:
        uri = params.text_document.uri
        server.documents.close(uri)
        for published in server.board.remove(uri):
            server.text_document_publish_diagnostics(published)
        # For those that use it, the file on disk counts again.
        server.check_soon(uri, 0)

    @server.feature(types.WORKSPACE_DID_CHANGE_WATCHED_FILES)
    def files_changed(params: types.DidChangeWatchedFilesParams) -> None:
        server.documents.forget_files()
        for uri in server.documents.open_uris():
            server.check_soon(uri, PAUSE)


def _questions(server: RuleServer) -> None:
    @server.feature(types.TEXT_DOCUMENT_HOVER)
    async def hovered(params: types.HoverParams) -> types.Hover | None:
        document, offset = server.at(params)
        found = hover.hover(document, offset)
        if found is None:
            return None
        text = found.text
        if found.symbol is not None:
            text += await _computed(server, document, found.symbol)
        content = types.MarkupContent(types.MarkupKind.Markdown, text)
        return types.Hover(content, document.positions.range(found.span))

    @server.feature(
        types.TEXT_DOCUMENT_COMPLETION,
        types.CompletionOptions(trigger_characters=[".", "$", "(", ":", '"']),
    )
    def completed(params: types.CompletionParams) -> types.CompletionList:
        return completion.complete(*server.at(params))

    @server.feature(types.TEXT_DOCUMENT_DEFINITION)
    def defined(params: types.DefinitionParams) -> types.Location | None:
        return navigation.definition(server.documents, *server.at(params))

    @server.feature(types.TEXT_DOCUMENT_REFERENCES)
    def referred(params: types.ReferenceParams) -> list[types.Location]:
        return navigation.reference_locations(
            server.documents,
            *server.at(params),
            include_declaration=params.context.include_declaration,
        )

    @server.feature(types.TEXT_DOCUMENT_DOCUMENT_SYMBOL)
    def outlined(params: types.DocumentSymbolParams) -> list[types.DocumentSymbol]:
        document = server.documents.get(params.text_document.uri)
        return outline.document_symbols(document)


async def _computed(server: RuleServer, document: Document, symbol: Symbol) -> str:
    """What only torch can tell about a name: instances of a rule, types of values."""
    question = hover.question(symbol)
    if question is None:
        return ""
    request = {**_request(server, document), **question}
    answer = await server.torch.ask(request, _HOVER_PATIENCE)
    return hover.answer_text(symbol, answer)


def _request(server: RuleServer, document: Document) -> dict[str, Any]:
    path = "" if document.path is None else str(document.path)
    texts = server.documents.texts()
    return {"text": document.text, "path": path, "texts": texts}


def _edits(server: RuleServer) -> None:
    @server.feature(types.TEXT_DOCUMENT_FORMATTING)
    def formatted(params: types.DocumentFormattingParams) -> list[types.TextEdit]:
        return format_document(server.documents.get(params.text_document.uri))

    @server.feature(types.TEXT_DOCUMENT_PREPARE_RENAME)
    def prepared(params: types.PrepareRenameParams) -> types.PrepareRenamePlaceholder:
        document, offset = server.at(params)
        try:
            symbol, span = renaming.renameable(document, offset)
        except renaming.RenameError as error:
            raise JsonRpcInvalidParams(str(error)) from None
        place = document.positions.range(span)
        return types.PrepareRenamePlaceholder(place, symbol.name)

    @server.feature(
        types.TEXT_DOCUMENT_RENAME, types.RenameOptions(prepare_provider=True)
    )
    def renamed(params: types.RenameParams) -> types.WorkspaceEdit:
        document, offset = server.at(params)
        try:
            return renaming.rename(server.documents, document, offset, params.new_name)
        except renaming.RenameError as error:
            raise JsonRpcInvalidParams(str(error)) from None


def _tests(server: RuleServer) -> None:
    @server.feature(types.TEXT_DOCUMENT_CODE_LENS)
    def lenses(params: types.CodeLensParams) -> list[types.CodeLens]:
        return outline.lenses(server.documents.get(params.text_document.uri))

    @server.command(outline.RUN_TEST)
    async def run_test(uri: str, title: str) -> dict[str, Any]:
        """Run a test of a document as it is in the editor, and tell the user."""
        request = {**_request(server, server.documents.get(uri)), "test": title}
        answer = await server.torch.ask(request, _TEST_PATIENCE)
        message = answer.get("message", "the test could not be run")
        passed = bool(answer.get("passed"))
        kind = types.MessageType.Info if passed else types.MessageType.Error
        text = f"test “{title}”: {message}"
        server.window_show_message(types.ShowMessageParams(kind, text))
        return {"passed": passed, "message": message}


def _version() -> str:
    try:
        return version("rewrite-engine")
    except PackageNotFoundError:
        return "0"
