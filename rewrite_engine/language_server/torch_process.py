"""The process that answers what needs torch, started when first asked."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

import rewrite_engine

_HOME: Final = str(Path(rewrite_engine.__file__).parents[1])
# The folder that the editor is in must not be searched for modules, but that of this
# package is, which need not be installed, or may be installed in another version.
_CODE: Final = f"""
import sys
installed = (i for i, path in enumerate(sys.path) if path.endswith("-packages"))
sys.path.insert(next(installed, len(sys.path)), {_HOME!r})
from rewrite_engine.language_server.worker import main
main()
"""
_SECONDS: Final = 120.0
_LONGEST_LINE: Final = 1 << 24


@attrs.define(eq=False)
class TorchProcess:
    """Takes one question after the other; answers are kept by their question."""

    _process: asyncio.subprocess.Process | None = None
    _lock: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    _answers: dict[str, asyncio.Task[dict[str, Any]]] = attrs.field(factory=dict)

    async def ask(self, request: Mapping[str, Any], patience: float) -> dict[str, Any]:
        """The answer; `{}` if there is none after `patience` seconds, or at all.

        An answer that comes later is there for who asks again.
        """
        key = json.dumps(request)
        if key not in self._answers:
            self._answers = {k: t for k, t in self._answers.items() if not t.done()}
            self._answers[key] = asyncio.create_task(self._answer(key))
        task = self._answers[key]
        await asyncio.wait([task], timeout=patience)
        return task.result() if task.done() else {}

    async def _answer(self, line: str) -> dict[str, Any]:
        async with self._lock:
            try:
                return await asyncio.wait_for(self._exchange(line), _SECONDS)
            except (OSError, ValueError, TimeoutError):
                self.stop()
                return {}

    async def _exchange(self, line: str) -> dict[str, Any]:
        process = self._process
        if process is None or process.returncode is not None:
            process = self._process = await _start()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{line}\n".encode())
        await process.stdin.drain()
        answer: dict[str, Any] = json.loads(await process.stdout.readline())
        return answer

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        self._process = None


async def _start() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", _CODE),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        limit=_LONGEST_LINE,
    )
