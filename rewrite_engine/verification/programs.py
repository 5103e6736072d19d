"""A counterexample as a program that a user can run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from rewrite_engine import torch_ops
from rewrite_engine.dsl import checked
from rewrite_engine.ruleset import RuleSet
from rewrite_engine.verification.cases import Case
from rewrite_engine.verification.samples import spaced
from rewrite_engine.verification.trials import Counterexample

_HEAD = """\
import copy
import math
import operator

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from rewrite_engine import engine, load, loads
from rewrite_engine.equivalence import assert_equivalent

inf, nan = math.inf, math.nan
"""

_RECORD = "FakeTensorProp(before).propagate(*inputs)"
_RECORD_BESIDE = """\
known = copy.deepcopy(before)  # observers would keep what they see
FakeTensorProp(known, FakeTensorMode(allow_non_fake_inputs=True)).propagate(*inputs)
for node, beside in zip(before.graph.nodes, known.graph.nodes):
    node.meta.update(beside.meta)"""

_FEW = 8
"""Elements that are written one by one even if they are all equal."""


def program_of(found: Counterexample, rules: RuleSet, rule: checked.Rule) -> str:
    """A program that builds the graph, applies the rules, and fails where they do."""
    case = found.case
    lines = [f"# {rule.name}: {difference}" for difference in found.differences[:3]]
    lines += [_HEAD, *_imports(case), f"rules = {_load(rules, rule)}", ""]
    lines += ["root = nn.Module()", *_modules(case), *_state(case, found.values)]
    lines += ["graph = fx.Graph()", *_graph(case.graph)]
    inputs = ", ".join(_tensor(t) for t in case.inputs(found.values))
    lines += [f"inputs = [{inputs}]", "before = fx.GraphModule(root, graph)"]
    if case.choice.recorded:
        lines.append(_RECORD_BESIDE if case.modules else _RECORD)
    lines.append("after = engine.apply(copy.deepcopy(before), rules).graph_module")
    options = f"rtol={found.tolerance}, check_gradients={found.gradients}"
    if any(made.watches for made in case.modules.values()):
        options += ", check_state=False"
    lines.append(f"assert_equivalent(before, after, inputs, {options})")
    return "\n".join([*lines, ""])


def _load(rules: RuleSet, rule: checked.Rule) -> str:
    path = Path(rule.source.name)
    loaded = f'loads(r"""\n{rule.source.text.strip()}\n""")'
    if path.suffix == ".rules":
        loaded = f"load({str(path)!r})"
    if not rule.once:
        # What it builds may match again, and a run would go on to its limits.
        return f"{loaded}.only({rule.name!r}, once=True)"
    return loaded if len(rules) == 1 else f"{loaded}.only({rule.name!r})"


def _imports(case: Case) -> list[str]:
    kinds = [k for made in case.modules.values() for k in (made.kind, *made.parts)]
    return sorted({f"import {kind.__module__}" for kind in kinds})


def _modules(case: Case) -> Iterator[str]:
    for path, made in case.modules.items():
        yield f"root.{path} = {made.text}"


def _state(case: Case, values: Mapping[str, torch.Tensor]) -> Iterator[str]:
    for name in sorted(case.state):
        tensor = _tensor(values[name])
        owner, _, attribute = case.state[name].rpartition(".")
        holder = f"root.get_submodule({owner!r})" if owner else "root"
        if case.is_parameter(name):
            yield f"{holder}.{attribute} = nn.Parameter({tensor})"
        else:
            yield f"{holder}.register_buffer({attribute!r}, {tensor})"


def _graph(graph: fx.Graph) -> Iterator[str]:
    for node in graph.nodes:
        if node.op == "output":
            yield f"graph.output({_argument(node.args[0])})"
        elif node.op in ("placeholder", "get_attr"):
            yield f"{node.name} = graph.{node.op}({node.target!r})"
        else:
            args, kwargs = _argument(node.args), _argument(dict(node.kwargs))
            call = f"graph.{node.op}({_target(node)}, {args}, {kwargs})"
            yield f"{node.name} = {call}"


def _target(node: fx.Node) -> str:
    if isinstance(node.target, str):
        return repr(node.target)
    if isinstance(node.target, OpOverload):
        return f"torch.ops.{node.target}"
    (signature, *_) = torch_ops.signatures_of(node.target)
    space, _, name = signature.path.partition(".")
    home = "torch.nn.functional" if space == "F" else space
    return f"{home}.{name}"


def _argument(value: Any) -> str:
    if isinstance(value, fx.Node):
        return value.name
    if isinstance(value, tuple):
        return "(" + "".join(f"{_argument(item)}, " for item in value) + ")"
    if isinstance(value, list):
        return "[" + ", ".join(map(_argument, value)) + "]"
    if isinstance(value, dict):
        items = (f"{key!r}: {_argument(item)}" for key, item in value.items())
        return "{" + ", ".join(items) + "}"
    return repr(value)


def _tensor(value: torch.Tensor) -> str:
    made = _even(value) or f"torch.tensor({value.tolist()!r}, dtype={value.dtype})"
    if value.numel() == 0:
        made = f"torch.empty({list(value.shape)}, dtype={value.dtype})"
    if value.is_contiguous():
        return made
    return f"{made}.transpose(0, 1).contiguous().transpose(0, 1)"


def _even(value: torch.Tensor) -> str | None:
    """The text of a tensor whose elements are all equal, or evenly spaced."""
    if value.numel() <= _FEW:
        return None
    shape, first = list(value.shape), value.flatten()[0].item()
    texts = [f"torch.full({shape}, {first!r}, dtype={value.dtype})"]
    candidates = [torch.full(shape, first, dtype=value.dtype)]
    if value.is_floating_point():
        texts.append(f"torch.linspace(-2, 2, {value.numel()}).reshape({shape})")
        texts[1] += f".to({value.dtype})"
        candidates.append(spaced(value))
    same = (repr(each.tolist()) == repr(value.tolist()) for each in candidates)
    return next((text for text, holds in zip(texts, same, strict=True) if holds), None)
