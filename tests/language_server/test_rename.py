"""Renaming: everywhere, and never into another meaning."""

from __future__ import annotations

import pytest

pytest.importorskip("pygls", reason="the language server needs the extra `lsp`")

from rewrite_engine.dsl import loader
from rewrite_engine.language_server.documents import Document, Documents
from rewrite_engine.language_server.rename import RenameError, rename

URI = "file:///nowhere/rules.rules"
TEXT = """\
family F(op, $axis) = (aten.relu.default, 0) | (aten.neg.default, 1)

op mine = aten.relu.default
pattern scaled(v, $k) = mul(v, $k) | mul(k, v)

# a comment about y and 𝄞
rule r for (op, $axis) in F inexact {
  y = op(x)
  z = N@scaled(y, $c)
  t = [a, *xs]
  where rank(x) == 1, y: f32[$n, _] else "y is not scaled"
=>
  u = mine(x)
  y' = u
  z' = N(y')
  meta u <- y
}
"""


def open_text(text: str = TEXT) -> tuple[Documents, Document]:
    documents = Documents()
    documents.put(URI, text, 1)
    return documents, documents.get(URI)


def renamed(text: str, offset: int, name: str) -> str:
    documents, document = open_text(text)
    changes = rename(documents, document, offset, name).changes
    assert changes is not None
    positions = document.positions
    for edit in sorted(changes[URI], key=lambda e: -positions.offset(e.range.start)):
        start, end = map(positions.offset, (edit.range.start, edit.range.end))
        text = text[:start] + edit.new_text + text[end:]
    return text


def codes(text: str) -> list[str]:
    return [found.code for found in loader.check_text(text)]


def test_every_name_can_be_renamed_and_renamed_back() -> None:
    _, document = open_text()
    own = [o for o in document.occurrences if o.symbol.source is document.source]
    defined = [o for o in own if o.is_definition]
    assert len(defined) >= 15
    for occurrence in defined:
        after = renamed(TEXT, occurrence.span.start, "fresh_name")
        assert after.count("fresh_name") == sum(
            o.symbol == occurrence.symbol for o in own
        )
        assert codes(after) == codes(TEXT)
        back = renamed(after, after.index("fresh_name"), occurrence.symbol.name)
        assert back == TEXT


@pytest.mark.parametrize(
    ("marked", "name"),
    [
        ("  |y = op", "z"),
        ("  |y = op", "x"),
        ("  |y = op", "u"),
        ("op(|x)", "n"),
        ("|N@", "x"),
        ("|N@", "scaled"),
        ("op |mine", "scaled"),
        ("op |mine", "op"),
        ("op |mine", "N"),
        ("op |mine", "mul"),
        ("op |mine", "rank"),
        ("pattern |scaled", "mine"),
        ("pattern |scaled", "F"),
        ("family |F", "scaled"),
        ("scaled(|v", "k"),
        ("for (|op", "mine"),
        ("for (op, $|axis", "c"),
    ],
)
def test_a_name_that_means_something_is_refused(marked: str, name: str) -> None:
    start = TEXT.index(marked.replace("|", "")) + marked.index("|")
    with pytest.raises(RenameError, match="already means something"):
        renamed(TEXT, start, name)


def test_a_name_that_a_using_file_has_is_refused(tmp_path) -> None:
    (tmp_path / "base.rules").write_text("op one = aten.relu.default\n")
    (tmp_path / "user.rules").write_text(
        'use "base.rules"\nop two = aten.neg.default\n'
        "rule r { y = two(two(x)) => y' = x }\n"
    )
    documents = Documents(folders=[tmp_path])
    uri = (tmp_path / "base.rules").as_uri()
    documents.put(uri, "op one = aten.relu.default\n", 1)
    with pytest.raises(RenameError, match="already means something"):
        rename(documents, documents.get(uri), 3, "two")
    changes = rename(documents, documents.get(uri), 3, "three").changes
    assert changes is not None
    assert list(changes) == [uri]


@pytest.mark.parametrize(
    "name", ["1x", "a b", "", "_", "where", "None", "lambda", "__x__", "x" * 129, "é"]
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(RenameError):
        renamed(TEXT, TEXT.index("y = op"), name)


def test_nothing_is_renamed_in_a_file_that_does_not_parse() -> None:
    broken = TEXT + "\nrule broken { y = mine(x => }\n"
    with pytest.raises(RenameError, match="errors of syntax"):
        renamed(broken, broken.index("mine"), "other")


def test_there_must_be_a_name() -> None:
    with pytest.raises(RenameError, match="no name here"):
        renamed(TEXT, TEXT.index("comment"), "other")
    with pytest.raises(RenameError, match="shipped library"):
        renamed(TEXT, TEXT.index("mul("), "other")
