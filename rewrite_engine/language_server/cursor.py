"""What is being written where the cursor stands, told from the text before it.

A text that is being written rarely parses, so this looks at words and brackets only.
"""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import Final
from typing import Literal as OneOf

import attrs

from rewrite_engine.dsl.scanner import split_items
from rewrite_engine.source import Span

Place = OneOf["file", "head", "left", "right", "body", "comment", "string", "type"]

_TOKEN: Final = re.compile(
    r"""
      (?P<comment> \#[^\n]* )
    | (?P<string> "(?: [^"\\\n] | \\. )*"? )
    | (?P<word> [$.]? [A-Za-z_][\w.]* '? )
    | (?P<number> \d[\w.]* )
    | (?P<sign> => | == | != | <= | >= | <- | \.\. | \^[+*] | [^\w\s] )
    """,
    re.VERBOSE,
)
_UNFINISHED: Final = re.compile(r"[$.]?[A-Za-z_]?[\w.]*$|\.$|\$$")
_CALLED: Final = frozenset({"(", "^+", "^*"})
_OPENING: Final = {"(": ")", "[": "]", "{": "}"}


@attrs.frozen
class OpenCall:
    """The innermost call whose bracket is open before the cursor."""

    callee: str
    position: int
    """How many arguments without a name stand before the cursor."""
    keywords: frozenset[str]
    """Parameters that are given by name before the cursor."""


@attrs.frozen
class Cursor:
    """`prefix` is the word before the cursor, from `start`, with its `$` or dots."""

    place: Place
    prefix: str
    start: int
    item: Span
    before: str
    """The last word or sign before the prefix."""
    call: OpenCall | None = None


@attrs.define
class _Bracket:
    sign: str
    callee: str
    position: int = 0
    keywords: set[str] = attrs.field(factory=set)


def cursor_at(text: str, offset: int) -> Cursor:
    """The surroundings of an offset."""
    item = _item_at(text, offset)
    head = text[item.start : offset]
    tokens = list(_TOKEN.finditer(head))
    if tokens and tokens[-1].end() == len(head) and _is_open(tokens[-1]):
        kind: Place = "comment" if tokens[-1]["comment"] else "string"
        return Cursor(kind, "", offset, item, _before(tokens[:-1]))
    unfinished = _UNFINISHED.search(head)
    prefix = unfinished[0] if unfinished else ""
    start = offset - len(prefix)
    words = [t for t in tokens if not t["comment"] and t.end() <= start - item.start]
    brackets = _brackets(words)
    place = _place(words, brackets)
    call = _call(brackets)
    return Cursor(place, prefix, start, item, _before(words), call)


def item_words(
    text: str, item: Span, skipped: int
) -> dict[str, OneOf["value", "literal"]]:
    """Names that stand in an item, in order; callees and parameters are none.

    The word that starts at `skipped` is still being written.
    """
    found: dict[str, OneOf["value", "literal"]] = {}
    tokens = _TOKEN.finditer(text, item.start, item.end)
    # The first two words are the kind of the item and its own name.
    written = [t for t in tokens if not t["comment"] and not t["string"]][2:]
    depth = 0
    for token, after in zip_longest(written, written[1:]):
        follows = "" if after is None else after[0]
        depth += (token[0] == "(") - (token[0] == ")")
        is_parameter = follows == "=" and depth > 0
        word = token["word"]
        if word is None or "." in word or is_parameter or follows in _CALLED:
            continue
        if token.start() != skipped:
            kind: OneOf["value", "literal"] = "literal" if word[0] == "$" else "value"
            found.setdefault(word.strip("$'"), kind)
    return found


def _item_at(text: str, offset: int) -> Span:
    spans = [span for span in split_items(text) if span.start <= offset]
    return spans[-1] if spans else Span(0, len(text))


def _is_open(token: re.Match[str]) -> bool:
    """Whether a token goes on where the cursor stands."""
    string = token["string"]
    if string is not None:
        return len(string) == 1 or not string.endswith('"')
    return token["comment"] is not None


def _before(tokens: list[re.Match[str]]) -> str:
    return tokens[-1][0] if tokens else ""


def _brackets(tokens: list[re.Match[str]]) -> list[_Bracket]:
    """The brackets that are open after some tokens, the innermost last."""
    stack: list[_Bracket] = []
    for index, token in enumerate(tokens):
        sign = token[0]
        if sign in _OPENING:
            stack.append(_Bracket(sign, _callee(tokens[:index])))
        elif stack and sign == _OPENING[stack[-1].sign]:
            stack.pop()
        elif stack and sign == ",":
            stack[-1].position += 1
        elif stack and sign == "=" and index > 0:
            stack[-1].keywords.add(tokens[index - 1][0])
    return stack


def _callee(before: list[re.Match[str]]) -> str:
    """The word that an opening bracket calls: `f(`, `f?(`, `f^+(`."""
    marks = before[-1:] if before and before[-1][0] in ("?", "^+", "^*") else []
    words = before[: len(before) - len(marks)]
    return (words[-1]["word"] or "") if words else ""


def _call(brackets: list[_Bracket]) -> OpenCall | None:
    if not brackets or brackets[-1].sign != "(" or not brackets[-1].callee:
        return None
    inner = brackets[-1]
    position = max(inner.position - len(inner.keywords), 0)
    return OpenCall(inner.callee, position, frozenset(inner.keywords))


def _place(tokens: list[re.Match[str]], brackets: list[_Bracket]) -> Place:
    if not tokens:
        return "file"
    signs = [token[0] for token in tokens]
    if signs[-1] == ":" or (signs[-1] == "|" and _in_type(signs)):
        return "type"
    braces = [bracket for bracket in brackets if bracket.sign == "{"]
    if signs[0] == "rule" and braces:
        return "right" if "=>" in signs else "left"
    if signs[0] in ("rule", "test", "pipeline") and not braces:
        return "file" if "}" in signs else "head"
    return "body"


def _in_type(signs: list[str]) -> bool:
    """Whether a `|` stands between element types: `x: f16|`."""
    index = len(signs) - 1
    while index >= 2 and signs[index] == "|":
        index -= 2
    return signs[index] == ":"
