"""Rule files for Pygments: the TextMate grammar of editors, read as a lexer.

Pygments finds it by an entry point; nothing else is imported here.
"""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar, Final

from pygments import token
from pygments.lexer import RegexLexer, bygroups

from rewrite_engine.assets import grammar_directory

TOKENS: Final = {
    "comment.line.documentation": token.String.Doc,
    "comment.line.number-sign": token.Comment.Single,
    "constant.character.escape": token.String.Escape,
    "constant.language": token.Keyword.Constant,
    "constant.numeric.float": token.Number.Float,
    "constant.numeric.integer": token.Number.Integer,
    "entity.name.function": token.Name.Function,
    "entity.name.type": token.Name.Class,
    "keyword.control": token.Keyword,
    "keyword.operator.arithmetic": token.Operator,
    "keyword.operator.assignment": token.Operator,
    "keyword.operator.comparison": token.Operator,
    "keyword.operator.pattern": token.Operator,
    "keyword.operator.rest": token.Operator,
    "keyword.operator.rewrite": token.Operator,
    "keyword.operator.word": token.Operator.Word,
    "punctuation": token.Punctuation,
    "storage.modifier": token.Keyword.Reserved,
    "storage.type": token.Keyword.Declaration,
    "string.quoted.double": token.String.Double,
    "support.other.module": token.Name.Namespace,
    "support.other.path": token.Name.Namespace,
    "support.type": token.Keyword.Type,
    "variable.language": token.Name.Builtin.Pseudo,
    "variable.other": token.Name,
    "variable.other.literal": token.Name.Variable,
    "variable.other.replaced": token.Name.Variable.Instance,
    "variable.parameter": token.Name.Attribute,
}
"""The token of each scope of the TextMate grammar."""


def _token(scope: str) -> Any:
    return TOKENS[scope.removesuffix(".rewrite-rules")]


def _states() -> dict[str, list[Any]]:
    path = grammar_directory() / "rules.tmLanguage.json"
    grammar = json.loads(path.read_text(encoding="utf-8"))
    states: dict[str, list[Any]] = {"root": []}
    for number, pattern in enumerate(grammar["patterns"]):
        if "begin" not in pattern:
            states["root"].append(_rule(pattern, token.Text))
            continue
        # A stretch with a begin and an end becomes a state of its own.
        kind, state = _token(pattern["name"]), f"stretch {number}"
        states["root"].append((pattern["begin"], kind, state))
        inside = [_rule(inner, kind) for inner in pattern["patterns"]]
        states[state] = [(pattern["end"], kind, "#pop"), *inside]
    states["root"].append((r"\s+", token.Whitespace))
    return states


def _rule(pattern: dict[str, Any], default: Any) -> tuple[str, Any]:
    captures = pattern.get("captures")
    if captures is None:
        scope = pattern.get("name")
        return pattern["match"], default if scope is None else _token(scope)
    groups = re.compile(pattern["match"]).groups
    kinds = (
        _token(captures[str(n)]["name"]) if str(n) in captures else token.Whitespace
        for n in range(1, groups + 1)
    )
    return pattern["match"], bygroups(*kinds)


class RulesLexer(RegexLexer):
    """Rule files of rewrite_engine."""

    name = "rewrite_engine rules"
    aliases: ClassVar = ["rewrite-rules"]
    filenames: ClassVar = ["*.rules"]
    mimetypes: ClassVar = ["text/x-rewrite-rules"]
    tokens: ClassVar = _states()
