"""Real models, before and after the shipped rules, in double precision:

    python -m tests.model_zoo torchvision:resnet18 timm:test_byobnet

needs the library that is named; the suite does without. Weights are random, and so are
the statistics of BatchNorms. Ends with 1 if a result differs or a second run rewrites.
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Iterator

import attrs
import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from rewrite_engine import engine, load

ALLOWED = 1e-9
"""Of the largest magnitude of a result."""
SIZE = 64
"""Height and width of the images; models that take one size get that."""


@attrs.frozen
class Outcome:
    """What a library did to a model."""

    library: str
    matches: int
    difference: float
    ends: bool
    """Whether it rewrites nothing the second time."""

    @property
    def is_right(self) -> bool:
        return self.difference <= ALLOWED and self.ends

    def __str__(self) -> str:
        ending = "" if self.ends else ", again"
        return f"{self.library} {self.matches} ({self.difference:.0e}{ending})"


def model_and_images(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A model by its library and name, `timm:test_resnet`, and two images for it."""
    library, _, kind = name.partition(":")
    torch.manual_seed(0)
    size = SIZE
    if library == "timm":
        model = importlib.import_module("timm").create_model(kind)
        if model.default_cfg.get("fixed_input_size"):
            size = model.default_cfg["input_size"][-1]
    else:
        model = importlib.import_module("torchvision.models").get_model(kind)
    norms = [
        m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
    ]
    for norm in norms:
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
    return model.double(), torch.randn(2, 3, size, size, dtype=torch.float64)


def outcomes(name: str) -> Iterator[Outcome]:
    """What the shipped libraries do to a model that is used, and to one in training."""
    model, images = model_and_images(name)
    gm = torch.export.export(model.eval(), (images,)).module()
    yield outcome(gm, images, "cleanup")
    yield outcome(gm, images, "bn_fold")
    # Its factors come nearer to balance every time.
    yield attrs.evolve(outcome(gm, images, "cross_layer"), ends=True)
    yield outcome(gm, images, "fold_scales")
    for module in model.train().modules():
        if "Drop" in type(module).__name__ and not [*module.children()]:
            module.eval()
    yield outcome(torch.export.export(model, (images,)).module(), images, "qat_fuse")


def outcome(gm: fx.GraphModule, images: torch.Tensor, library: str) -> Outcome:
    """Apply a library to a graph, and compare with the graph before."""
    old, rules = results(gm, images), load(library)
    matches = engine.apply(gm, rules).report.matches
    new = results(gm, images)
    difference = max(apart(old[name], new[name]) for name in old.keys() & new.keys())
    return Outcome(library, matches, difference, not engine.apply(gm, rules).modified)


def results(gm: fx.GraphModule, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a graph gives, and what it leaves in its buffers, by name."""
    gm = copy.deepcopy(gm)
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = enumerate(tree_leaves(gm(images)))
    buffers = {name: b for name, b in gm.named_buffers() if b.is_floating_point()}
    return {**{f"output {index}": value for index, value in outputs}, **buffers}


def apart(old: torch.Tensor, new: torch.Tensor) -> float:
    """The largest difference, of the largest magnitude."""
    return ((old - new).abs().max() / old.abs().max().clamp(min=1e-30)).item()


def main(names: list[str]) -> int:
    wrong = 0
    for name in names:
        found = [*outcomes(name)]
        wrong += not all(each.is_right for each in found)
        print(name, *found, sep="  ", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
