"""The TextMate grammar and the Pygments lexer follow the grammar of the language."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest
from lark import Lark, Token
from pygments.token import Error, Whitespace

from rewrite_engine.assets import grammar_directory, grammar_text, rules_directory
from rewrite_engine.dsl.functions import DTYPES
from rewrite_engine.pygments_lexer import TOKENS, RulesLexer

ROOT = Path(__file__).parents[1]
VSCODE = grammar_directory() / "vscode"
GRAMMAR = json.loads((grammar_directory() / "rules.tmLanguage.json").read_text("utf-8"))
PATTERNS = [
    (re.compile(pattern.get("match") or pattern["begin"]), pattern)
    for pattern in GRAMMAR["patterns"]
]
FILES = sorted(
    [*rules_directory().glob("*.rules"), *(ROOT / "tests/cases/accept").glob("*.rules")]
)

NAMES = {"variable.other", "entity.name.function", "entity.name.type", "support.type"}
WORDS = {
    "storage.type",
    "storage.modifier",
    "keyword.control",
    "keyword.operator.word",
    "constant.language",
}
ARITHMETIC = {"keyword.operator.arithmetic"}
BRACKETS = {"punctuation"}
PATTERN = {"keyword.operator.pattern"}
SCOPES = {
    "NAME": {*NAMES, "variable.parameter"},
    "PATH": {"support.other.path", "entity.name.function"},
    "METHOD": {"support.other.path", "entity.name.function"},
    "STEM": {"support.other.module"},
    "PRIMED": {"variable.other.replaced"},
    "LITERAL": {"variable.other.literal"},
    "REST": {"keyword.operator.rest"},
    "INT": {"constant.numeric.integer"},
    "FLOAT": {"constant.numeric.float"},
    "STRING": {"string.quoted.double"},
    "_WILDCARD": {"variable.language"},
    "COMPARATOR": {"keyword.operator.comparison"},
    "ARROW": {"keyword.operator.rewrite"},
    "WRITE": {"keyword.operator.assignment"},
    "EQUAL": {"keyword.operator.assignment"},
    **dict.fromkeys(("PLUS", "MINUS", "STAR", "SLASH", "FLOOR", "PERCENT"), ARITHMETIC),
    **dict.fromkeys(("CHAIN", "MAYBE", "QMARK", "VBAR", "AT", "TILDE"), PATTERN),
    **dict.fromkeys(("LPAR", "RPAR", "LSQB", "RSQB", "LBRACE", "RBRACE"), BRACKETS),
    **dict.fromkeys(("COMMA", "COLON"), BRACKETS),
}
"""The scopes that each terminal may have; those that are words have `WORDS`."""


class WholeWords:
    always_accept = ("NAME", "FLOAT")

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        return stream


@pytest.fixture(scope="module")
def parser() -> Lark:
    options = {"parser": "lalr", "lexer": "contextual", "keep_all_tokens": True}
    return Lark(grammar_text(), postlex=WholeWords(), **options)


@pytest.fixture(scope="module")
def words(parser: Lark) -> set[str]:
    """The terminals that are words of the language."""
    return {t.name for t in parser.terminals if t.pattern.value.isalpha()}


def tokens(parser: Lark, text: str) -> list[Token]:
    found = parser.parse(text).scan_values(lambda value: isinstance(value, Token))
    return sorted(found, key=lambda token: token.start_pos)


def scopes(text: str) -> list[str]:
    """The scope of each character, told as editors do: line by line, `` if it has none.

    The pattern that matches first counts, and of several the one that is listed first.
    """
    found: list[str] = []
    for line in text.splitlines(keepends=True):
        found += _scopes_of_line(line.rstrip("\n"))
        found += [""] * (len(line) - len(line.rstrip("\n")))
    return found


def _scopes_of_line(line: str) -> list[str]:
    found, position = [""] * len(line), 0
    while position < len(line):
        matches = [(m, p) for r, p in PATTERNS if (m := r.search(line, position))]
        if not matches:
            break
        match, pattern = min(matches, key=lambda each: each[0].start())
        end = match.end()
        if "begin" in pattern:
            end = _end_of_stretch(line, end, pattern)
        for index in range(match.start(), end):
            found[index] = pattern.get("name", "")
        for number, capture in pattern.get("captures", {}).items():
            for index in range(*match.span(int(number))):
                found[index] = capture["name"]
        position = end
    return [scope.removesuffix(".rewrite-rules") for scope in found]


def _end_of_stretch(line: str, position: int, pattern: dict) -> int:
    rules = [re.compile(pattern["end"])]
    rules += [re.compile(inner["match"]) for inner in pattern["patterns"]]
    while True:
        matches = [m for r in rules if (m := r.search(line, position))]
        first = min(matches, key=lambda match: match.start())
        position = first.end()
        if first.re is rules[0]:
            return position


def allowed(token: Token, following: Token | None, words: set[str]) -> set[str]:
    if token.type not in words:
        return SCOPES[token.type]
    # A word of the language may be what a statement binds.
    is_bound = following is not None and following.type == "EQUAL"
    return {*NAMES, "variable.parameter"} if is_bound else WORDS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_token_has_a_scope_of_its_kind(parser, words, path):
    text = path.read_text(encoding="utf-8")
    found, listed = scopes(text), tokens(parser, text)
    for token, after in zip_longest(listed, listed[1:]):
        given = set(found[token.start_pos : token.end_pos])
        line = f"{path.name}:{token.line}: {token.type} `{token}`"
        assert len(given) == 1, f"{line} is {given}"
        assert given <= allowed(token, after, words), f"{line} is {given}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_comments_and_nothing_else_are_comments(parser, path):
    text = path.read_text(encoding="utf-8")
    covered = {
        index
        for token in tokens(parser, text)
        for index in range(token.start_pos, token.end_pos)
    }
    for index, scope in enumerate(scopes(text)):
        outside = index not in covered
        assert scope.startswith("comment") <= outside
        assert text[index].isspace() or not outside or scope.startswith("comment")


def test_every_terminal_has_scopes(parser, words):
    found = {t.name for t in parser.terminals if t.name not in parser.ignore_tokens}
    assert found - words == SCOPES.keys()
    assert words & SCOPES.keys() == set()


def test_every_word_of_the_language_is_highlighted(parser, words):
    """The case of every form holds every word, and it has the scope of a word."""
    text = (ROOT / "tests/cases/accept/every_form.rules").read_text(encoding="utf-8")
    found = scopes(text)
    seen = {t.type for t in tokens(parser, text) if found[t.start_pos] in WORDS}
    assert words - seen == set()


def test_every_element_type_is_highlighted():
    for name in DTYPES:
        assert set(scopes(f"where x: {name}[2]")[9 : 9 + len(name)]) == {"support.type"}


def test_words_are_names_where_the_language_takes_them_as_names():
    text = "rule = relu(op, test)\nvalue = mul(value=once, given, equal2, once3)\n"
    found = scopes(text)
    for name in ("rule", "op", "test", "once", "given", "equal2", "once3"):
        assert found[text.index(name)] == "variable.other", name
    assert found[text.index("value=")] == "variable.parameter"


# --- Pygments ---


def test_pygments_finds_the_lexer():
    # Run from the checkout, the package has no entry points: they are declared.
    declared = (ROOT / "pyproject.toml").read_text()
    assert '[project.entry-points."pygments.lexers"]' in declared
    assert 'rewrite_rules = "rewrite_engine.pygments_lexer:RulesLexer"' in declared
    assert RulesLexer.aliases == ["rewrite-rules"]
    assert RulesLexer.filenames == ["*.rules"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_lexer_agrees_with_the_editors(path):
    text = path.read_text(encoding="utf-8")
    expected = scopes(text)
    for start, kind, value in RulesLexer().get_tokens_unprocessed(text):
        assert kind is not Error, f"{value!r} at {start}"
        for index in range(start, start + len(value)):
            if kind is Whitespace or text[index] == "\n":
                assert text[index].isspace()
            elif expected[index] != "string.quoted.double":
                assert TOKENS[expected[index]] is kind, (index, value)
            else:
                assert kind in TOKENS["string.quoted.double"].parent


def test_every_scope_has_a_token():
    patterns = [*GRAMMAR["patterns"]]
    patterns += [inner for pattern in patterns for inner in pattern.get("patterns", [])]
    named = [pattern["name"] for pattern in patterns if "name" in pattern]
    named += [
        capture["name"]
        for pattern in patterns
        for capture in pattern.get("captures", {}).values()
    ]
    assert {name.removesuffix(".rewrite-rules") for name in named} == TOKENS.keys()


def test_the_lexer_imports_nothing_heavy():
    code = (
        "import sys; import rewrite_engine.pygments_lexer;"
        "sys.exit(bool({'torch', 'lark', 'numpy', 'rich'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- the extension ---


def test_the_extension_names_files_that_are_there():
    package = json.loads((VSCODE / "package.json").read_text("utf-8"))
    (language,), (grammar,) = (
        package["contributes"][what] for what in ("languages", "grammars")
    )
    assert language["id"] == grammar["language"] == "rewrite-rules"
    assert grammar["scopeName"] == GRAMMAR["scopeName"]
    json.loads((VSCODE / language["configuration"]).read_text("utf-8"))
    assert (VSCODE / package["main"]).is_file()
    # Whoever installs the extension copies it there; see grammar/README.md.
    assert grammar["path"] == "./rules.tmLanguage.json"


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_extension_is_valid_javascript():
    done = subprocess.run(["node", "--check", VSCODE / "extension.js"], check=False)
    assert done.returncode == 0
