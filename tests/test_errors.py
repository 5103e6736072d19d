"""How findings are rendered: places, excerpts, carets, notes and hints."""

from __future__ import annotations

import pickle

import pytest

from rewrite_engine.dsl.parser import parse
from rewrite_engine.errors import Diagnostic, Note, RuleError, render
from rewrite_engine.source import Source, Span


def finding(text: str, start: int, end: int) -> Diagnostic:
    return Diagnostic("E999", "wrong", Span(start, end), Source("a.rules", text))


def excerpt(text: str, start: int, end: int) -> list[str]:
    """The source line and the caret line, without the margin."""
    _, _, line, carets = finding(text, start, end).render().split("\n")
    assert line.startswith("1 | ") and carets.startswith("  | ")
    return [line[4:], carets[4:]]


def test_a_finding_has_a_place_a_line_carets_notes_and_a_hint() -> None:
    source = Source("a.rules", "one\ntwo three\n")
    found = Diagnostic(
        "W999", "odd", Span(8, 13), source, (Note("because"),), "say `four`"
    )
    assert found.render() == (
        "a.rules:2:5: warning[W999]: odd\n"
        "  |\n"
        "2 | two three\n"
        "  |     ^^^^^\n"
        "  note: because\n"
        "  hint: say `four`"
    )


def test_the_margin_is_as_wide_as_the_line_number() -> None:
    lines = finding("\n" * 99 + "x", 99, 100).render().split("\n")
    assert lines[1:] == ["    |", "100 | x", "    | ^"]


@pytest.mark.parametrize(
    ("text", "start", "end", "carets"),
    [
        ("a b", 2, 3, "  ^"),
        ("\ta\tb", 3, 4, "\t \t^"),
        ("ab", 1, 1, " ^"),
        ("ab", 2, 2, "  ^"),
        ("", 0, 0, "^"),
        ("ab cd\nef", 3, 8, "   ^^"),
        ("ab\ncd", 2, 4, "  ^"),
        ("ab\r\ncd", 1, 6, " ^"),
    ],
    ids=[
        "word",
        "tabs",
        "zero width",
        "end of text",
        "empty text",
        "several lines",
        "from a line's end",
        "carriage return",
    ],
)
def test_carets_stand_under_the_span(
    text: str, start: int, end: int, carets: str
) -> None:
    shown = text.split("\n")[0].removesuffix("\r")
    assert excerpt(text, start, end) == [shown, carets]


def test_the_empty_line_after_the_last_newline_can_be_marked() -> None:
    lines = finding("ab\n", 3, 3).render().split("\n")
    assert lines == ["a.rules:2:1: error[E999]: wrong", "  |", "2 | ", "  | ^"]


@pytest.mark.parametrize(
    ("char", "shown"),
    [
        ("\udc80", r"\udc80"),
        ("\x1b", r"\x1b"),
        ("\x00", r"\x00"),
        ("\u202e", r"\u202e"),
        ("\U000e0001", r"\U000e0001"),
    ],
    ids=["surrogate", "escape", "null", "right-to-left", "tag"],
)
def test_what_cannot_be_shown_is_escaped_and_carets_move_along(
    char: str, shown: str
) -> None:
    at = excerpt(f"a{char}b", 1, 2)
    assert at == [f"a{shown}b", " " + "^" * len(shown)]
    after = excerpt(f"a{char}b", 2, 3)
    assert after == [f"a{shown}b", " " * (len(shown) + 1) + "^"]


def test_names_messages_notes_and_hints_are_escaped_too() -> None:
    source = Source("\udcff.rules", "a")
    note = Note("n\udc80", Span(0, 1), Source("\x1b[2J", "\x1b"))
    found = Diagnostic("E999", "m\nm", Span(0, 1), source, (note,), "h\udc80")
    text = found.render()
    assert text.replace("\n", "").isprintable()
    assert text.startswith(r"\udcff.rules:1:1: error[E999]: m\nm")
    assert r"note: n\udc80 (\x1b[2J:1:1)" in text
    assert r"hint: h\udc80" in text


def test_accents_and_signs_are_shown_as_they_are() -> None:
    assert excerpt("é ≤ 数", 4, 5) == ["é ≤ 数", "    ^"]


def test_an_error_about_a_surrogate_can_be_printed() -> None:
    with pytest.raises(RuleError) as caught:
        parse(Source("a.rules", 'rule r { y = f("\udc80") => y\' = \udc80 }'))
    assert r"\udc80" in str(caught.value)
    assert str(caught.value).encode()


def test_a_note_may_point_into_another_source() -> None:
    here, there = Source("here", "use x"), Source("there", "\nx = 1")
    notes = (Note("defined", Span(1, 2), there), Note("used", Span(0, 3)))
    found = Diagnostic("E999", "twice", Span(4, 5), here, notes)
    assert found.render().split("\n")[4:] == [
        "  note: defined (there:2:1)",
        "  |",
        "2 | x = 1",
        "  | ^",
        "  note: used (here:1:1)",
        "  |",
        "1 | use x",
        "  | ^^^",
    ]


def test_a_rule_error_holds_and_shows_every_finding() -> None:
    both = [finding("ab", 0, 1), finding("ab", 1, 2)]
    error = RuleError(both)
    assert error.diagnostics == tuple(both)
    assert str(error) == render(both) == "\n\n".join(d.render() for d in both)


def test_a_rule_error_can_be_pickled() -> None:
    error = RuleError([finding("a\udc80", 1, 2)])
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is RuleError
    assert copy.diagnostics == error.diagnostics
    assert copy.diagnostics[0].source.text == "a\udc80"
    assert str(copy) == str(error)


def test_only_a_part_of_a_long_line_is_shown() -> None:
    line = "a" * 600 + "HERE" + "b" * 1_000_000
    source = Source("r.rules", line)
    text = Diagnostic("E101", "odd", Span(600, 604), source).render()
    _, _, shown, carets = text.splitlines()
    assert len(shown) < 420 and shown.endswith("…")
    assert shown[carets.index("^") : carets.rindex("^") + 1] == "HERE"
