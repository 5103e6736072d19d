"""The driver of the parse table reads what lark reads, and stops where lark stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lark import Lark, Token, Tree, UnexpectedInput

from rewrite_engine.assets import grammar_text
from rewrite_engine.dsl import lalr
from rewrite_engine.dsl.lalr import Word
from rewrite_engine.source import Span
from tests.dsl.malformed import FILES, mutations

SHIPPED = [path.read_text(encoding="utf-8") for path in FILES]


class _Trees:
    """A builder of nothing but trees."""

    def __getattr__(self, method: str) -> Callable[..., tuple[Any, ...]]:
        return lambda span, *children: (method, span, *children)


class _WholeWords:
    always_accept = ("NAME", "FLOAT")

    def process(self, tokens: Iterator[Token]) -> Iterator[Token]:
        return tokens


@pytest.fixture(scope="module")
def peer() -> Lark:
    return Lark(
        grammar_text(),
        parser="lalr",
        maybe_placeholders=True,
        propagate_positions=True,
        postlex=_WholeWords(),
    )


def ours(text: str, before: str = "", after: str = "") -> Any:
    part = Span(len(before), len(before) + len(text))
    try:
        return lalr.parse(before + text + after, part, _Trees(), max_levels=1000)[0]
    except lalr.SyntaxFault as fault:
        return fault.span.start


def lark(parser: Lark, text: str) -> Any:
    try:
        return _plain(parser.parse(text))
    except UnexpectedInput as error:
        return len(text) if _is_end(error) else error.pos_in_stream


def _is_end(error: UnexpectedInput) -> bool:
    token = getattr(error, "token", None)
    return token is not None and token.type == "$END"


def _plain(node: Any) -> Any:
    if isinstance(node, Token):
        assert node.start_pos is not None and node.end_pos is not None
        return Word(str(node), node.start_pos, node.end_pos)
    if not isinstance(node, Tree):
        return node
    empty = node.meta.empty
    span = Span(0, 0) if empty else Span(node.meta.start_pos, node.meta.end_pos)
    return (node.data, span, *map(_plain, node.children))


def test_texts_are_read_as_lark_reads_them(peer: Lark) -> None:
    read = [*SHIPPED, *mutations(seed=3, count=600)]
    refused = 0
    for text in read:
        expected = lark(peer, text)
        assert _without_empty(ours(text)) == _without_empty(expected), text
        refused += isinstance(expected, int)
    assert 200 < refused < 600


def _without_empty(tree: Any) -> Any:
    """What has no text has no place either."""
    if not isinstance(tree, tuple):
        return tree
    method, span, *children = tree
    place = span if span.start < span.end else None
    return (method, place, *map(_without_empty, children))


@pytest.mark.parametrize("before", ["", "rule r {", "# "])
def test_a_part_is_read_as_if_it_stood_alone(before: str) -> None:
    text = "op a = b"
    (method, span, (item, *_)) = ours(text, before, after=" | c")
    assert (method, item) == ("start", "op_def")
    assert span == Span(len(before), len(before) + len(text))


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("op a = @", "AT", {"NAME", "PATH", "METHOD"}),
        ("op a =", lalr.END, {"NAME", "PATH", "METHOD"}),
        ("op é", lalr.UNKNOWN, {"NAME"}),
        ("rule r { y = f(x y", "NAME", None),
        ("rule r exact' {", lalr.UNKNOWN, None),
    ],
)
def test_a_fault_names_what_could_follow(
    text: str, kind: str, expected: set[str] | None
) -> None:
    with pytest.raises(lalr.SyntaxFault) as caught:
        lalr.parse(text, Span(0, len(text)), _Trees(), max_levels=100)
    assert caught.value.kind == kind
    if expected is not None:
        assert caught.value.expected == expected
    # Candidates of the automaton's row that nothing could come of are left out.
    assert "RSQB" not in caught.value.expected


def test_what_is_nested_deeper_than_asked_for_is_refused() -> None:
    text = "pattern p(x) = ---x"
    part = Span(0, len(text))
    _, levels = lalr.parse(text, part, _Trees(), max_levels=6)
    assert levels == 6  # the start, the item, three signs and the name
    with pytest.raises(lalr.TooDeep) as caught:
        lalr.parse(text, part, _Trees(), max_levels=3)
    assert caught.value.span == Span(text.index("-"), len(text))
