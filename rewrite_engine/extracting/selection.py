"""A rule from a part of a graph, which matches there and changes nothing yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import fx
from torch.export import ExportedProgram

from rewrite_engine.errors import GraphError
from rewrite_engine.extracting.writing import Literals, RuleWriter, rule_text
from rewrite_engine.graph_text import Model

_CALLS = ("call_function", "call_method", "call_module")
_DOC = "What is matched is built again: write on the right what takes its place."


def extract(
    model: Model,
    nodes: Iterable[str | fx.Node],
    *,
    name: str = "extracted",
    literals: Literals = "pin",
) -> str:
    """The text of a rule whose left side is a part of a graph.

    `nodes` are the calls of that part; what they read from outside become the rule's
    inputs. The right side builds the same again, as a beginning.

    Raises: GraphError, if the nodes are no left side: there is no such node, other
    nodes lie in between, or rule files have no name for a call.
    """
    module = model.graph_module if isinstance(model, ExportedProgram) else model
    chosen = _chosen(module.graph, nodes)
    _check_convex(module.graph, chosen)
    writer = RuleWriter(literals)
    for node in chosen:
        for operand in node.all_input_nodes:
            if operand not in chosen:
                writer.value(operand, _input_name(operand))
    left = [f"{writer.value(node)} = {writer.pattern(node)}" for node in chosen]
    return rule_text(name, _DOC, left, _right(writer, chosen), "once")


def _chosen(graph: fx.Graph, nodes: Iterable[str | fx.Node]) -> list[fx.Node]:
    """The calls among the nodes, in graph order."""
    known = {node.name: node for node in graph.nodes}
    names = [str(node).lstrip("%") for node in nodes]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise GraphError(f"the graph has no node `{unknown[0]}`")
    chosen = sorted({known[name] for name in names if known[name].op in _CALLS})
    if not chosen:
        raise GraphError("no call is selected")
    return chosen


def _check_convex(graph: fx.Graph, chosen: Sequence[fx.Node]) -> None:
    """Nothing else may lie on a way from one selected node to another."""
    inside, below = set(chosen), set[fx.Node]()
    for node in graph.nodes:
        reads = set(node.all_input_nodes)
        if node in inside and reads & below:
            between = sorted(reads & below)[0]
            raise GraphError(f"'{between.name}' lies between selected nodes: add it")
        if node not in inside and reads & (inside | below):
            below.add(node)


def _input_name(node: fx.Node) -> str:
    """What an input is called: state by its name, what is computed `x`."""
    if node.op == "get_attr":
        return str(node.target).rpartition(".")[2]
    return node.name if node.op == "placeholder" else "x"


def _right(writer: RuleWriter, chosen: Sequence[fx.Node]) -> Iterator[str]:
    """The same calls again; nodes that are read elsewhere are kept as they are."""
    inside = set(chosen)
    roots = [node for node in chosen if not inside & set(node.users)]
    kept = [
        node for node in chosen if node not in roots and not set(node.users) <= inside
    ]
    names: dict[fx.Node, str] = {}
    for node in _built(chosen, roots, kept):
        text = writer.copy(node, names)
        if node in roots:
            yield f"{writer.values[node]}' = {text}"
        else:
            names[node] = writer.fresh(f"{writer.values[node]}_new")
            yield f"{names[node]} = {text}"
    if kept:
        yield f"keep {', '.join(writer.values[node] for node in kept)}"


def _built(
    chosen: Sequence[fx.Node], roots: Sequence[fx.Node], kept: Sequence[fx.Node]
) -> Iterator[fx.Node]:
    """The selected calls that the roots still need when some are kept."""
    needed, todo = set(roots), list(roots)
    while todo:
        for operand in todo.pop().all_input_nodes:
            if operand in chosen and operand not in kept and operand not in needed:
                needed.add(operand)
                todo.append(operand)
    yield from (node for node in chosen if node in needed)
