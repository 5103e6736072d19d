"""A scripted editor: JSON-RPC with a server in a process of its own."""

from __future__ import annotations

import itertools
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 60


class Client:
    """Sends requests and gathers what comes back; positions are UTF-16."""

    def __init__(self, folder: Path, **capabilities: Any) -> None:
        self.folder = folder
        self.messages: list[dict[str, Any]] = []
        self._replies: queue.Queue[dict[str, Any]] = queue.Queue()
        self._numbers = itertools.count(1)
        self._versions = itertools.count(1)
        self._server = subprocess.Popen(
            [sys.executable, "-m", "rewrite_engine", "lsp"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        threading.Thread(target=self._read, daemon=True).start()
        answer = self.request(
            "initialize",
            processId=None,
            rootUri=folder.as_uri(),
            capabilities=capabilities,
        )
        self.capabilities = answer["capabilities"]
        self.notify("initialized")

    # --- messages ---

    def request(self, method: str, **params: Any) -> Any:
        """The result of a request; a ServerError if it is refused."""
        number = next(self._numbers)
        self._send(id=number, method=method, params=params or None)
        reply = self._until(lambda message: message.get("id") == number)
        if "error" in reply:
            raise ServerError(reply["error"]["message"])
        return reply.get("result")

    def notify(self, method: str, **params: Any) -> None:
        self._send(method=method, params=params)

    def _send(self, **message: Any) -> None:
        data = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self._server.stdin is not None
        self._server.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(data), data))
        self._server.stdin.flush()

    def _until(self, wanted) -> dict[str, Any]:
        while True:
            message = self._replies.get(timeout=SECONDS)
            if wanted(message):
                return message
            self.messages.append(message)

    def _read(self) -> None:
        out = self._server.stdout
        assert out is not None
        while header := out.readline():
            length = int(header.removeprefix(b"Content-Length:"))
            while out.readline().strip():
                pass
            self._replies.put(json.loads(out.read(length)))

    # --- documents ---

    def open(self, name: str, text: str) -> str:
        """Show a text as a file of the folder; its address."""
        uri = (self.folder / name).as_uri()
        document = {"uri": uri, "languageId": "rewrite-rules", "text": text}
        document["version"] = next(self._versions)
        self.notify("textDocument/didOpen", textDocument=document)
        return uri

    def change(self, uri: str, text: str) -> int:
        """Type until the text is this; its version."""
        version = next(self._versions)
        self.notify(
            "textDocument/didChange",
            textDocument={"uri": uri, "version": version},
            contentChanges=[{"text": text}],
        )
        return version

    def close(self, uri: str) -> None:
        self.notify("textDocument/didClose", textDocument={"uri": uri})

    def diagnostics(self, uri: str, version: int | None = None) -> list[dict[str, Any]]:
        """What is published about a document next, or about a version of it."""
        reply = self._until(
            lambda message: (
                message.get("method") == "textDocument/publishDiagnostics"
                and message["params"]["uri"] == uri
                and version in (None, message["params"].get("version"))
            )
        )
        return reply["params"]["diagnostics"]

    def ask(self, method: str, uri: str, position: dict[str, int], **more: Any) -> Any:
        """The result of a request about a position."""
        return self.request(
            f"textDocument/{method}",
            textDocument={"uri": uri},
            position=position,
            **more,
        )

    def stop(self) -> int:
        """End the session as editors do; the exit status of the server."""
        self.request("shutdown")
        self.notify("exit")
        return self._server.wait(SECONDS)


class ServerError(Exception):
    """The server refused a request."""


@pytest.fixture(scope="session")
def client_class(client: Client) -> type[Client]:
    return Client


@pytest.fixture(scope="session")
def server_error() -> type[Exception]:
    return ServerError


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    pytest.importorskip("pygls", reason="the language server needs the extra `lsp`")
    started = Client(tmp_path_factory.mktemp("editor"))
    yield started
    assert started.stop() == 0
