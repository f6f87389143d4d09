"""What a scrape says: the delay from the leader's report, and nothing where nothing is known."""

from __future__ import annotations

import statistics
import threading

import pytest
from hypothesis import given, strategies as st

from sparrowmq.cli.main import main
from sparrowmq.core.assistant import Arrival, Assistant, AssistantReport, NodeReport
from sparrowmq.errors import Unavailable
from sparrowmq.metrics import CACHE_S, ClusterCollector, Reading, families, queueing_delay_s
from sparrowmq.protocol.beats import Beat
from sparrowmq.settings import AssistantSettings


def worker(id: str, sequence: int = 1, **load) -> Beat:
    return Beat("worker", id, 1, sequence, 100, **({"slots": 2, "service_us": 100_000} | load))


def report(*beats: Beat) -> AssistantReport:
    """What an assistant tells that has heard these."""
    assistant = Assistant(id="a", incarnation=1, settings=AssistantSettings())
    assistant.heard(1.0, 1.0, 0.0, [Arrival(1.0, beat) for beat in beats])
    return assistant.report(1.0)


def series(reading: Reading | None) -> dict[str, float]:
    """The samples by name and state."""
    return {
        sample.name.removeprefix("sparrowmq_") + "".join(f".{value}" for value in sample.labels.values()): sample.value
        for family in families(reading)
        for sample in family.samples
    }


def node(wait_ms: float | None, **more) -> NodeReport:
    fields = {"kind": "worker", "state": "alive", "slots": 1} | more
    return NodeReport(
        id="w", incarnation=1, state_since_unix_s=0.0, silent_ms=0.0, beats=1, suspicions=0, running=0, queued=0,
        wait_ms=wait_ms, **fields,
    )  # fmt: skip


def test_an_idle_cluster_has_a_delay_of_0_before_and_after_its_first_task() -> None:
    told = report(worker("w1", service_us=0), worker("w2"), worker("w3", running=1))
    assert [row.wait_ms for row in told.nodes] == [0.0, 0.0, 0.0]
    assert queueing_delay_s(told.nodes) == 0.0


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=9), st.integers(1, 8), st.integers(100, 100_000))
def test_a_backlog_counts_two_reservations_for_a_task_and_grows_the_delay(queued, slots, service_us) -> None:
    beats = [
        worker(f"w{number}", slots=slots, running=slots, queued=count, service_us=service_us)
        for number, count in enumerate(queued)
    ]
    delay_s = queueing_delay_s(report(*beats).nodes)
    expected_s = statistics.median((0.5 * count + 1) / slots * service_us * 1e-6 for count in queued)
    assert delay_s == pytest.approx(expected_s, abs=2e-6)
    more = [worker(f"x{beat.id}", slots=slots, running=slots, queued=beat.queued + 2, service_us=service_us)
            for beat in beats]  # fmt: skip
    assert queueing_delay_s(report(*more).nodes) > delay_s


def test_who_takes_no_task_or_has_ended_none_yet_has_no_say() -> None:
    busy = {"running": 2, "queued": 10}
    told = report(
        worker("draining", draining=True, **busy),
        worker("without-slots", slots=0),
        worker("at-its-first-task", service_us=0, **busy),
        worker("known", **busy),
        Beat("scheduler", "s", 1, 1, 100, queued=15),
    )
    waits = {row.id: row.wait_ms for row in told.nodes}
    assert waits.pop("known") == 300.0
    assert set(waits.values()) == {None}
    assert queueing_delay_s(told.nodes) == pytest.approx(0.3)
    assert queueing_delay_s([row for row in told.nodes if row.id != "known"]) is None


def test_only_workers_that_are_alive_count_and_one_that_is_off_changes_little() -> None:
    gone = [node(9e6, state="suspect"), node(9e6, state="dead"), node(9e6, kind="scheduler"), node(9e6, slots=0)]
    assert queueing_delay_s([node(0.0), node(10.0), node(3.6e6), *gone]) == pytest.approx(0.01)
    assert queueing_delay_s(gone) is None
    assert queueing_delay_s([]) is None


def test_the_series_of_a_cluster_that_works() -> None:
    told = report(
        worker("w1", running=2, queued=6),
        worker("w2", running=2, queued=2),
        Beat("scheduler", "s", 1, 1, 100, queued=4),
    )
    assert series(Reading(1, 2, True, told)) == {
        "up": 1.0, "schedulers": 1.0, "assistants": 2.0, "assistant_leads": 1.0,
        "workers.alive": 2.0, "workers.suspect": 0.0, "workers.dead": 0.0,
        "slots": 4.0, "running": 4.0, "queued": 8.0, "queueing_delay_seconds": 0.15,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reading", "known"),
    [
        (None, {"up": 0.0}),
        (Reading(2, 0, False, None), {"up": 0.0, "schedulers": 2.0, "assistants": 0.0, "assistant_leads": 0.0}),
        (Reading(2, 1, True, None), {"up": 0.0, "schedulers": 2.0, "assistants": 1.0, "assistant_leads": 1.0}),
    ],
)
def test_what_nobody_knows_is_absent_and_not_0(reading: Reading | None, known: dict[str, float]) -> None:
    assert series(reading) == known


def test_workers_that_are_all_at_their_first_task_have_no_delay_yet() -> None:
    found = series(Reading(1, 1, True, report(worker("w1", service_us=0, running=2, queued=9))))
    assert "queueing_delay_seconds" not in found
    assert found["up"] == 1.0


class Source:
    """A cluster that is read, and a clock."""

    def __init__(self) -> None:
        self.reads = 0
        self.now_s = 100.0
        self.fails = False

    def __call__(self) -> Reading:
        self.reads += 1
        if self.fails:
            raise Unavailable("no answer")
        return Reading(self.reads, 1, True, None)


def test_many_scrapes_are_one_reading_until_it_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("sparrowmq.metrics.logs.emit", lambda level, event, fields: said.append(event))
    source = Source()
    collector = ClusterCollector(source, lambda: source.now_s)
    threads = [threading.Thread(target=lambda: list(collector.collect())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5.0)
    assert source.reads == 1
    source.fails = True
    for _ in range(3):  # a failure is kept as well, and said once
        source.now_s += CACHE_S
        for _ in range(5):
            assert [family.name for family in collector.collect()] == ["sparrowmq_up"]
    assert source.reads == 4
    assert said == ["Redis does not answer"]
    source.fails = False
    source.now_s += CACHE_S
    assert len(list(collector.collect())) > 1


@pytest.mark.parametrize("listen", ["9464", "localhost", ":9464", "::1:9464", "127.0.0.1:70000", "127.0.0.1:-1"])
def test_an_address_that_is_none_is_refused(listen: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics", "serve", "--listen", listen]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "metrics.example:0"])
def test_beyond_loopback_it_has_to_be_asked_for(listen: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--redis", "redis://127.0.0.1:1/0", "metrics", "serve", "--listen", listen]) == 4
    assert "--insecure" in capsys.readouterr().err
