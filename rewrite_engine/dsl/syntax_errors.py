"""Syntax errors in the reader's terms: what was expected, and the likely slip."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches

import attrs

from rewrite_engine.dsl.lalr import END, UNKNOWN, SyntaxFault
from rewrite_engine.dsl.scanner import CLOSING, Scan, unclosed
from rewrite_engine.errors import Diagnostic, Note
from rewrite_engine.source import Source, Span


@attrs.frozen
class _Place:
    """The surroundings of an error, as the hints look at them."""

    found: str
    """The offending text."""
    before: str
    """Code of the item up to the error."""
    after: str
    """Text after the offending one, to the end of the item."""
    expected: frozenset[str]


def explain(
    source: Source, overview: Scan, part: Span, fault: SyntaxFault
) -> Diagnostic:
    """The diagnostic of one syntax error within a part of a file."""
    if fault.kind == END:
        return _explain_end(source, overview, part, fault)
    place = _place(source, overview, part, fault)
    hint = next((hint for look in _HINTS if (hint := look(place))), None)
    if fault.kind == UNKNOWN:
        message = f"{_quote(place.found)} has no meaning here"
        return Diagnostic("E101", message, fault.span, source, hint=hint)
    expected = _expected(fault.expected)
    message = f"expected {expected}, found {_quote(place.found)}"
    return Diagnostic("E102", message, fault.span, source, hint=hint)


def _explain_end(
    source: Source, overview: Scan, part: Span, fault: SyntaxFault
) -> Diagnostic:
    expected = _expected(fault.expected)
    code = _code(source, overview, part)
    opened = unclosed(overview.marks, part)
    if opened is None:
        end = part.start + len(code.rstrip())
        message = f"the text ends where {expected} is expected"
        return Diagnostic("E103", message, Span(max(end - 1, 0), end), source)
    span = Span(opened.start, opened.start + 1)
    message = f"this `{opened.text}` is never closed"
    notes = (Note(f"the item ends where {expected} is expected"),)
    hint = f"add the missing `{CLOSING[opened.text]}`"
    if opened.text == "{" and code.startswith("rule") and "=>" not in code:
        hint = "a rule is `rule name { left => right }`"
    return Diagnostic("E103", message, span, source, notes, hint)


def _place(source: Source, overview: Scan, part: Span, fault: SyntaxFault) -> _Place:
    span = fault.span
    return _Place(
        found=source.text[span.start : span.end],
        before=_code(source, overview, Span(part.start, span.start)),
        after=source.text[span.end : part.end],
        expected=fault.expected,
    )


def _code(source: Source, overview: Scan, span: Span) -> str:
    """Text of a span with its comments blanked out."""
    text = list(source.text[span.start : span.end])
    for comment in overview.comments:
        start = max(comment.span.start, span.start) - span.start
        end = min(comment.span.end, span.end) - span.start
        if start < end:
            text[start:end] = " " * (end - start)
    return "".join(text)


def _quote(text: str) -> str:
    if len(text) == 1 and not text.isprintable():
        return f"character U+{ord(text):04X}"
    return f"`{text}`" if len(text) <= 40 else f"`{text[:40]}…`"


# --- what was expected ---


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ITEMS = _words("USE OP FAMILY PATTERN RULE PIPELINE TEST")
_STATEMENTS = _words("PRIMED PATH PARAM BUFFER VALUE META KEEP ERASE OWN NAME")
_OPERATORS = _words(
    "PLUS MINUS STAR SLASH FLOOR PERCENT COMPARATOR VBAR AND OR IF IS QMARK "
    "MAYBE CHAIN COLON TILDE AT LPAR EQUAL"
)
_VALUES = _words(
    "NAME PATH PRIMED LITERAL _WILDCARD INT FLOAT STRING TRUE FALSE NONE LSQB "
    "LPAR METHOD MINUS NOT REST STAR"
)
_BINDABLE = _ITEMS | {"NAME", "VALUE", "OWN"}
_GROUPS = (
    (_ITEMS | {"$END"}, _ITEMS | {"$END"}, "a new item (`rule`, `op`, `test`, …)"),
    (frozenset({"LITERAL", "LPAR", "NAME"}), _VALUES, "a value"),
    (frozenset({"META", "KEEP"}), _STATEMENTS | _BINDABLE, "a statement"),
    (frozenset({"WHERE", "NAME"}), _BINDABLE | {"WHERE"}, "a statement"),
    (frozenset({"RETURN", "NAME"}), _BINDABLE, "a statement"),
    (frozenset({"INT", "FLOAT"}), frozenset({"INT", "FLOAT"}), "a number"),
    (frozenset({"EQUAL", "WRITE"}), frozenset({"EQUAL", "WRITE"}), "`=` or `<-`"),
)
"""What must be expected for a group to be named, what the group covers, its name."""

_TERMINALS = {
    "NAME": "a name",
    "PATH": "a dotted name",
    "PRIMED": "a name with `'`",
    "METHOD": "a method (`.relu`)",
    "LITERAL": "a literal name (`$k`)",
    "STEM": "`file.*`",
    "INT": "a whole number",
    "FLOAT": "a number",
    "STRING": "a string in double quotes",
    "REST": "`..`",
    "COMPARATOR": "a comparison",
    "CHAIN": "`^+`",
    "MAYBE": "`?`",
    "_WILDCARD": "`_`",
    "EQUALLY": "`equal`",
    "ARROW": "`=>`",
    "WRITE": "`<-`",
    "EQUAL": "`=`",
    "COMMA": "`,`",
    "COLON": "`:`",
    "VBAR": "`|`",
    "QMARK": "`?`",
    "AT": "`@`",
    "TILDE": "`~`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "LBRACE": "`{`",
    "RBRACE": "`}`",
    "PLUS": "`+`",
    "MINUS": "`-`",
    "STAR": "`*`",
    "SLASH": "`/`",
    "FLOOR": "`//`",
    "PERCENT": "`%`",
    "$END": "the end of the file",
}


def _expected(terminals: frozenset[str]) -> str:
    """`a value, `,` or `)``: operators are named only where nothing else fits."""
    rest, phrases = set(terminals), []
    for required, covered, phrase in _GROUPS:
        if required <= rest:
            rest -= covered
            phrases.append(phrase)
    if phrases or rest - _OPERATORS:
        rest -= _OPERATORS
    return _one_of([*phrases, *sorted(map(_terminal, rest))])


def _terminal(name: str) -> str:
    return _TERMINALS.get(name, f"`{name.lower()}`")


def _one_of(phrases: list[str]) -> str:
    *others, last = phrases or ["something else"]
    return f"{', '.join(others)} or {last}" if others else last


# --- the likely slip ---


def _wrong_equals(place: _Place) -> str | None:
    if place.found == "=" and "COMPARATOR" in place.expected:
        return "a comparison is written `==`"
    if place.found == "=" and re.search(r"\w'?=$", place.before.replace(" ", "")):
        return "a name is bound with a single `=`"
    if place.found == ":" and place.after.startswith("="):
        return "a name is bound with `=`"
    return None


def _nameless(place: _Place) -> str | None:
    """A call that stands as a statement."""
    starts = place.found == "(" and "EQUAL" in place.expected
    if not starts and not (place.found[:1] == "." and "WHERE" in place.expected):
        return None
    callee = re.search(r"\w*$", place.before)
    call = f"{callee[0] if callee and starts else place.found}(…)"
    if "=>" in place.before:
        return f"say what the call becomes, `y' = {call}`, or give it a name"
    return f"a call that is matched has a name: `y = {call}`"


def _order_of_head(place: _Place) -> str | None:
    if not re.match(r"\s*rule\b[^{]*$", place.before):
        return None
    if place.found == "when":
        claim = (
            "`exact when …` and `inexact when …` say of which matches this is claimed"
        )
        return f"{claim}; what filters matches is a guard, `where …`, on the left side"
    words = ("once", "fixpoint", "benefit", "for", "exact", "inexact")
    if place.found in words and re.search(r"\bwhen\b", place.before):
        return f"a condition stands last: put `{place.found} …` before it"
    return None


def _missing_arrow(place: _Place) -> str | None:
    if "=>" in place.before or not re.match(r"\s*rule\b", place.before):
        return None
    if place.found == ">" and place.before.endswith("-"):
        return "the left side is divided from the right side by `=>`"
    if place.found == "}" and "ARROW" in place.expected:
        return "a rule is `{ left => right }`; its `=>` is missing"
    starts_right = re.search(
        r"\b(param|buffer|value|meta|keep|erase)\s+$", place.before
    )
    if place.found == "return":
        return "what a rule gives stands right of `=>`, as `y' = …`"
    if re.match(r"\w+'$", place.found) or starts_right:
        return "this belongs to the right side: put `=>` before it"
    return None


def _guard_on_right(place: _Place) -> str | None:
    follows = re.search(r"\bwhere\s+$", place.before)
    if "=>" in place.before and (place.found == "where" or follows):
        return "guards stand on the left side, above `=>`"
    return None


def _foreign_sign(place: _Place) -> str | None:
    doubled = {"|": "`or`", "*": "`pow(a, b)`"}
    if place.found in doubled and place.before.endswith(place.found):
        return f"write {doubled[place.found]}"
    if place.found.startswith(".") and place.before.endswith(".."):
        return "any other arguments are written `..`"
    if place.found == "." and place.before[-1:].isdigit():
        return "a decimal number has digits after its point"
    return _SIGNS.get(place.found)


_SIGNS = {
    "'": "a string stands in double quotes",
    "`": "a string stands in double quotes",
    ";": "statements follow one another without a separator",
    "&": "write `and`",
    "!": "write `not`, or `!=` to compare",
    "$": "a literal is named `$` and a word, as in `$eps`",
    "//": "a comment starts with `#`",
    "\\": "a statement may go on over several lines as it is",
}


def _chained_comparison(place: _Place) -> str | None:
    comparing = place.found in ("<", "<=", ">", ">=", "==", "!=")
    if comparing and "AND" in place.expected:
        return "comparisons do not chain: write `a < b and b < c`"
    return None


def _open_bracket(place: _Place) -> str | None:
    starts_line = place.before.rstrip(" \t").endswith("\n")
    if starts_line and place.expected & {"RPAR", "RSQB"}:
        return "is a bracket above left open?"
    return None


def _misspelled(place: _Place) -> str | None:
    words = [name.lower() for name in place.expected if name.isalpha()]
    close = get_close_matches(place.found.lower(), words, n=1, cutoff=0.75)
    return f"did you mean `{close[0]}`?" if close else None


_HINTS: tuple[Callable[[_Place], str | None], ...] = (
    _wrong_equals,
    _nameless,
    _order_of_head,
    _missing_arrow,
    _guard_on_right,
    _foreign_sign,
    _chained_comparison,
    _open_bracket,
    _misspelled,
)
