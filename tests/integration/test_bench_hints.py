"""The measurement of load hints, small: real clusters with an assistant, and rows that hang together."""

from __future__ import annotations

from sparrowmq.bench import hints


def test_both_policies_play_the_same_jobs_with_eager_launches_and_without() -> None:
    result = hints.run(jobs=20, rounds=2, duration_s=0.01, load=0.5, workers=2, schedulers=2, seed=1)
    assert [(row["policy"], row["tasks"], row["eager"], row["n"]) for row in result["rows"]] == [
        (policy, tasks, eager, 40)
        for eager in (False, True)
        for tasks in (1, 10)
        for policy in ("late-binding", "assisted")
    ]
    for native, assisted in zip(result["rows"][::2], result["rows"][1::2], strict=True):
        assert native["times_better"] == 1.0
        assert assisted["native_p50_ms"] == native["queueing_p50_ms"]
        assert 0.0 < assisted["queueing_p50_ms"] <= assisted["queueing_p95_ms"]
        assert (native["ideal_p50_ms"] is None) == (native["tasks"] == 10)
    assert result["cluster"]["schedulers"] == 2
