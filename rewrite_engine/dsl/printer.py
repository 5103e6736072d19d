"""Syntax tree to canonical text; `parse(print(x)) == x`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise

import attrs

from rewrite_engine.dsl import nodes
from rewrite_engine.dsl.item_text import Unit, item_units
from rewrite_engine.dsl.nodes import Comment
from rewrite_engine.dsl.parser import parse
from rewrite_engine.dsl.scanner import Mark, scan
from rewrite_engine.source import Source, Span

_BLANK_LINE = re.compile(r"\n[ \t\r\f]*\n")


def print_file(file: nodes.File) -> str:
    """The canonical text of a file, without its comments."""
    blocks = [_Block(unit) for unit in _units(file)]
    return "".join(f"{line}\n" for line in _spaced(blocks, ""))


def format_source(source: Source) -> str:
    """The canonical text of a source: comments and single blank lines stay.

    A comment inside a statement that spans lines moves above it. Raises RuleError.
    """
    file = parse(source)
    units = _located(_units(file), scan(source).marks)
    blocks = [_Block(unit) for unit in units]
    tail = _attach(blocks, file.comments, source.text)
    lines = [*_spaced(blocks, source.text), *_tail(blocks, tail, source.text)]
    return "".join(f"{line}\n" for line in lines)


def _units(file: nodes.File) -> Iterator[Unit]:
    for item in file.items:
        yield from item_units(item)


def _located(units: Iterable[Unit], marks: Sequence[Mark]) -> Iterator[Unit]:
    """The units, with a span for those that are found by a mark."""
    position, remaining = 0, iter(marks)
    for unit in units:
        if unit.mark:
            found = next(
                m for m in remaining if m.start >= position and m.text == unit.mark
            )
            end = found.start + len(found.text)
            unit = attrs.evolve(unit, span=Span(found.start, end))
        position = unit.span.end
        yield unit


# --- comments ---


@attrs.define
class _Block:
    """A unit, the comments above it, and the comments at the end of its lines."""

    unit: Unit
    above: list[tuple[str, Span]] = attrs.field(factory=list)
    beside: dict[int, Comment] = attrs.field(factory=dict)

    def lines(self) -> list[str]:
        return [
            f"{line}  {self.beside[number].text}" if number in self.beside else line
            for number, line in enumerate(self.unit.lines)
        ]


def _attach(
    blocks: list[_Block], comments: Sequence[Comment], text: str
) -> list[Comment]:
    """Puts each comment at its block; returns those below the last block."""
    index, tail = 0, []
    for comment in comments:
        while index < len(blocks) and _is_past(blocks, index, comment):
            index += 1
        if not comment.own_line:
            _put_beside(_block_of(blocks, index, comment), comment, text)
        elif index < len(blocks):
            _put_above(blocks[index], comment)
        else:
            tail.append(comment)
    return tail


def _is_past(blocks: list[_Block], index: int, comment: Comment) -> bool:
    return blocks[index].unit.span.end <= comment.span.start


def _block_of(blocks: list[_Block], index: int, comment: Comment) -> _Block:
    """The block that a comment at the end of a line of code belongs to."""
    inside = index < len(blocks) and blocks[index].unit.span.start < comment.span.start
    return blocks[index if inside else index - 1]


def _put_above(block: _Block, comment: Comment) -> None:
    if comment.span.start < block.unit.span.start:
        block.above.append((comment.text, comment.span))
        return
    # It leaves the inside of a statement and must not turn into documentation.
    text = "#" + comment.text.lstrip("#")
    block.above.append((text, Span(block.unit.span.start, block.unit.span.start)))


def _put_beside(block: _Block, comment: Comment, text: str) -> None:
    unit = block.unit
    line = len(unit.lines) - 1
    if comment.span.start < unit.span.end:
        if "\n" in text[unit.span.start : comment.span.start]:
            _put_above(block, comment)
            return
        line = unit.doc_lines
    earlier = block.beside.pop(line, None)
    if earlier is not None:
        _put_above(block, earlier)
    block.beside[line] = comment


# --- blank lines ---


def _spaced(blocks: Sequence[_Block], text: str) -> Iterator[str]:
    """The lines of all blocks; `text` is where blank lines are copied from."""
    previous: Unit | None = None
    for block in blocks:
        blanks = _blanks(previous, block, text)
        unit = block.unit
        indent = " " * (unit.indent + 2 if unit.closes else unit.indent)
        for (comment, _), blank in zip(block.above, blanks, strict=False):
            yield from _after_blank(blank, indent + comment)
        yield from _after_blank(blanks[-1], *block.lines())
        previous = unit


def _blanks(previous: Unit | None, block: _Block, text: str) -> list[bool]:
    """Whether a blank line precedes each comment above the block, and its unit."""
    unit = block.unit
    starts = [*(span for _, span in block.above), unit.span]
    if previous is None:
        return [False, *_gaps(starts, text)]
    blanks = _gaps([previous.span, *starts], text)
    if unit.starts_item and not any(blanks):
        blanks[0] = not unit.short or unit.short != previous.short
    if previous.opens:
        blanks[0] = False
    if unit.closes:
        blanks[-1] = False
    return blanks


def _gaps(spans: Sequence[Span], text: str) -> list[bool]:
    between = (text[a.end : b.start] for a, b in pairwise(spans))
    return [_BLANK_LINE.search(gap) is not None for gap in between]


def _after_blank(blank: bool, *lines: str) -> Iterator[str]:
    if blank:
        yield ""
    yield from lines


def _tail(
    blocks: Sequence[_Block], comments: Sequence[Comment], text: str
) -> list[str]:
    """The comments below the last block."""
    spans = [comment.span for comment in comments]
    blanks = _gaps([blocks[-1].unit.span, *spans] if blocks else spans, text)
    blanks = blanks if blocks else [False, *blanks]
    lines = (
        _after_blank(blank, comment.text)
        for blank, comment in zip(blanks, comments, strict=False)
    )
    return list(chain.from_iterable(lines))
