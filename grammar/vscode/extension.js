// Starts `rewrite-engine lsp` and hands it the rule files that are open.

const { workspace } = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");

let client;

exports.activate = async function () {
  const [command, ...args] = workspace
    .getConfiguration("rewriteEngine")
    .get("command");
  client = new LanguageClient(
    "rewriteEngine",
    "rewrite_engine",
    { command, args },
    {
      documentSelector: [{ language: "rewrite-rules" }],
      synchronize: {
        fileEvents: workspace.createFileSystemWatcher("**/*.rules"),
      },
    },
  );
  await client.start();
};

exports.deactivate = function () {
  return client?.stop();
};
