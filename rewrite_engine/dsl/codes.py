"""The codes of diagnostics, and a page about each, from `grammar/errors.md`."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Final

import attrs

from rewrite_engine.assets import grammar_directory

_SECTION: Final = re.compile(r"^## ([EW]\d{3}) ([a-z-]+)\n", re.MULTILINE)
_EXAMPLE: Final = re.compile(r"^(Wrong|Right):\n\n((?: {4}.*\n|\n)+)", re.MULTILINE)


@attrs.frozen
class Code:
    """A stable code, its name, what it means in a sentence, and its page.

    `wrong` is a rule file that gives this code, `right` one that gives none; both are
    empty where an example would not fit on a page.
    """

    code: str
    name: str
    summary: str
    page: str = attrs.field(repr=False)
    wrong: str = attrs.field(repr=False, default="")
    right: str = attrs.field(repr=False, default="")


@cache
def codes() -> Mapping[str, Code]:
    """Every code that a diagnostic about rule files may have, in order."""
    text = (grammar_directory() / "errors.md").read_text(encoding="utf-8")
    return {code.code: code for code in _sections(text)}


def explain(code: str) -> str | None:
    """The page of a code, None if there is no such code."""
    found = codes().get(code)
    return None if found is None else f"{found.code} {found.name}\n\n{found.page}"


def _sections(text: str) -> Iterator[Code]:
    found = list(_SECTION.finditer(text))
    ends = [section.start() for section in found[1:]] + [len(text)]
    for section, end in zip(found, ends, strict=True):
        page = text[section.end() : end].strip()
        examples = {
            example[1]: textwrap.dedent(example[2]).strip() + "\n"
            for example in _EXAMPLE.finditer(page + "\n")
        }
        yield Code(
            code=section[1],
            name=section[2],
            summary=_first_sentence(page),
            page=page,
            wrong=examples.get("Wrong", ""),
            right=examples.get("Right", ""),
        )


def _first_sentence(page: str) -> str:
    paragraph = " ".join(page.partition("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z`])", paragraph)[0]
