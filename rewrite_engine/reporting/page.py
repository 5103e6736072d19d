"""One HTML file about one run: all text is in it, drawings are made by its script.

It refers to nothing outside itself, and its policy lets it run and load nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import attrs

from rewrite_engine.report import Report
from rewrite_engine.reporting.layout import Drawing, place
from rewrite_engine.reporting.recording import GraphRecord, Rewrite
from rewrite_engine.reporting.rows import STATE, Line, Row
from rewrite_engine.reporting.trace import trace

_FOLDER: Final = Path(__file__).parent
_BLOCK: Final = 50
"""Rows that a browser lays out together, once they come into view."""

_LONG: Final = 30
"""Characters of a name after which a line may break."""

_OPEN: Final = 12
"""Groups of at most this many rows are shown open, whatever is in them."""


@attrs.frozen
class Miss:
    """A place where a rule nearly matched, with the whole text about it."""

    rule: str
    node: str
    held: int
    steps: int
    text: str


@attrs.frozen(eq=False)
class Record:
    """What the page shows beside the figures of the report."""

    title: str
    graphs: tuple[GraphRecord, ...]
    misses: tuple[Miss, ...]

    @property
    def rewrites(self) -> tuple[Rewrite, ...]:
        return tuple(rewrite for graph in self.graphs for rewrite in graph.rewrites)

    def trace(self, report: Report) -> dict[str, Any]:
        """Every rewrite in order, as JSON values."""
        return trace(report, self.rewrites)

    def html(self, report: Report) -> str:
        """The page, as the text of a file."""
        style = (_FOLDER / "page.css").read_text(encoding="utf-8")
        script = (_FOLDER / "page.js").read_text(encoding="utf-8")
        policy = (
            f"default-src 'none'; style-src 'sha256-{_digest(style)}'; "
            f"script-src 'sha256-{_digest(script)}'; base-uri 'none'; "
            f"form-action 'none'"
        )
        parts = [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{escape(self.title)} · rewrites</title>",
            f"<style>{style}</style></head><body>",
            *self._header(report),
            '<div class="page">',
            *self._navigation(report),
            "<main>",
            _STAGE if self.rewrites else "",
            *(part for graph in self.graphs for part in _graph(graph)),
            *self._refused(report),
            *self._near_misses(),
            "</main></div>",
            f'<script type="application/json" id="data">{self._data()}</script>',
            f"<script>{script}</script></body></html>\n",
        ]
        return "\n".join(filter(None, parts))

    def _header(self, report: Report) -> Iterator[str]:
        before, after = _sizes(self.graphs)
        refused = len(report.refusals)
        yield f"<header><h1>{escape(self.title)}</h1>"
        yield f"<p><b>{report.matches}</b> rewrites"
        yield f" · <b>{refused}</b> refused · <b>{before} → {after}</b> nodes"
        yield f" · <b>{report.seconds * 1000:.0f}</b> ms</p>"
        yield _CONTROLS

    def _navigation(self, report: Report) -> Iterator[str]:
        yield '<nav aria-label="Rules and rewrites"><h2>Rules</h2><div class="wrap">'
        yield "<table><tr><th>tried<th>rewritten<th>refused<th>ms</tr>"
        for rule in report.rules:
            cells = (rule.candidates, rule.matches, len(rule.refusals))
            shown = "".join(f"<td>{cell}" for cell in cells)
            kind = "" if rule.candidates else ' class="none"'
            yield f'<tr{kind}><th colspan="4" scope="rowgroup">{escape(rule.name)}</tr>'
            yield f"<tr{kind}>{shown}<td>{rule.seconds * 1000:.1f}</tr>"
        yield "</table></div>"
        yield from _listed("Rewrites", "ol", _rewrite_items(self.rewrites))
        refused = (_item(f"refused-{i}", r.node) for i, r in _numbered(report.refusals))
        yield from _listed("Refused", "ul", refused)
        misses = (
            _item(f"miss-{i}", f"{miss.node}  {miss.held}/{miss.steps}")
            for i, miss in _numbered(self.misses)
        )
        yield from _listed("Near misses", "ul", misses)
        yield "</nav>"

    def _refused(self, report: Report) -> Iterator[str]:
        if not report.refusals:
            return
        yield '<section class="misses"><h2>Refused</h2><ul>'
        for i, refusal in _numbered(report.refusals):
            where = f"{escape(refusal.rule)} at %{escape(refusal.node)}"
            yield f'<li id="refused-{i}"><code>{where}</code>{escape(refusal.reason)}'
        yield "</ul></section>"

    def _near_misses(self) -> Iterator[str]:
        if not self.misses:
            return
        yield '<section class="misses"><h2>Near misses in the graph after</h2>'
        for i, miss in _numbered(self.misses):
            where = f"at %{escape(miss.node)}: {miss.held} of {miss.steps} steps hold"
            head = f"<code>{escape(miss.rule)}</code> {where}"
            text = escape(miss.text, quote=False)
            yield f'<details id="miss-{i}"><summary>{head}</summary>'
            yield f"<pre>{text}</pre></details>"
        yield "</section>"

    def _data(self) -> str:
        shapes: dict[Any, int] = {}
        placed: list[Any] = []
        rewrites = [
            {
                "rule": rewrite.rule,
                "at": rewrite.anchor,
                "place": Path(rewrite.place).name,
                "before": _drawn(rewrite.before, shapes, placed),
                "after": _drawn(rewrite.after, shapes, placed),
            }
            for rewrite in self.rewrites
        ]
        data = {"shapes": placed, "rewrites": rewrites}
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=True)
        return text.replace("<", "\\u003c").replace(">", "\\u003e")


def _drawn(drawing: Drawing, shapes: dict[Any, int], placed: list[Any]) -> list[Any]:
    """The number of a drawing's shape, which many share, and the names in it."""
    labels = tuple((node.label, node.kind) for node in drawing.nodes)
    key = labels, drawing.edges
    if key not in shapes:
        shapes[key] = len(placed)
        layout = place(drawing)
        pairs = zip(layout.nodes, labels, strict=True)
        nodes = [[*position, *label] for position, label in pairs]
        placed.append([layout.width, layout.height, nodes, layout.edges])
    return [shapes[key], [node.name for node in drawing.nodes]]


