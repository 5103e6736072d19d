"""Writes `rules.table.json`, the parse table of `rules.lark`, which takes far longer to
compute than to read. Run it after every change of the grammar:

    python grammar/generate_table.py
"""

from __future__ import annotations

import json
from typing import Any

from lark import Lark
from lark.grammar import Rule
from lark.lexer import TerminalDef

from rewrite_engine.assets import grammar_directory, grammar_text

OPTIONS: dict[str, Any] = {
    "parser": "lalr",
    "lexer": "contextual",
    "maybe_placeholders": True,
}

_SHIFT = 0


def text() -> str:
    """The content of the file."""
    table, shared = Lark(grammar_text(), **OPTIONS).memo_serialize([TerminalDef, Rule])
    # lark has a default for every other option, and some of those are no JSON.
    table["options"] = OPTIONS
    table["parser"]["parser"] |= in_order(table["parser"]["parser"])
    return json.dumps({"data": table, "memo": shared}, separators=(",", ":")) + "\n"


def in_order(automaton: dict[str, Any]) -> dict[str, Any]:
    """The same automaton, with tokens numbered by name and states breadth-first.

    lark numbers both in the order of a set, which differs from run to run.
    """
    names = automaton["tokens"]
    actions = {
        state: sorted((names[token], *action) for token, action in row.items())
        for state, row in automaton["states"].items()
    }
    order = list(automaton["start_states"].values())
    for state in order:  # which grows while it is read
        targets = (to for _, kind, to in actions[state] if kind == _SHIFT)
        order += [to for to in targets if to not in order]
    token = {name: number for number, name in enumerate(sorted(names.values()))}
    number = {state: number for number, state in enumerate(order)}
    return {
        "tokens": {number: name for name, number in token.items()},
        "states": {
            number[state]: {
                token[name]: (kind, number[to] if kind == _SHIFT else to)
                for name, kind, to in actions[state]
            }
            for state in order
        },
        "start_states": {k: number[s] for k, s in automaton["start_states"].items()},
        "end_states": {k: number[s] for k, s in automaton["end_states"].items()},
    }


def main() -> None:
    """Write the file beside the grammar."""
    path = grammar_directory() / "rules.table.json"
    path.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
