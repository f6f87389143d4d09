"""The measurement of floods measures: each flood is sent, and seen where it should be."""

from __future__ import annotations

import pytest

from sparrowmq.bench import flood
from sparrowmq.cli import bench
from sparrowmq.errors import UsageError

pytestmark = pytest.mark.timeout(120)


def test_every_flood_is_offered() -> None:
    assert bench._FLOODS == flood.NAMES


def test_a_flood_has_two_rows_and_is_counted() -> None:
    result = flood.run(floods=["null", "submits"], frames=300, seconds=0.5, rounds=2, submits_per_s=50.0)
    rows = result["rows"]
    assert [(row["flood"], row["phase"]) for row in rows] == [
        (name, phase) for name in ("null", "submits") for phase in ("quiet", "flood")
    ]
    assert all(row["calls"] > 0 and 0.0 < row["p50_ms"] <= row["p99_ms"] for row in rows)
    assert [len(row["p99_ms_each"]) for row in rows] == [3, 2, 3, 2]
    flooded = {row["flood"]: row for row in rows if row["phase"] == "flood"}
    assert {row["frames"] for row in flooded.values()} == {600}
    assert flooded["submits"]["counted"]["submits_too_soon"] > 0


def test_a_client_that_floods_is_sent_away_and_its_coming_back_is_refused() -> None:
    result = flood.run(floods=["submits", "comebacks"], frames=20_000, seconds=2.0, submits_per_s=200.0)
    stays_away, comes_back = (row["counted"] for row in result["rows"] if row["phase"] == "flood")
    assert (stays_away["sent_away"], stays_away["refused_busy"]) == (1, 1)
    assert comes_back["refused_busy"] > comes_back["sent_away"] >= 1, "whenever it comes back too soon"
    assert result["cluster"]["kind"] == "local, TCP, CURVE, default settings"


@pytest.mark.parametrize("names", [["pings", "tsunami"], []])
def test_a_flood_that_is_none(names: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        flood.run(floods=names)
    assert "garbage, null, pings" in caught.value.hint
