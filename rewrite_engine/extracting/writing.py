"""Statements of a rule: a call each, on the left and again on the right."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import attrs
from torch import fx

from rewrite_engine.dsl.loader import load_text
from rewrite_engine.dsl.printer import format_source
from rewrite_engine.errors import GraphError, RuleError
from rewrite_engine.extracting.spelling import (
    Argument,
    literal_text,
    spelled,
    words_taken,
)
from rewrite_engine.source import Source

Literals: TypeAlias = Literal["pin", "capture"]
"""Whether a rule demands the literals of its example, or takes any and names them."""

_LONGEST = 60


@attrs.define(eq=False)
class RuleWriter:
    """Names the nodes of a rule and writes its calls.

    `values` are names of graph values; `captured` names of literals, by the argument
    of the left side that they were found in.
    """

    literals: Literals
    values: dict[fx.Node, str] = attrs.field(factory=dict)
    captured: dict[tuple[fx.Node, str], str] = attrs.field(factory=dict)
    _taken: set[str] = attrs.field(factory=lambda: set(words_taken()))

    def fresh(self, wanted: str) -> str:
        """A name like the wanted one that means nothing else in the rule."""
        stem = re.sub(r"\W", "_", wanted, flags=re.ASCII).strip("_")[:_LONGEST] or "v"
        stem = f"v{stem}" if stem[0].isdigit() else stem
        name, number = stem, 0
        while name in self._taken or keyword.iskeyword(name):
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        return name

    def value(self, node: fx.Node, wanted: str = "") -> str:
        """The name of a node, given when it is first asked for."""
        if node not in self.values:
            self.values[node] = self.fresh(wanted or node.name)
        return self.values[node]

    def pattern(self, node: fx.Node) -> str:
        """A call of the left side, with every argument that is not at its default."""
        call = spelled(node)
        texts = [(arg, self._argument(node, arg)) for arg in call.arguments]
        return f"{call.name}({', '.join(_written(texts))})"

    def copy(self, node: fx.Node, names: Mapping[fx.Node, str]) -> str:
        """The same call on the right: its operands by `names`, captured literals by
        theirs, and all else as it was in what matched.
        """
        call = spelled(node)
        texts = []
        for arg in call.arguments:
            if (node, arg.name) in self.captured:
                texts.append((arg, f"${self.captured[node, arg.name]}"))
            elif has_nodes(arg.value):
                texts.append((arg, self._operand(arg.value, names)))
        return f"{call.name}({', '.join([*_written(texts), f'..{self.values[node]}'])})"

    def build(self, node: fx.Node, names: Mapping[fx.Node, str]) -> str:
        """A call of the right side that is not on the left, in its own spelling."""
        call = spelled(node, exactly=True)
        texts = [(arg, self._operand(arg.value, names)) for arg in call.arguments]
        return f"{call.name}({', '.join(_written(texts))})"

    def _argument(self, node: fx.Node, arg: Argument) -> str:
        if has_nodes(arg.value):
            return self._operand(arg.value, {})
        text = literal_text(arg.value)
        if text is not None and self.literals == "pin":
            return text
        self.captured[node, arg.name] = self.fresh(arg.name)
        return f"${self.captured[node, arg.name]}"

    def _operand(self, value: Any, names: Mapping[fx.Node, str]) -> str:
        if isinstance(value, fx.Node):
            return names.get(value) or self.value(value)
        if isinstance(value, list | tuple):
            return f"[{', '.join(self._operand(item, names) for item in value)}]"
        text = literal_text(value)
        if text is None:
            raise GraphError(f"rule files cannot write the literal {value!r}")
        return text


def rule_text(
    name: str, doc: str, left: Iterable[str], right: Iterable[str], words: str
) -> str:
    """A rule in its canonical form.

    Raises: GraphError, if it is not a rule that can be loaded.
    """
    statements = "\n".join([*left, "=>", *right])
    text = f"## {doc}\nrule {name} {words} {{\n{statements}\n}}\n"
    try:
        text = format_source(Source("extracted.rules", text))
        load_text(text, "extracted.rules")
    except RuleError as error:
        first = error.diagnostics[0]
        message = f"what was selected is no left side: {first.message}"
        raise GraphError(message) from error
    return text


def _written(texts: Iterable[tuple[Argument, str]]) -> Iterator[str]:
    """Arguments, positional as long as none is left out."""
    position = 0
    for arg, text in texts:
        if arg.position == position:
            position += 1
            yield text
        else:
            position = -1
            yield f"{arg.name}={text}"


def has_nodes(value: Any) -> bool:
    """Whether an argument is, or holds, a graph value."""
    if isinstance(value, list | tuple):
        return any(map(has_nodes, value))
    return isinstance(value, fx.Node)
