"""The likely slip behind a syntax error: what other languages write, or nearly so."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import Final

import attrs


@attrs.frozen
class Place:
    """The surroundings of an error, as the hints look at them."""

    found: str
    """The offending text."""
    before: str
    """Code of the item up to the error."""
    after: str
    """Text after the offending one, to the end of the item."""
    expected: frozenset[str]


def likely_slip(place: Place) -> str | None:
    """What is to be written instead, if the slip is a known one."""
    return next((hint for look in _SLIPS if (hint := look(place))), None)


def unquoted_file(code: str) -> str | None:
    """The same for an item that ends too early."""
    used = re.match(r"\s*use\s+([\w./]+\.rules)\s*$", code)
    return f'a file is named in quotes: `use "{used[1]}"`' if used else None


def _wrong_equals(place: Place) -> str | None:
    if place.found == "=" and "COMPARATOR" in place.expected:
        return "a comparison is written `==`"
    if place.found == "=" and re.search(r"\w'?=$", place.before.replace(" ", "")):
        return "a name is bound with a single `=`"
    if place.found == ":" and place.after.startswith("="):
        return "a name is bound with `=`"
    return None


def _nameless(place: Place) -> str | None:
    """A call that stands as a statement."""
    path = place.found if place.found[:1] == "." else ""
    if path and place.before.endswith((")", "]")):
        return f"a method is called with its value: `{path[1:]}(…)`"
    starts = (place.found == "(" or path) and place.expected & {"EQUAL", "WRITE"}
    if not starts and not (path and "WHERE" in place.expected):
        return None
    callee = re.search(r"[\w.]*$", place.before)
    call = f"{callee[0] if callee and starts else ''}{path}(…)"
    if "=>" in place.before:
        return f"say what the call becomes, `y' = {call}`, or give it a name"
    return f"a call that is matched has a name: `y = {call}`"


def _foreign_statement(place: Place) -> str | None:
    """What other languages have between and in statements."""
    if place.found == "," and "WHERE" in place.expected:
        return "statements follow one another without a separator"
    if place.found == "," and place.expected == {"EQUAL"}:
        return "a statement binds one name: `a = getitem(s, 0)`"
    if place.found == "=>" and "ELSE" in place.expected:
        return "what filters matches is a guard, `where …`"
    if place.expected == {"STAR"} and re.search(r"\bexpect\b", place.before):
        return "say how often the rule fires: `name * 1`"
    head = re.match(r"\s*(rule|op|family|pattern|pipeline)\s+\w+$", place.before)
    if head and place.found == "-":
        return "a name has letters, digits and `_`"
    return None


def _order_of_head(place: Place) -> str | None:
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


def _missing_arrow(place: Place) -> str | None:
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


def _guard_on_right(place: Place) -> str | None:
    follows = re.search(r"\bwhere\s+$", place.before)
    if "=>" in place.before and (place.found == "where" or follows):
        return "guards stand on the left side, above `=>`"
    return None


def _foreign_sign(place: Place) -> str | None:
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


def _foreign_question(place: Place) -> str | None:
    """What Python asks of values, shapes and their items."""
    before = place.before.rstrip()
    if place.found == "[" and re.search(r"[\w)\]']$", before):
        return "a size is asked for as `size(x, 0)`, an item is `getitem(x, 0)`"
    asked = re.search(r"([\w.]+)\s+is$", before)
    if asked and place.found in ("none", "not"):
        return (
            f"a name that may be absent is a condition: `{asked[1]}`, `not {asked[1]}`"
        )
    if asked and not get_close_matches(place.found, ["const"]):
        return "only `is const` is asked with `is`; values are compared with `==`"
    if {"RSQB", "_WILDCARD"} <= place.expected and place.found.startswith(".."):
        return "any number of sizes is written `*S`"
    if place.expected == {"NAME"} and before.endswith("*"):
        return "what a `*` stands for has a name: `*S`"
    return None


def _chained_comparison(place: Place) -> str | None:
    comparing = place.found in ("<", "<=", ">", ">=", "==", "!=")
    if comparing and "AND" in place.expected:
        return "comparisons do not chain: write `a < b and b < c`"
    return None


def _open_bracket(place: Place) -> str | None:
    starts_line = place.before.rstrip(" \t").endswith("\n")
    if starts_line and place.expected & {"RPAR", "RSQB"}:
        return "is a bracket above left open?"
    return None


def _misspelled(place: Place) -> str | None:
    words = [name.lower() for name in place.expected if name.isalpha()]
    close = get_close_matches(place.found.lower(), words, n=1, cutoff=0.75)
    return f"did you mean `{close[0]}`?" if close else None


_SLIPS: Final[tuple[Callable[[Place], str | None], ...]] = (
    _wrong_equals,
    _nameless,
    _foreign_statement,
    _order_of_head,
    _missing_arrow,
    _guard_on_right,
    _foreign_sign,
    _foreign_question,
    _chained_comparison,
    _open_bracket,
    _misspelled,
)
