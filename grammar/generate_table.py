"""Writes `rules.table.json`: the parse table of `rules.lark`, which is all that is read
when rules are parsed. Run it after every change of the grammar, with the extra `test`
installed:

    python grammar/generate_table.py

The table holds

- `terminals`: `[name, regular expression]`, in the order in which they are tried;
- `ignored`: the regular expression of what may stand between two tokens;
- `words`: terminals by the word that they are; any other `NAME` is a name;
- `kept`: terminals whose text matters to some production;
- `productions`: `[symbol, length, method, children]`. A child is an index, `~index` of
  a list that is spliced in, or null for an optional part that is absent. The method is
  `LIST` if the value is the list of the children, null if it is the only child;
- `rows`: by state, symbol → state to go to, or `~production` to reduce by;
- `end`: the state in which a text may end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from lark import Lark
from lark.grammar import Rule, Symbol, Terminal
from lark.lexer import BasicLexer, PatternStr, TerminalDef
from lark.parsers.lalr_analysis import Shift

from rewrite_engine.assets import grammar_directory, grammar_text

LIST = "list"


def text() -> str:
    """The content of the file."""
    parser = Lark(
        grammar_text(), parser="lalr", lexer="contextual", maybe_placeholders=True
    )
    return json.dumps(table(parser), separators=(",", ":")) + "\n"


def table(parser: Lark) -> dict[str, Any]:
    """What the driver of the table needs to know of lark's."""
    rules = sorted(parser.rules, key=str)
    rows = in_order(parser.parser.parser._parse_table, rules)
    return {
        **scanner(parser.parser.lexer.root_lexer),
        "kept": sorted({s.name for r in rules for s in r.expansion if is_kept(r, s)}),
        "productions": list(productions(rules)),
        "rows": rows,
        "end": rows[0]["start"],
    }


def in_order(automaton: Any, rules: Iterable[Rule]) -> list[dict[str, int]]:
    """The rows of all states, the first being the one to start in.

    States are numbered breadth-first by the names of symbols: lark numbers them in the
    order of a set, which differs from run to run.
    """
    number = {rule: index for index, rule in enumerate(rules)}
    rows = {
        state: sorted((symbol, *action) for symbol, action in row.items())
        for state, row in automaton.states.items()
    }
    order = list(automaton.start_states.values())
    for state in order:  # which grows while it is read
        targets = (to for _, kind, to in rows[state] if kind is Shift)
        order += [to for to in targets if to not in order]
    place = {state: index for index, state in enumerate(order)}
    return [
        {
            symbol: place[to] if kind is Shift else ~number[to]
            for symbol, kind, to in rows[state]
        }
        for state in order
    ]


# --- tokens ---


def scanner(lexer: BasicLexer) -> dict[str, Any]:
    """How text is cut into tokens."""
    words = {t.pattern.value: t.name for t in lexer.terminals if is_word(t)}
    terminals = [t for t in lexer.terminals if t.name not in words.values()]
    ignored = [t for t in terminals if t.name in lexer.ignore_types]
    return {
        "terminals": [
            [t.name, t.pattern.to_regexp()] for t in terminals if t not in ignored
        ],
        "ignored": "|".join(t.pattern.to_regexp() for t in ignored),
        "words": dict(sorted(words.items())),
    }


def is_word(terminal: TerminalDef) -> bool:
    pattern = terminal.pattern
    return isinstance(pattern, PatternStr) and bool(re.fullmatch(r"\w+", pattern.value))


# --- productions ---


def productions(rules: Iterable[Rule]) -> Iterator[list[Any]]:
    """The rules of lark's as the driver reads them."""
    lists = {rule.origin.name for rule in rules if has_many(rule)}
    for rule in rules:
        shape = list(children(rule, lists))
        yield [rule.origin.name, len(rule.expansion), method(rule, lists), shape]


def has_many(rule: Rule) -> bool:
    """Whether a rule, whose value is no node, may have other than one child."""
    is_node = not rule.origin.name.startswith("_")
    return not is_node and len(list(children(rule, set()))) != 1


def children(rule: Rule, lists: set[str]) -> Iterator[int | None]:
    """Where the children are; those in `lists` are spliced in."""
    symbols = iter(enumerate(rule.expansion))
    absent = rule.options.empty_indices or [False] * len(rule.expansion)
    for is_absent in absent:
        if is_absent:
            yield None
            continue
        index, symbol = next(symbols)
        if symbol.name in lists:
            yield ~index
        elif not symbol.is_term or is_kept(rule, symbol):
            yield index


def is_kept(rule: Rule, symbol: Symbol) -> bool:
    """Whether a symbol is a terminal that a rule has as a child."""
    if not isinstance(symbol, Terminal):
        return False
    return bool(rule.options.keep_all_tokens) or not symbol.filter_out


def method(rule: Rule, lists: set[str]) -> str | None:
    """What is done with the children."""
    name = rule.origin.name
    if name in lists:
        return LIST
    if rule.alias is None and (name.startswith("_") or rule.options.expand1):
        assert len(list(children(rule, lists))) == 1, f"{name} has several children"
        return None
    return str(rule.alias or name)


def main() -> None:
    """Write the file beside the grammar."""
    path = grammar_directory() / "rules.table.json"
    path.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
