"""A rule from two Python functions: what is matched, and what takes its place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import fx

from rewrite_engine.errors import GraphError
from rewrite_engine.extracting.writing import Literals, RuleWriter, rule_text


def extract_pair(
    pattern: Callable[..., Any],
    replacement: Callable[..., Any],
    inputs: Sequence[Any] | None = None,
    *,
    name: str | None = None,
    literals: Literals = "pin",
) -> str:
    """The text of a rule that replaces what one function does by what another does.

    Parameters stand for each other by position, results too. The functions are traced
    by `torch.fx`, or exported to ATen calls if example `inputs` are given.

    Raises: GraphError, if the functions are not the two sides of a rule.
    """
    before, after = _graph(pattern, inputs), _graph(replacement, inputs)
    writer = RuleWriter(literals)
    parameters = _parameters(before)
    for wanted, parameter in zip(_parameter_names(pattern), parameters, strict=False):
        writer.value(parameter, wanted)
    calls = [node for node in before.nodes if _is_call(node)]
    results = _results(before)
    inner = {operand for call in calls for operand in call.all_input_nodes}
    for result in results:
        if result not in calls or result in inner:
            raise GraphError(f"the pattern returns '{result}', which is not its last")
    left = [f"{writer.value(call)} = {writer.pattern(call)}" for call in calls]
    builder = _Right(writer, after, _paired(parameters, _parameters(after), writer))
    right = list(builder.statements(results))
    title = name or _name_of(pattern)
    doc = f"What `{_name_of(pattern)}` does, as `{_name_of(replacement)}` does it."
    return rule_text(title, doc, left, right, "")


@attrs.frozen(eq=False)
class _Right:
    """Writes the statements of the right side; `names` are those of its values."""

    writer: RuleWriter
    graph: fx.Graph
    names: dict[fx.Node, str]

    def statements(self, replaced: Sequence[fx.Node]) -> Iterator[str]:
        results = _results(self.graph)
        if len(results) != len(replaced):
            raise GraphError(
                f"the pattern has {len(replaced)} results, the replacement "
                f"{len(results)}"
            )
        targets = {new: old for old, new in zip(replaced, results, strict=True)}
        for node in self.graph.nodes:
            if _is_call(node):
                yield self._call(node, targets.get(node))
        for old, new in zip(replaced, results, strict=True):
            if not _is_call(new) or targets[new] is not old:
                yield f"{self.writer.values[old]}' = {self.names[new]}"

    def _call(self, node: fx.Node, replaced: fx.Node | None) -> str:
        text = self.writer.build(node, self.names)
        if replaced is None:
            self.names[node] = self.writer.fresh(node.name)
            return f"{self.names[node]} = {text}"
        # Later statements, and results returned twice, read the primed name.
        self.names[node] = f"{self.writer.values[replaced]}'"
        return f"{self.names[node]} = {text}"


def _graph(function: Callable[..., Any], inputs: Sequence[Any] | None) -> fx.Graph:
    if inputs is None:
        return fx.symbolic_trace(function).graph
    return torch.export.export(_AsModule(function), tuple(inputs)).graph


class _AsModule(torch.nn.Module):
    """A function as a module, which is what can be exported."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *args: Any) -> Any:
        return self._function(*args)


def _parameters(graph: fx.Graph) -> list[fx.Node]:
    state = next((n for n in graph.nodes if n.op == "get_attr"), None)
    if state is not None:
        raise GraphError(f"'{state.target}' is state; make it a parameter instead")
    return [node for node in graph.nodes if node.op == "placeholder"]


def _parameter_names(function: Callable[..., Any]) -> list[str]:
    called = function.forward if isinstance(function, torch.nn.Module) else function
    return list(inspect.signature(called).parameters)


def _paired(
    parameters: Sequence[fx.Node], others: Sequence[fx.Node], writer: RuleWriter
) -> dict[fx.Node, str]:
    """The names of the replacement's parameters: those at the same position."""
    if len(others) != len(parameters):
        raise GraphError(
            f"the pattern has {len(parameters)} parameters, the replacement "
            f"{len(others)}"
        )
    pairs: Mapping[fx.Node, fx.Node] = dict(zip(others, parameters, strict=True))
    return {other: writer.values[parameter] for other, parameter in pairs.items()}


def _results(graph: fx.Graph) -> list[fx.Node]:
    returned = graph.output_node().args[0]
    results = list(returned) if isinstance(returned, list | tuple) else [returned]
    if not all(isinstance(result, fx.Node) for result in results):
        raise GraphError("a result is no graph value")
    return results


def _is_call(node: fx.Node) -> bool:
    return str(node.op).startswith("call_")


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)
