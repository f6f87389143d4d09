"""Load hints through the machines of a whole cluster: beats, store, assistant, schedulers."""

from __future__ import annotations

from functools import cache

import msgspec
import pytest

from sparrowmq.experiments import plot, tables
from sparrowmq.sim import figures
from sparrowmq.sim.cluster import Cluster
from sparrowmq.sim.point import Row, run_point
from sparrowmq.sim.setup import Setup
from sparrowmq.sim.workload import Workload
from tests.support.points import row

SMALL = Setup(
    load=0.9, workers=60, slots=4, schedulers=3, jobs=1000, warm_up_s=1.0, workload=Workload(tasks=5, duration_s=0.05)
)


@cache
def point(policy: str, beats_s: float = 0.0, load: float = 0.9, schedulers: int = 3) -> Row:
    changes = {"policy": policy, "beats_s": beats_s, "load": load, "schedulers": schedulers}
    return run_point(msgspec.structs.replace(SMALL, **changes))


@pytest.mark.parametrize(("schedulers", "times"), [(1, 4.0), (3, 2.0)])
def test_assisted_waits_much_shorter_than_late_binding_at_load_9(schedulers: int, times: float) -> None:
    native, assisted = (
        point(policy, beats, schedulers=schedulers) for policy, beats in [("late-binding", 0.0), ("assisted", 0.1)]
    )
    wire_ms = 2.0  # probe, request, task and result
    assert assisted.delay_p50_ms - wire_ms < (native.delay_p50_ms - wire_ms) / times
    assert assisted.delay_p95_ms < native.delay_p95_ms


def test_without_an_assistant_it_is_still_better_than_late_binding() -> None:
    native, alone = point("late-binding"), point("assisted")
    assert alone.delay_p50_ms < native.delay_p50_ms
    assert alone.delay_p95_ms < native.delay_p95_ms


def test_the_same_seed_gives_the_same_row() -> None:
    small = msgspec.structs.replace(SMALL, policy="assisted", beats_s=0.1, jobs=100, warm_up_s=0.2)
    assert run_point(small) == run_point(small)


def test_hints_stop_with_the_assistant_and_jobs_go_on() -> None:
    cluster = Cluster(3, beats=True)
    for _ in range(2):
        cluster.add_scheduler()
    for _ in range(6):
        cluster.add_worker(slots=2)
    cluster.add_assistant()
    cluster.add_client()
    cluster.run(1.0)

    def work() -> None:
        for _ in range(30):
            cluster.submit([0.01] * 3, policy="assisted")
            cluster.run(0.02)

    def shares() -> list[int]:
        hints = [cluster.scheduler(f"scheduler-{n}")._placer._hints for n in (1, 2)]
        return sorted(len(each.pool(cluster.now, "", [f"worker-{n}" for n in range(1, 7)]).others) for each in hints)

    work()
    cluster.run(0.3)
    assert shares() == [0, 0]  # one client, one scheduler: all workers are its share, and the other has no use for one
    homes = [cluster.scheduler(f"scheduler-{n}")._placer._hints._share for n in (1, 2)]
    assert sorted(map(len, homes)) == [0, 6]
    cluster.crash("assistant-1")
    cluster.run(1.5)
    work()
    cluster.finish()


def test_the_table_has_late_binding_beside_each_row() -> None:
    setups = figures.hints(figures.HINTS, (0.8, 0.9), 10, beats_s=(0.1,), schedulers=(1, 10))
    assert [(s.policy, s.load, s.beats_s) for s in setups[:4]] == [
        ("late-binding", 0.8, 0.0), ("assisted", 0.8, 0.0), ("assisted", 0.8, 0.1), ("late-binding", 0.9, 0.0),
    ]  # fmt: skip
    assert [s.schedulers for s in setups] == [1] * 6 + [10] * 6
    assert len(setups) == 12
    done = [(s, row(s, delay_p50_ms=18.0 if s.policy == "late-binding" else 4.5, delay_p95_ms=20.0)) for s in setups]
    table = tables.hints(done)
    assert [record["times_better"] for record in table.rows[:3]] == [1.0, 4.0, 4.0]
    assert [record["beats_ms"] for record in table.rows[:3]] == [0.0, 0.0, 100.0]
    assert {record["native_p50_ms"] for record in table.rows} == {18.0}
    assert len(tables.for_people(table)) == 12
    over_load = plot.hints(table.rows)
    assert [series.label for series in over_load.series][:3] == [
        "late-binding, schedulers: 1", "assisted, schedulers: 1", "assisted, beats each 100 ms, schedulers: 1",
    ]  # fmt: skip
    over_beats = plot.hints([record for record in table.rows if record["load"] == 0.9])
    assert [series.points for series in over_beats.series][1] == [(0.0, 4.5), (100.0, 4.5)]
    assert tables.hints(done[1:2]).rows[0]["times_better"] is None
