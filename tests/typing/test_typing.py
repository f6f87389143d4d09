"""A type checker sees through the decorator and the clients: signatures and results stay what they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

api = pytest.importorskip("mypy.api")

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]
PROGRAM = Path(__file__).with_name("surfaces.py")
ROOT = Path(__file__).resolve().parents[2]


def test_what_a_type_checker_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    expected: dict[int, str] = {}
    for number, line in enumerate(PROGRAM.read_text().splitlines(), 1):
        found = re.search(r"# (reveals|refused): (.*)$", line)
        if found is not None and "`" not in line:
            expected[number] = found[2] if found[1] == "reveals" else f"error: {found[2]}"
    arguments = ["--strict", "--no-pretty", "--follow-imports=silent", str(PROGRAM)]
    report, errors, _ = api.run(arguments)
    assert errors == ""
    seen: dict[int, str] = {}
    for line in report.splitlines():
        said = re.fullmatch(r"[^:]*surfaces\.py:(\d+): (note|error): (.*)", line)
        if said is None:
            continue
        revealed = re.fullmatch(r'Revealed type is "(.*)"', said[3])
        if revealed is not None:
            seen[int(said[1])] = revealed[1].replace("builtins.", "")
        elif said[2] == "error":
            seen[int(said[1])] = f"error: {said[3].rpartition('[')[2].rstrip(']')}"
    assert seen == expected
    assert len(expected) > 30
