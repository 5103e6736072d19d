"""Offsets and positions of the protocol, against Python's own encodings."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("pygls", reason="the language server needs the extra `lsp`")

from lsprotocol import types

from rewrite_engine.language_server.positions import Positions

TEXTS = st.text(st.sampled_from("aé€𝄞\n\r\t\u2028\x0c#"), max_size=40)
WIDTHS = {"utf-8": 1, "utf-16-le": 2, "utf-32-le": 4}


@pytest.mark.parametrize("codec", WIDTHS)
@given(text=TEXTS)
def test_positions_count_the_units_of_an_encoding(codec: str, text: str) -> None:
    positions = Positions(text, codec.removesuffix("-le"))
    for offset in range(len(text) + 1):
        if text[offset - 1 : offset + 1] == "\r\n":
            continue  # inside the end of a line
        lines = re.split(r"\r\n|\n|\r", text[:offset])
        column = len(lines[-1].encode(codec)) // WIDTHS[codec]
        position = positions.position(offset)
        assert position == types.Position(len(lines) - 1, column)
        assert positions.offset(position) == offset


def test_a_position_beyond_the_text_is_its_end() -> None:
    positions = Positions("a𝄞\nb")
    assert positions.offset(types.Position(0, 99)) == 2
    assert positions.offset(types.Position(9, 0)) == 4
    assert positions.offset(types.Position(0, 2)) == 1  # between two halves