def _graph(graph: GraphRecord) -> Iterator[str]:
    yield '<div class="heads"><h2>Before</h2><h2>After</h2></div>'
    first: set[int] = set()
    for group, members in groupby(graph.rows, key=lambda row: row.group):
        yield from _group(group, list(members), first)


def _group(name: str, rows: Sequence[Row], first: set[int]) -> Iterator[str]:
    changed = sum(not row.kept for row in rows)
    is_open = " open" if _is_open(name, rows) else ""
    count = (
        _counted(changed, "row") + " rewritten"
        if changed
        else _counted(len(rows), "node")
    )
    title = escape(name) or "top level"
    heading = f"<summary>{title}<small>{count}</small></summary>"
    yield f'<details class="g"{is_open}>{heading}'
    for start in range(0, len(rows), _BLOCK):
        yield '<div class="b">'
        yield from _block(rows[start : start + _BLOCK], first)
        yield "</div>"
    yield "</details>"


def _is_open(name: str, rows: Sequence[Row]) -> bool:
    """Whether a group is worth reading: it is short, or calls in it have changed."""
    touched = name != STATE and any(row.changed for row in rows)
    return touched or len(rows) <= _OPEN


def _block(rows: Sequence[Row], first: set[int]) -> Iterator[str]:
    part = ""
    for row in rows:
        yield _row(row, "" if row.part == part else row.part, first)
        part = row.part


def _row(row: Row, part: str, first: set[int]) -> str:
    kind = "r" if not row.changed else "r c" if row.kept else "r d"
    number = row.rewrite
    link = anchor = ""
    if number > 0:
        if number not in first:
            first.add(number)
            anchor = f' id="r{number}"'
            link = f'<a href="#r{number}" data-k="{number}">#{number}</a> '
        anchor += f' data-k="{number}"'
    cells = f"<code>{_line(row.before)}</code><code>{_line(row.after)}</code>"
    return f'<div class="{kind}"{anchor}><i>{link}{escape(part)}</i>{cells}</div>'


def _line(line: Line | None) -> str:
    """A node's line, its name and its type set off."""
    if line is None:
        return ""
    head, equals, rest = line.text.partition(" = ")
    if not equals:
        return escape(line.text, quote=False)
    name, colon, type = head.partition(": ")
    shown = f"<b>{escape(name)}</b>"
    if colon:
        shown += f": <u>{escape(type, quote=False)}</u>"
    return f"{shown} = {_breakable(escape(rest, quote=False))}"


def _breakable(call: str) -> str:
    """A call that may go on in the next line after a long name."""
    name, bracket, arguments = call.partition("(")
    return f"{name}(<wbr>{arguments}" if bracket and len(name) > _LONG else call


def _listed(title: str, tag: str, items: Iterable[str]) -> Iterator[str]:
    found = list(items)
    if found:
        yield f"<h2>{title}</h2><{tag}>{''.join(found)}</{tag}>"


def _rewrite_items(rewrites: Sequence[Rewrite]) -> Iterator[str]:
    """The rewrites in order, under the names of their rules."""
    for rule, made in groupby(rewrites, key=lambda rewrite: rewrite.rule):
        yield f'<li class="rule">{escape(rule)}'
        yield from map(_rewrite_item, made)


def _rewrite_item(rewrite: Rewrite) -> str:
    name = f"<i>{rewrite.number}</i><span>{escape(rewrite.anchor)}</span>"
    number = rewrite.number
    return f'<li data-k="{number}"><a href="#r{number}" data-k="{number}">{name}</a>'


def _item(anchor: str, text: str) -> str:
    return f'<li><a href="#{anchor}"><span>{escape(text)}</span></a>'


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _numbered(items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    return enumerate(items, start=1)


def _sizes(graphs: Iterable[GraphRecord]) -> tuple[int, int]:
    rows = [row for graph in graphs for row in graph.rows]
    before = sum(row.before is not None for row in rows)
    return before, sum(row.after is not None for row in rows)


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


_CONTROLS: Final = """\
<form class="js"><span id="hits" role="status"></span>
<input id="search" type="search" placeholder="Search nodes  ( / )" aria-label="Search">
<button type="button" id="theme" title="Light or dark (t)">◐</button></form></header>"""

_STAGE: Final = """\
<section id="stage" class="js" aria-label="One rewrite"><div class="bar">
<button id="back" title="Previous rewrite (left)">←</button>
<button id="next" title="Next rewrite (right)">→</button>
<b id="rule"></b><span id="where"></span><div class="end"><span id="count"></span>
<button id="fold" title="Hide or show the picture (p)">picture</button></div></div>
<div id="picture"><figure id="before"><figcaption>before</figcaption></figure>
<figure id="after"><figcaption>after</figcaption></figure></div></section>"""
