"""The measurement of floods measures: each flood is sent, and seen where it should be."""

from __future__ import annotations

import pytest

from sparrowmq.bench import flood
from sparrowmq.cli import bench
from sparrowmq.errors import UsageError

pytestmark = pytest.mark.timeout(120)


def test_every_flood_is_offered() -> None:
    assert bench._FLOODS == flood.NAMES


def test_a_flood_has_three_rows_and_is_counted() -> None:
    result = flood.run(floods=["null", "submits"], frames=300, seconds=0.5, submits_per_s=50.0)
    rows = result["rows"]
    assert [(row["flood"], row["phase"]) for row in rows] == [
        (name, phase) for name in ("null", "submits") for phase in ("before", "during", "after")
    ]
    assert all(row["calls"] > 0 and 0.0 < row["p50_ms"] <= row["p99_ms"] for row in rows)
    during = {row["flood"]: row for row in rows if row["phase"] == "during"}
    assert {row["frames"] for row in during.values()} == {300}
    assert during["submits"]["counted"]["rejected"] > 0
    assert result["cluster"]["kind"] == "local, TCP, CURVE, default settings"


@pytest.mark.parametrize("names", [["pings", "tsunami"], []])
def test_a_flood_that_is_none(names: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        flood.run(floods=names)
    assert "garbage, null, pings" in caught.value.hint
