"""A rule file that was loaded before without an error: read as far as it is needed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence, Set
from functools import cached_property
from pathlib import Path

import attrs
from torch.fx import GraphModule

from rewrite_engine import torch_ops
from rewrite_engine.caching.index import Index, digest
from rewrite_engine.dsl.checked import Rule, RuleFile, Test
from rewrite_engine.dsl.loader import Examination, examine, read_source, right
from rewrite_engine.dsl.used_files import used_file
from rewrite_engine.source import Source, Span


@attrs.frozen(eq=False, slots=False)
class KnownFile:
    """A file and those that it uses, in the order of their index.

    Their texts are held: what becomes of the files later does not matter.
    """

    path: Path
    index: Index
    sources: tuple[Source, ...]
    reals: tuple[str, ...]
    """The real paths of the files."""
    _missing: frozenset[str] = attrs.field(
        factory=torch_ops.missing_libraries, init=False
    )

    @staticmethod
    def of(path: Path, source: Source, index: Index) -> KnownFile | None:
        """None if what the file uses is not what it used when the index was made.

        Raises: OSError, RuleError, if a used file cannot be read.
        """
        sources, reals = {0: source}, {os.path.realpath(path): 0}
        for user, name, number in index.uses:
            home = Path(sources[user].name).parent if user in sources else None
            used = None if home is None else used_file(name, home)
            if used is None:
                return None
            if reals.setdefault(os.path.realpath(used), number) != number:
                return None
            if number not in sources:
                sources[number] = read_source(used)
        in_order = tuple(sources[number] for number in sorted(sources))
        digests = tuple(entry.digest for entry in index.files)
        if len(reals) != len(digests) or tuple(map(digest, in_order)) != digests:
            return None
        return KnownFile(
            path.absolute(),
            index,
            in_order,
            tuple(sorted(reals, key=reals.__getitem__)),
        )

    @cached_property
    def whole(self) -> RuleFile:
        """Everything that loading the file gives."""
        found = right(self._examined([source.text for source in self.sources]))
        rules, tests = self._with_sources(found)
        return attrs.evolve(found.file, rules=rules, tests=tests)

    def possible(self, model: object) -> frozenset[str] | None:
        """The rules that may match in a model, or in what becomes of it.

        None if all rules should be taken: they are there already, they are not much
        more, or the index does not know the operators of a library imported since.
        """
        # Imported when a graph is there; loading needs none of it.
        from rewrite_engine.matching.needs import calls_in

        graph = getattr(model, "graph_module", model)
        is_known = torch_ops.missing_libraries() == self._missing
        if "whole" in vars(self) or not is_known or not isinstance(graph, GraphModule):
            return None
        names = self.index.possible(calls_in(graph))
        return names if 2 * len(names) < len(self.index.rules) else None

    def part(self, names: Set[str]) -> RuleFile | None:
        """Some of the rules, in their phases; None if they do not stand where the index
        has them.
        """
        spans = [list(entry.definitions) for entry in self.index.files]
        for rule in self.index.rules:
            if rule.name in names:
                spans[rule.file].append(rule.span)
        texts = [
            _only(s.text, each) for s, each in zip(self.sources, spans, strict=True)
        ]
        found = self._examined(texts)
        if found.errors or {rule.name for rule in found.file.rules} != names:
            return None
        rules, _ = self._with_sources(found)
        phases = tuple(phase.only(names) for phase in self.index.phases)
        return RuleFile(rules, phases=phases)

    def _examined(self, texts: Sequence[str]) -> Examination:
        source = Source(self.sources[0].name, texts[0])
        by_path = dict(zip(self.reals, texts, strict=True))
        return examine(source, self.path, texts=by_path)

    def _with_sources(
        self, found: Examination
    ) -> tuple[tuple[Rule, ...], tuple[Test, ...]]:
        """What was read, as part of the whole texts, under the names first given."""
        known = dict(zip(self.reals, self.sources, strict=True))
        sources = {
            id(unit.scope.source): known.get(real, unit.scope.source)
            for real, unit in found.units.items()
        }
        file = found.file
        return (
            tuple(attrs.evolve(r, source=sources[id(r.source)]) for r in file.rules),
            tuple(attrs.evolve(t, source=sources[id(t.source)]) for t in file.tests),
        )


def _only(text: str, spans: Iterable[Span]) -> str:
    """A text with blanks in place of what is not in some stretches of it."""
    return "".join(_parts(text, sorted(spans, key=lambda span: span.start)))


def _parts(text: str, spans: Iterable[Span]) -> Iterator[str]:
    end = 0
    for span in spans:
        blanks = min(span.start, len(text)) - end
        # An item begins on a line of its own.
        yield " " * (blanks - 1) + "\n" if blanks > 0 else ""
        yield span.of(text)
        end = span.end
