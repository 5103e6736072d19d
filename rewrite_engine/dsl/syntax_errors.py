"""Syntax errors in the reader's terms: what was expected, and what was found."""

from __future__ import annotations

from rewrite_engine.dsl.lalr import END, UNKNOWN, SyntaxFault
from rewrite_engine.dsl.scanner import CLOSING, Scan, unclosed
from rewrite_engine.dsl.slips import Place, likely_slip, unquoted_file
from rewrite_engine.errors import Diagnostic, Note
from rewrite_engine.source import Source, Span


def explain(
    source: Source, overview: Scan, part: Span, fault: SyntaxFault
) -> Diagnostic:
    """The diagnostic of one syntax error within a part of a file."""
    if fault.kind == END:
        return _explain_end(source, overview, part, fault)
    place = _place(source, overview, part, fault)
    hint = likely_slip(place)
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
        hint = unquoted_file(code)
        return Diagnostic(
            "E103", message, Span(max(end - 1, 0), end), source, hint=hint
        )
    span = Span(opened.start, opened.start + 1)
    message = f"this `{opened.text}` is never closed"
    notes = (Note(f"the item ends where {expected} is expected"),)
    hint = f"add the missing `{CLOSING[opened.text]}`"
    if opened.text == "{" and code.startswith("rule") and "=>" not in code:
        hint = "a rule is `rule name { left => right }`"
    return Diagnostic("E103", message, span, source, notes, hint)


def _place(source: Source, overview: Scan, part: Span, fault: SyntaxFault) -> Place:
    span = fault.span
    return Place(
        found=span.of(source.text),
        before=_code(source, overview, Span(part.start, span.start)),
        after=source.text[span.end : part.end],
        expected=fault.expected,
    )


def _code(source: Source, overview: Scan, span: Span) -> str:
    """Text of a span with its comments blanked out."""
    text = list(span.of(source.text))
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
