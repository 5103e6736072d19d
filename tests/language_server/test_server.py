"""Every feature of the language server, as an editor sees it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rewrite_engine import engine
from rewrite_engine.assets import rules_directory
from rewrite_engine.dsl.printer import format_source
from rewrite_engine.source import Source

RULES = """\
# Grüße 𝄞: comments hold what they like
## relu of relu is relu.
rule relu_twice {
  y = relu(x)  # 𝄞
  z = relu(y)
  where x: f32[$n, 4]
=>
  z' = clamp(x, min=0)
}

pattern scaled(v, $k) = mul(v, $k)

test "one is enough" {
  given (x: f32[2, 4]) {
    once = relu(x)
    return relu(once)
  }
  expect relu_twice * 1, equal
}
"""


def place(text: str, marked: str, index: int = 0) -> dict[str, int]:
    """The position of `|` in an excerpt of the text, in UTF-16 units."""
    excerpt = marked.replace("|", "", 1)
    start = -1
    for _ in range(index + 1):
        start = text.index(excerpt, start + 1)
    before = text[: start + marked.index("|")]
    line = before.rpartition("\n")[2]
    return {
        "line": before.count("\n"),
        "character": len(line.encode("utf-16-le")) // 2,
    }


def cut(text: str, found: dict[str, Any]) -> str:
    """The text of a range on one line, counted in UTF-16 units."""
    line = text.splitlines()[found["start"]["line"]].encode("utf-16-le")
    start, end = found["start"]["character"], found["end"]["character"]
    return line[2 * start : 2 * end].decode("utf-16-le")


def applied(text: str, edits: list[dict[str, Any]]) -> str:
    """The text after edits, whose columns are UTF-16 units."""
    lines = text.splitlines(keepends=True)
    starts = [
        len("".join(lines[:n]).encode("utf-16-le")) for n in range(len(lines) + 1)
    ]

    def offset(position: dict[str, int]) -> int:
        return starts[position["line"]] + 2 * position["character"]

    data = text.encode("utf-16-le")
    for edit in sorted(edits, key=lambda e: -offset(e["range"]["start"])):
        start, end = (offset(edit["range"][side]) for side in ("start", "end"))
        data = data[:start] + edit["newText"].encode("utf-16-le") + data[end:]
    return data.decode("utf-16-le")


@pytest.fixture
def rules(client):
    uri = client.open("relu.rules", RULES)
    yield uri
    client.close(uri)


def test_diagnostics_while_typing(client, rules):
    assert client.diagnostics(rules) == []
    wrong = RULES.replace("clamp(x", "clump(x")
    (found,) = client.diagnostics(rules, client.change(rules, wrong))
    assert found["code"] == "E201"
    assert found["severity"] == 1
    assert cut(wrong, found["range"]) == "clump"
    assert "did you mean `clamp`" in found["message"]
    assert found["codeDescription"]["href"].endswith("errors.md#e201-unknown-operator")
    broken = RULES.replace("y = relu(x)", "/* 𝄞 */ y = relu(x")
    (found,) = client.diagnostics(rules, client.change(rules, broken))
    assert found["code"] == "E102"
    assert client.diagnostics(rules, client.change(rules, RULES)) == []


def test_a_finding_points_at_what_it_is_about(client, rules):
    text = RULES.replace("pattern scaled(v, $k)", "pattern scaled(v, $k, $l)")
    (found,) = client.diagnostics(rules, client.change(rules, text))
    assert (found["code"], found["severity"]) == ("W201", 2)
    assert found["tags"] == [1]
    twice = f"{RULES}\npattern scaled(v) = relu(v)\n"
    (found,) = client.diagnostics(rules, client.change(rules, twice))
    (first,) = found["relatedInformation"]
    assert found["code"] == "E204"
    assert first["location"]["range"]["start"] == place(RULES, "pattern |scaled")


def test_columns_are_counted_as_the_client_can(tmp_path, client_class):
    counting = client_class(tmp_path, general={"positionEncodings": ["utf-8"]})
    assert counting.capabilities["positionEncoding"] == "utf-8"
    text = 'rule r { y = relu(x) where y is const else "é𝄞"=> y\' = unknown(x) }\n'
    (found,) = counting.diagnostics(counting.open("bytes.rules", text))
    span = (found["range"][side]["character"] for side in ("start", "end"))
    assert text.encode()[slice(*span)] == b"unknown"
    assert counting.stop() == 0


def test_every_page_that_a_finding_leads_to_is_there():
    from rewrite_engine.assets import grammar_directory
    from rewrite_engine.dsl.codes import codes
    from rewrite_engine.language_server.publishing import page_uri

    pages = (grammar_directory() / "errors.md").read_text(encoding="utf-8")
    for code in codes():
        file, _, anchor = page_uri(code).partition("#")
        assert file == (grammar_directory() / "errors.md").as_uri()
        assert f"\n## {anchor.replace('-', ' ', 1).capitalize()}\n" in pages


def test_findings_of_a_used_file_are_shown_there(client):
    used = client.folder / "wrong.rules"
    used.write_text("op a = aten.relu.defalt\n")
    uri = client.open("user.rules", 'use "wrong.rules" (a)\n')
    found = {uri: client.diagnostics(uri)}
    found[used.as_uri()] = client.diagnostics(used.as_uri())
    assert [d["code"] for d in found[used.as_uri()]] == ["E201"]
    assert found[uri] == []
    # Once it is open, the editor's text counts, and its users are checked again.
    opened = client.open("wrong.rules", "op b = aten.relu.default\n")
    assert client.diagnostics(opened) == []
    (missing,) = client.diagnostics(uri)
    assert missing["code"] == "E210"
    client.close(opened)
    assert client.diagnostics(opened) == []
    assert client.diagnostics(uri) == []
    assert [d["code"] for d in client.diagnostics(opened)] == ["E201"]
    client.close(uri)
    assert client.diagnostics(uri) == []
    assert client.diagnostics(opened) == []


def test_formatting(client, rules):
    messy = RULES.replace("y = relu(x)  # 𝄞", "y=relu( x )# 𝄞")
    client.change(rules, messy)
    (edit,) = client.request(
        "textDocument/formatting",
        textDocument={"uri": rules},
        options={"tabSize": 2, "insertSpaces": True},
    )
    assert format_source(Source("", messy)) == applied(messy, [edit])
    # What does not parse stays as it is.
    client.change(rules, RULES.replace("relu(x)", "relu(x"))
    edits = client.request(
        "textDocument/formatting",
        textDocument={"uri": rules},
        options={"tabSize": 2, "insertSpaces": True},
    )
    assert edits == []


@pytest.mark.parametrize(
    ("marked", "shown"),
    [
        ("y = re|lu(x)", "aten.relu.default(self: Tensor)"),
        ("  y| = relu", "`y`: a matched call"),
        ("  where |x: f32", "where x: f32[$n, 4]"),
        ("$|n, 4", "`n`: a literal"),
        ("m|in=", "min: Scalar? = none"),
        ("rule re|lu_twice", "relu of relu is relu."),
        ("ru|le relu_twice", None),
        ("f3|2[$n", "`torch.float32`"),
        ("pattern sc|aled", "pattern scaled(v, $k) = mul(v, $k)"),
        ("given (|x: f32", "x: f32[2, 4]"),
    ],
)
def test_hover(client, rules, marked, shown):
    found = client.ask("hover", rules, place(RULES, marked))
    if shown is None:
        assert found is None
    else:
        assert shown in found["contents"]["value"]


def asked_until(client, rules, marked, wanted):
    """What a hover says once it says so: some of it is computed beside."""
    for _ in range(200):
        found = client.ask("hover", rules, place(RULES, marked))
        if wanted in (text := found["contents"]["value"]):
            return text
    raise AssertionError(f"no `{wanted}` in {text}")


def test_hover_counts_the_instances_of_a_rule(client, rules):
    text = asked_until(client, rules, "rule re|lu_twice", "instance")
    expected = len(engine.loads(RULES)["relu_twice"].instances())
    assert text.endswith(f"\n{expected} instance")


@pytest.mark.parametrize(
    ("marked", "type"),
    [
        ("y = relu(|x)", "for example `f32[2, 4]`"),
        ("  y| = relu", "for example `f32[2, 4]`"),
        ("  z|' = clamp", "for example `f32[2, 4]`"),
        ("$|n, 4", "for example `2`"),
        ("  once| = relu", "`f32[2, 4]`"),
    ],
)
def test_hover_tells_inferred_types(client, rules, marked, type):
    assert asked_until(client, rules, marked, f"\n\n{type}").endswith(type)


@pytest.mark.parametrize(
    ("before", "offered"),
    [
        ("rule r { y = re", ["relu", "reshape", "rank"]),
        ("rule r { y = conv2d(x, ", ["weight=", "bias=", "stride=", "x"]),
        ("rule r { y = conv2d(x, weight=w, ", ["bias=", "w"]),
        ("rule r { y = add(x, x, ", ["alpha="]),
        ("rule r for (op, $a) in F { y = op(x, ", ["other=", "$a"]),
        ("rule r { y = relu(x) where ", ["x", "is", "uses"]),
        ("rule r { y = relu(x) where x: f", ["f32", "f16"]),
        ("rule r { y = mul(x, $k) => y' = mul(x, $", ["$k"]),
        ("rule r { y = relu(x) => m", ["meta", "mul"]),
        ("rule r { y = aten.conv", ["aten.conv2d", "aten.convolution"]),
        ("rule r { y = aten.conv2d.", ["aten.conv2d.default", "aten.conv2d.padding"]),
        ("rule r { y = sc", ["scaled"]),
        ("rule r { y = x.rel", []),
        ("rule r { y = .rel", [".relu"]),
        ("rule r for op in ", ["F"]),
        ("ru", ["rule", "pattern", "test"]),
        ('use "', ["qat_fuse.rules"]),
        ('test "t" { given (x: f32[2]) { return x } expect ', ["known", "equal"]),
        ("# re", []),
    ],
)
def test_completion(client, before, offered):
    text = (
        "family F(op, $a) = (aten.add.Tensor, 1)\npattern scaled(v) = relu(v)\n"
        "rule known { y = relu(x) => y' = x }\n# 𝄞\n" + before
    )
    uri = client.open("new.rules", text)
    found = client.ask("completion", uri, place(text, f"{before}|"))["items"]
    client.close(uri)
    labels = [item["label"] for item in found]
    assert [label for label in offered if label in labels] == offered
    assert bool(labels) == bool(offered)
    typed = re.search(r"[$.\w]*$", before)
    for item in found:
        start = item["textEdit"]["range"]["start"]
        assert start == place(text, f"{before[: typed.start()]}|{typed[0]}", 0)


def test_a_parameter_that_is_given_is_not_offered_again(client):
    text = "rule r { y = conv2d(x, w, stride=$s, "
    uri = client.open("new.rules", text)
    found = client.ask("completion", uri, place(text, f"{text}|"))["items"]
    client.close(uri)
    labels = [item["label"] for item in found]
    assert "bias=" in labels
    assert not {"input=", "weight=", "stride="} & set(labels)


@pytest.mark.parametrize(
    ("marked", "target"),
    [
        ("expect re|lu_twice", "rule |relu_twice"),
        ("mul(v, $|k)", "scaled(v, $|k)"),
        ("relu(y|)", "  |y = relu"),
        ("where |x: f32", "relu(|x)"),
        ("  |z' = clamp", "  |z = relu"),
    ],
)
def test_definition(client, rules, marked, target):
    found = client.ask("definition", rules, place(RULES, marked))
    assert (found["uri"], found["range"]["start"]) == (rules, place(RULES, target))


def test_definition_in_other_files(client):
    (client.folder / "base.rules").write_text("# 𝄞\nop twice = aten.relu.default\n")
    text = 'use "base.rules"\nrule r { y = twice(add(x, x)) => y\' = x }\n'
    uri = client.open("user.rules", text)
    found = client.ask("definition", uri, place(text, "|twice"))
    assert found["uri"] == (client.folder / "base.rules").as_uri()
    assert found["range"]["start"] == {"line": 1, "character": 3}
    assert client.ask("definition", uri, place(text, '"ba|se'))["uri"] == found["uri"]
    shipped = client.ask("definition", uri, place(text, "ad|d("))
    assert shipped["uri"] == (rules_directory() / "prelude.rules").as_uri()
    client.close(uri)


def test_references_and_rename_across_files(client):
    base = "op twice = aten.relu.default\n"
    user = 'use "ops.rules" (twice)\n# é\nrule r { y = twice(x) => y\' = twice(x) }\n'
    (client.folder / "ops.rules").write_text(base)
    (client.folder / "on_disk.rules").write_text(user)
    uri = client.open("shown.rules", f"# 𝄞 twice\n{user}")
    asked = place(f"# 𝄞 twice\n{user}", "y = tw|ice")
    found = client.ask("references", uri, asked, context={"includeDeclaration": True})
    files = Counter(Path(location["uri"]).name for location in found)
    assert files == {"ops.rules": 1, "on_disk.rules": 3, "shown.rules": 3}
    uses = client.ask("references", uri, asked, context={"includeDeclaration": False})
    assert len(uses) == len(found) - 1
    edit = client.ask("rename", uri, asked, newName="only_once")["changes"]
    texts = {"ops.rules": base, "on_disk.rules": user}
    texts["shown.rules"] = f"# 𝄞 twice\n{user}"
    for address, edits in edit.items():
        before = texts[Path(address).name]
        after = before.replace("twice", "only_once")
        after = after.replace("𝄞 only_once", "𝄞 twice")
        assert applied(before, edits) == after
    assert len(edit) == 3
    client.close(uri)


def test_rename_is_refused_with_a_reason(client, rules, server_error):
    asked = place(RULES, "expect re|lu_twice")
    place_found = client.ask("prepareRename", rules, asked)
    assert place_found["placeholder"] == "relu_twice"
    with pytest.raises(server_error, match="reserved word"):
        client.ask("rename", rules, asked, newName="where")
    with pytest.raises(server_error, match="shipped library"):
        client.ask("prepareRename", rules, place(RULES, "y = re|lu"))


def test_document_symbols(client, rules):
    found = client.request("textDocument/documentSymbol", textDocument={"uri": rules})
    names = [(symbol["name"], symbol.get("detail")) for symbol in found]
    assert names == [
        ("relu_twice", "rule"),
        ("scaled", "pattern"),
        ("one is enough", None),
    ]
    rule = found[0]
    assert cut(RULES, rule["selectionRange"]) == "relu_twice"
    assert [child["name"] for child in rule["children"]] == ["y", "x", "z", "n"]


def test_a_lens_runs_a_test(client, rules):
    (lens,) = client.request("textDocument/codeLens", textDocument={"uri": rules})
    assert lens["range"]["start"] == place(RULES, "|test")
    command = lens["command"]
    assert (
        command["command"] in client.capabilities["executeCommandProvider"]["commands"]
    )
    run = {"command": command["command"], "arguments": command["arguments"]}
    assert client.request("workspace/executeCommand", **run)["passed"]
    # The text in the editor is what counts.
    client.change(rules, RULES.replace("relu_twice * 1", "relu_twice * 2"))
    answer = client.request("workspace/executeCommand", **run)
    assert not answer["passed"]
    assert answer["message"].startswith("expected relu_twice * 2, found 1 (nearest at")
    told = [m for m in client.messages if m.get("method") == "window/showMessage"]
    assert "found 1" in told[-1]["params"]["message"]


def test_the_server_answers_without_torch():
    code = (
        "import sys; from rewrite_engine.language_server.server import create_server;"
        "create_server(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
