"""Questions are answered wherever the cursor stands and whatever is written there."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pygls", reason="the language server needs the extra `lsp`")

from rewrite_engine.language_server.completion import complete
from rewrite_engine.language_server.documents import Documents
from rewrite_engine.language_server.hover import hover
from rewrite_engine.language_server.navigation import definition
from rewrite_engine.language_server.outline import document_symbols, lenses

URI = "file:///nowhere/rules.rules"
EVERY_FORM = Path(__file__).parents[1] / "cases/accept/every_form.rules"
TYPED = (
    "op a = aten.add.Tensor commutes(0, 1)\n## 𝄞\n"
    "rule r for (op, $k) in F once {\n  y = N@op?(x, alpha=$k, [1, *xs], ..)\n"
    '  where x: f16|f32[$n, _] else "no"\n=>\n  y\' = N(relu(x), ..y)\n}\n'
    'test "t" { given (x: f32[2]) { return op(x) } expect r * 1 }\n'
)


def test_wherever_the_pointer_is():
    documents = Documents()
    documents.put(URI, EVERY_FORM.read_text(encoding="utf-8"), 1)
    document = documents.get(URI)
    hovered = 0
    for offset in range(len(document.text) + 1):
        found = hover(document, offset)
        hovered += found is not None
        if found is not None:
            assert found.span.start <= offset <= found.span.end
        target = definition(documents, document, offset)
        assert target is None or target.range.start.line >= 0
        if offset % 7 == 0:
            assert complete(document, offset).items is not None
    assert hovered > len(document.text) / 4
    assert document_symbols(document)
    assert len(lenses(document)) == 2


def test_while_a_file_is_typed():
    documents = Documents()
    for end in range(len(TYPED) + 1):
        documents.put(URI, TYPED[:end], end)
        document = documents.get(URI)
        found = complete(document, end)
        place = document.positions.position(end)
        assert all(item.text_edit.range.end == place for item in found.items)
        assert isinstance(document_symbols(document), list)
        assert hover(document, max(end - 1, 0)) is None or end > 0
