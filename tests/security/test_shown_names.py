"""Names that others have chosen are shown on a terminal, and obeyed by none."""

from __future__ import annotations

import pytest

from sparrowmq.cli import show

EVIL = "\x1b]0;title\x07\x1b[2J\x9b31mname\r\u202eeman\x7f"


@pytest.mark.parametrize("text", [show.cell(EVIL), show.one_line(EVIL), show.table([{"name": EVIL}], ["name"])])
def test_nothing_of_a_name_reaches_the_terminal_as_an_order(text: str) -> None:
    assert not [c for c in text if not c.isprintable() and c != "\n"]
    assert "name" in text


def test_lines_of_a_table_are_its_own() -> None:
    assert len(show.table([{"name": "one\ntwo"}], ["name"]).splitlines()) == 2


def test_text_of_any_language_is_left_alone() -> None:
    text = "größer 数 → ✓"
    assert show.cell(text) == show.one_line(text) == text
