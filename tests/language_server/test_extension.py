"""The VS Code extension: its manifest, and what it starts, without VS Code."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "grammar/vscode"
MANIFEST = json.loads((FOLDER / "package.json").read_text())

# Stands for VS Code and its client library, and prints what the extension asks of them.
SCRIPT = """
const Module = require("module");
const load = Module._load;
const vscode = { workspace: {
  getConfiguration: (section) => ({ get: (key) => settings[`${section}.${key}`] }),
  createFileSystemWatcher: (pattern) => pattern,
} };
class LanguageClient {
  constructor(id, name, server, options) { this.made = { id, name, server, options }; }
  async start() { console.log(JSON.stringify(this.made)); }
  async stop() { console.log(JSON.stringify("stopped")); }
}
const stubs = { vscode, "vscode-languageclient/node": { LanguageClient } };
Module._load = (name, ...rest) => stubs[name] ?? load(name, ...rest);
const settings = JSON.parse(process.argv[2]);
const extension = require(process.argv[1]);
extension.activate().then(() => extension.deactivate());
"""


def test_the_files_of_the_manifest_are_there() -> None:
    contributed = MANIFEST["contributes"]
    (language,), (grammar,) = contributed["languages"], contributed["grammars"]
    assert (FOLDER / MANIFEST["main"]).is_file()
    assert (FOLDER / language["configuration"]).is_file()
    assert (FOLDER.parent / grammar["path"]).is_file(), "copied beside when packaged"
    shown = json.loads((FOLDER.parent / grammar["path"]).read_text())
    assert shown["scopeName"] == grammar["scopeName"]


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js is installed")
def test_the_extension_starts_the_configured_command() -> None:
    properties = MANIFEST["contributes"]["configuration"]["properties"]
    settings = {key: setting["default"] for key, setting in properties.items()}
    main = str(FOLDER / MANIFEST["main"])
    command = ["node", "-e", SCRIPT, main, json.dumps(settings)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    started, stopped = map(json.loads, run.stdout.splitlines())
    assert started["server"] == {"command": "rewrite-engine", "args": ["lsp"]}
    (selected,) = started["options"]["documentSelector"]
    assert selected["language"] == MANIFEST["contributes"]["languages"][0]["id"]
    assert stopped == "stopped"
