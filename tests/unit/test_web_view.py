"""The page's snapshot from readings and a time: whole, true to what the cluster has told, and bounded."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from sparrowmq import limits
from sparrowmq.protocol import messages as m
from sparrowmq.web import incidents, jobs as page_jobs, load, log, strip, view as page
from sparrowmq.web.view import View
from tests.support.web import NOW, beat, job, node, reading, row, status


def states(view: View, now: float) -> dict[str, str]:
    return {tile["id"]: tile["state"] for tile in view.snapshot(now)["tiles"]["rows"]}


def said(view: View) -> list[str]:
    """The event log, oldest first, without the first line."""
    found = [f"{event['name']} {event['text']}".strip() for event in reversed(view.snapshot(NOW)["events"])]
    return found[1:]


def looked(*workers: str) -> View:
    """A view of these workers, all well, as of NOW."""
    view = View()
    view.read(NOW, reading(status(*workers), nodes=[node(id) for id in workers]))
    return view


# -- the whole


def test_before_anything_was_read_nothing_is_claimed() -> None:
    assert View("here", "0.1").snapshot(NOW) == {
        "version": 1,
        "unix_s": NOW,
        "feed": {
            "schedulers": {"state": "waiting", "age_ms": None, "why": ""},
            "store": {"state": "waiting", "age_ms": None, "why": ""},
        },
        "header": {
            "cluster": "here", "package": "0.1", "jobs_running": 0, "jobs_done": 0, "tasks_done": 0,
            "tasks_incomplete": 0, "tasks_per_s": None, "queueing_p50_ms": None, "queueing_p99_ms": None,
            "workers": {"alive": 0, "suspect": 0, "dead": 0, "draining": 0}, "schedulers": 0, "schedulers_answer": 0,
            "assistants": 0, "leader": "", "detector": None,
        },
        "tiles": {"rows": [], "more": 0, "slots": 0, "running": 0},
        "strip": {"window_ms": 10_000, "seen_ms": None, "rows": [], "more": 0},
        "incidents": [],
        "load": {"ago_s": [], "tasks_per_s": [], "running": [], "waiting": []},
        "funnel": {"sent": 0, "bound": 0, "no_ops": 0, "cancelled": 0},
        "jobs": [],
        "events": [],
    }  # fmt: skip


def test_a_cluster_at_work_is_told_whole() -> None:
    view = View()
    counters = {"jobs": 3, "jobs_now": 1, "unplaced_now": 3, "launched_now": 2}
    first = job(unplaced=5, launched=2, counts=[3, 0, 0, 0, 0], probes=20)
    view.read(NOW, reading(status("w1", held=[first], outcomes=3, **counters), nodes=[node("w1")]))
    view.heard(NOW + 0.4, [beat("w1", 0.2, 1), beat("w1", 0.1, 2, running=2, queued=7)])
    second = job(
        unplaced=3, launched=2, counts=[4, 1, 0, 0, 0], probes=20, no_ops=1, queueing_p50_ms=4.0, queueing_p99_ms=9.0
    )
    view.read(NOW + 0.5, reading(status(row("w1", done=5), held=[second], outcomes=5, **counters), nodes=[node("w1")]))
    assert view.snapshot(NOW + 0.6) == {
        "version": 1,
        "unix_s": NOW + 0.6,
        "feed": {
            "schedulers": {"state": "live", "age_ms": 100, "why": ""},
            "store": {"state": "live", "age_ms": 100, "why": ""},
        },
        "header": {
            "cluster": "", "package": "", "jobs_running": 1, "jobs_done": 2, "tasks_done": 5, "tasks_incomplete": 5,
            "tasks_per_s": 4.0, "queueing_p50_ms": 4.0, "queueing_p99_ms": 9.0,
            "workers": {"alive": 1, "suspect": 0, "dead": 0, "draining": 0}, "schedulers": 1, "schedulers_answer": 1,
            "assistants": 1, "leader": "a1",
            "detector": {
                "name": "chen", "deaths": 0, "refuted": 0, "fixed_timeout_ms": 500, "fixed_deaths": 0,
                "fixed_refuted": 0,
            },
        },
        "tiles": {
            "rows": [{
                "id": "w1", "host": "h", "state": "alive", "for_s": 0.6, "rejoined": False, "dropped": False,
                "slots": 2, "running": 2, "queued": 7, "done": 5, "silent_ms": 100, "interval_ms": 100,
                "suspect_after_ms": 300.0,
            }],
            "more": 0,
            "slots": 2,
            "running": 2,
        },
        "strip": {
            "window_ms": 10_000,
            "seen_ms": 200,
            "rows": [{
                "id": "w1", "state": "alive", "beats_ms": [300, 400], "last_ms": 300, "interval_ms": 100,
                "suspect_after_ms": 300.0,
            }],
            "more": 0,
        },
        "incidents": [],
        "load": {"ago_s": [0.1], "tasks_per_s": [4.0], "running": [2], "waiting": [3]},
        "funnel": {"sent": 20, "bound": 7, "no_ops": 1, "cancelled": 0},
        "jobs": [{
            "id": "j1", "name": "", "policy": "late-binding", "state": "running", "tasks": 10, "succeeded": 4,
            "failed": 1, "cancelled": 0, "running": 2, "waiting": 3, "relaunches": 0, "balanced": True,
            "response_s": 0.0, "queueing_p50_ms": 4.0, "queueing_p99_ms": 9.0,
        }],
        "events": [{
            "n": 1, "unix_s": NOW, "level": "info", "name": "",
            "text": "this page began to look: 1 worker, 1 scheduler",
        }],
    }  # fmt: skip


# -- workers


def test_the_assistants_word_counts_first() -> None:
    view = looked("w1", "w2", "w3")
    nodes = [node("w1", "suspect"), node("w2", "dead"), node("w3")]
    view.read(NOW + 1, reading(status("w1", "w2", row("w3", "draining")), nodes=nodes))
    assert states(view, NOW + 1) == {"w1": "suspect", "w2": "dead", "w3": "draining"}
    assert said(view) == ["w1 suspect", "w2 dead", "w3 drains"]


def test_a_worker_that_every_scheduler_has_taken_off_its_list_is_suspect_before_silence_proves_anything() -> None:
    view = looked("w1", "w2")
    view.read(NOW + 1, reading(status("w1"), nodes=[node("w1"), node("w2")]))
    view.read(NOW + 2, reading(status("w1"), nodes=[node("w1"), node("w2")]))
    assert states(view, NOW + 2) == {"w1": "alive", "w2": "suspect"}
    assert said(view) == ["w2 given up by its schedulers"]


def test_a_scheduler_that_is_new_has_given_up_nobody() -> None:
    view = looked("w1")
    view.read(NOW + 1, reading(status(scheduler="s2"), nodes=[node("w1")]))
    assert states(view, NOW + 1) == {"w1": "alive"}
    assert said(view) == ["s2 scheduler answers", "s1 scheduler does not answer"]


def test_a_worker_that_leaves_in_order_is_gone_and_no_death() -> None:
    view = looked("w1", "w2")
    view.read(NOW + 1, reading(status("w1"), nodes=[node("w1")]))
    assert states(view, NOW + 1) == {"w1": "alive"}
    assert view.snapshot(NOW + 1)["incidents"] == []
    assert said(view) == ["w2 left"]


def test_without_an_assistant_a_scheduler_that_has_lost_it_says_who_is_dead() -> None:
    view = View()
    view.read(NOW, reading(status("w1", "w2", workers_lost=0))._replace(report=None))
    view.read(NOW + 1, reading(status("w1", workers_lost=1))._replace(report=None))
    assert states(view, NOW + 1) == {"w1": "alive", "w2": "dead"}
    (card,) = view.snapshot(NOW + 1)["incidents"]
    assert [name for name, value in card.items() if name.endswith("_unix_s") and value is not None] == [
        "noticed_unix_s"
    ]
    view.read(NOW + 100, reading(status("w1", workers_lost=1))._replace(report=None))
    assert states(view, NOW + 100) == {"w1": "alive"}


def test_a_report_that_is_old_is_nobodys_word() -> None:
    view = looked("w1")
    view.read(NOW + 10, reading(status("w1"), nodes=[node("w1", "dead")]))
    assert states(view, NOW + 10) == {"w1": "alive"}
    assert view.snapshot(NOW + 10)["header"]["detector"] is None


def test_who_comes_back_from_the_dead_is_said_to_have_rejoined_for_a_while() -> None:
    view = looked("w1")
    view.read(NOW + 1, reading(status("w1"), nodes=[node("w1", "dead")], at_s=NOW + 1))
    view.read(NOW + 2, reading(status("w1"), nodes=[node("w1")], at_s=NOW + 2))
    assert view.snapshot(NOW + 3)["tiles"]["rows"][0]["rejoined"] is True
    assert view.snapshot(NOW + 30)["tiles"]["rows"][0]["rejoined"] is False
    (card,) = view.snapshot(NOW + 3)["incidents"]
    assert card["rejoined_unix_s"] == NOW + 2
    assert said(view) == ["w1 dead", "w1 rejoined"]


def test_beyond_two_hundred_workers_those_come_first_of_which_there_is_something_to_see() -> None:
    names = [f"w{number:04}" for number in range(500)]
    view = looked(*names)
    nodes = [node(name, "dead" if name == "w0499" else "alive") for name in names]
    view.read(NOW + 1, reading(status(*names), nodes=nodes))
    tiles = view.snapshot(NOW + 1)["tiles"]
    assert [tile["id"] for tile in tiles["rows"]] == [*names[:199], "w0499"]
    assert tiles["more"] == 300
    view.heard(NOW + 1, [beat("w0499", 2.0)])
    assert [one["id"] for one in view.snapshot(NOW + 1)["strip"]["rows"]] == [*names[:11], "w0499"]
    assert [one["id"] for one in view.snapshot(NOW + 11)["strip"]["rows"]] == names[:12]  # its beats are out of sight


# -- deaths

LOST = m.Event(NOW + 1.02, "lost", 1, "w1", "its connection was lost")


def task(index: int, *events: m.Event, state: str = "launched") -> m.TaskStatus:
    return m.TaskStatus("j1", index, state, 1, "w2", 0, list(events))


def with_a_death() -> View:
    """w1 had tasks, was given up, suspected and declared dead; its scheduler has placed two tasks again."""
    view = View()
    view.read(NOW, reading(status("w1", "w2", held=[job(unplaced=4, launched=4)]), nodes=[node("w1"), node("w2")]))
    again = job(unplaced=4, launched=4, relaunches=2)
    gone = node(
        "w1", "dead", heard_unix_s=NOW + 1.0, suspected_unix_s=NOW + 1.3, suspicions=1, state_since_unix_s=NOW + 1.5
    )
    view.read(NOW + 1.6, reading(status("w2", held=[again], workers_lost=1), nodes=[gone, node("w2")], at_s=NOW + 1.6))
    return view


def card(view: View) -> dict[str, Any]:
    (found,) = view.snapshot(NOW + 5)["incidents"]
    return found


def test_a_death_has_the_moments_that_the_cluster_has_told_and_no_others() -> None:
    view = with_a_death()
    assert card(view) == {
        "n": 1, "worker": "w1", "noticed_unix_s": NOW + 1.6, "silent_unix_s": NOW + 1.0, "given_up_unix_s": None,
        "suspected_unix_s": NOW + 1.3, "declared_unix_s": NOW + 1.5, "rejoined_unix_s": None, "why": "",
        "tasks_lost": 0, "tasks_again": 0, "tasks_ended": 0, "last_again_unix_s": None,
    }  # fmt: skip
    assert view.questions(NOW + 1.6) == [("j1", range(0, 10))]
    assert view.questions(NOW + 1.7) == []  # it has been asked
    waits = task(3, LOST, state="unplaced")
    runs = task(2, LOST, m.Event(NOW + 1.05, "launched", 2, "w2"))
    view.told(NOW + 1.7, "j1", [runs, waits])
    assert card(view) | {"given_up_unix_s": NOW + 1.02, "why": "its connection was lost"} == card(view)
    assert [card(view)[name] for name in ("tasks_lost", "tasks_again", "last_again_unix_s")] == [2, 1, NOW + 1.05]
    assert view.questions(NOW + 3.0) == [("j1", [3])]  # the one that still waits
    view.told(NOW + 3.1, "j1", [task(3, LOST, m.Event(NOW + 2.9, "launched", 2, "w2"))])
    assert [card(view)[name] for name in ("tasks_lost", "tasks_again", "last_again_unix_s")] == [2, 2, NOW + 2.9]
    assert view.questions(NOW + 9.0) == []


def test_tasks_that_were_lost_for_good_do_not_run_again_and_are_not_waited_for() -> None:
    view = with_a_death()
    assert view.questions(NOW + 1.6)
    view.told(NOW + 1.7, "j1", [task(2, LOST, m.Event(NOW + 1.02, "lost", 1, "w1"), state="lost")])
    assert [card(view)[name] for name in ("tasks_lost", "tasks_again", "tasks_ended")] == [1, 0, 1]
    assert view.questions(NOW + 9.0) == []


def test_losses_of_another_time_belong_to_no_death() -> None:
    view = with_a_death()
    old = msgspec.structs.replace(LOST, unix_s=NOW - 3600.0)
    view.told(NOW + 1.7, "j1", [task(2, old), task(3, msgspec.structs.replace(LOST, worker="w2"))])
    assert card(view)["tasks_lost"] == 0


def test_tasks_that_are_placed_again_while_nobody_dies_are_not_asked_for() -> None:
    view = looked("w1")
    view.read(NOW + 1, reading(status("w1", held=[job()]), nodes=[node("w1")]))
    view.read(NOW + 2, reading(status("w1", held=[job(relaunches=5)]), nodes=[node("w1")]))
    assert view.questions(NOW + 2) == []


def test_of_a_large_job_those_tasks_are_asked_for_that_were_placed_last() -> None:
    view = View()
    view.read(NOW, reading(status("w1", held=[job(tasks=90_000, unplaced=40_000, launched=50)]), nodes=[node("w1")]))
    again = job(tasks=90_000, unplaced=39_990, launched=50, relaunches=5)
    view.read(NOW + 1, reading(status(held=[again]), nodes=[node("w1")]))
    ((name, indices),) = view.questions(NOW + 1)
    assert (name, indices) == ("j1", range(49_110, 50_110))
    assert len(indices) == limits.TASK_ROWS_MAX


def test_a_suspicion_that_is_over_leaves_no_card() -> None:
    view = looked("w1")
    view.read(NOW + 1, reading(status("w1"), nodes=[node("w1", "suspect")], at_s=NOW + 1))
    view.read(NOW + 2, reading(status("w1"), nodes=[node("w1")], at_s=NOW + 2))
    assert view.snapshot(NOW + 2)["incidents"] == []
    assert said(view) == ["w1 suspect", "w1 suspicion over"]


# -- what is stale


def test_data_grows_old_and_the_reason_is_said_once() -> None:
    view = looked("w1")
    view.failed(NOW + 1, "none of 2 schedulers answers")
    view.failed(NOW + 2, "none of 2 schedulers answers")
    assert view.snapshot(NOW + 3)["feed"]["schedulers"]["state"] == "live"
    assert view.snapshot(NOW + 4)["feed"]["schedulers"] == {
        "state": "stale", "age_ms": 4000, "why": "none of 2 schedulers answers",
    }  # fmt: skip
    view.read(NOW + 5, reading(status("w1"), nodes=[node("w1")], at_s=NOW + 5))
    assert view.snapshot(NOW + 5)["feed"]["schedulers"] == {"state": "live", "age_ms": 0, "why": ""}
    assert said(view) == ["none of 2 schedulers answers", "schedulers answer again"]


def test_without_redis_the_schedulers_go_on_and_nobody_is_declared_dead_or_leaderless() -> None:
    view = looked("w1")
    view.heard(NOW, [beat("w1")])
    down = reading(status("w1"))._replace(report=None, leader="", assistants=0, store_why="Redis does not answer")
    view.read(NOW + 9, down)
    found = view.snapshot(NOW + 9)
    assert found["feed"]["schedulers"]["state"] == "live"
    assert found["feed"]["store"] == {"state": "stale", "age_ms": 9000, "why": "Redis does not answer"}
    assert (found["header"]["leader"], states(view, NOW + 9)) == ("a1", {"w1": "alive"})
    assert found["tiles"]["rows"][0]["silent_ms"] == 0  # silence is judged up to the last look only
    assert said(view) == ["Redis does not answer"]


def test_when_no_scheduler_answers_the_last_picture_stays() -> None:
    view = looked("w1")
    view.read(NOW + 1, reading(schedulers=2))
    assert states(view, NOW + 1) == {"w1": "alive"}
    assert view.snapshot(NOW + 9)["feed"]["schedulers"]["why"] == "no scheduler answers (none of 2 registered)"


def test_after_a_rest_old_data_are_no_news() -> None:
    view = looked("w1")
    view.rest()
    assert view.snapshot(NOW + 900)["feed"]["schedulers"] == {"state": "waiting", "age_ms": None, "why": ""}


# -- sums


def test_tasks_of_a_scheduler_that_is_gone_still_count() -> None:
    view = View()
    view.read(NOW, reading(status(scheduler="s1", outcomes=5, held=[]), status(scheduler="s2", outcomes=7)))
    view.read(NOW + 1, reading(status(scheduler="s2", outcomes=9)))
    view.read(NOW + 2, reading(status(scheduler="s2", outcomes=9), status(scheduler="s3", outcomes=1)))
    found = view.snapshot(NOW + 2)
    assert found["header"]["tasks_done"] == 15
    assert found["load"]["tasks_per_s"] == [2.0, 0.0]  # what s3 did before it was seen is no rate


def test_a_time_in_which_nobody_read_is_a_gap() -> None:
    found = load.Load()
    for at_s, ended in ((0.0, 0), (0.5, 10), (60.0, 100), (60.5, 110)):
        found.read(NOW + at_s, {"s": ended}, 1, 2)
    assert found.rows(NOW + 60.5)["tasks_per_s"] == [20.0, None, 1.5, 20.0]


def test_probes_are_summed_over_jobs_that_schedulers_have_forgotten() -> None:
    view = View()
    view.read(NOW, reading(status(held=[job("j1", probes=20, counts=[10, 0, 0, 0, 0], cancels=9, state="done")])))
    view.read(NOW + 1, reading(status(held=[job("j2", probes=4, counts=[0, 0, 0, 10, 0], state="cancelled")])))
    assert view.snapshot(NOW + 1)["funnel"] == {"sent": 24, "bound": 10, "no_ops": 0, "cancelled": 9}


def test_a_job_with_failures_is_failed_and_one_that_does_not_add_up_says_so() -> None:
    view = View()
    rows = [job("j1", state="done", counts=[8, 1, 0, 0, 1]), job("j2", counts=[1, 0, 0, 0, 0], launched=3)]
    view.read(NOW, reading(status(held=rows)))
    shown = view.snapshot(NOW)["jobs"]
    assert [(one["id"], one["state"], one["failed"], one["balanced"]) for one in shown] == [
        ("j2", "running", 0, False),
        ("j1", "failed", 2, True),
    ]


def test_queueing_is_that_of_the_recent_jobs() -> None:
    view = View()
    ran = {"state": "done", "response_s": 1.0, "counts": [10, 0, 0, 0, 0]}
    old = job("j1", submitted_unix_s=NOW - 900, queueing_p50_ms=500.0, queueing_p99_ms=900.0, **ran)
    view.read(NOW, reading(status(held=[old])))
    assert view.snapshot(NOW)["header"]["queueing_p99_ms"] == 900.0  # none ran later
    short = job("j2", submitted_unix_s=NOW - 9, queueing_p50_ms=2.0, queueing_p99_ms=5.0, **ran)
    view.read(NOW, reading(status(held=[old, short])))
    head = view.snapshot(NOW)["header"]
    assert (head["queueing_p50_ms"], head["queueing_p99_ms"]) == (2.0, 5.0)


# -- beats


def test_beats_leave_the_window_and_a_worker_that_leaves_takes_its_own() -> None:
    view = looked("w1", "w2")
    view.heard(NOW, [beat("w1", 9.5), beat("w1", 0.0, 2), beat("w2", 0.0)])
    view.heard(NOW + 1, [beat("w2", 0.0, 2, leaving=True)])
    first, second = view.snapshot(NOW + 1)["strip"]["rows"]
    assert (first["beats_ms"], first["last_ms"]) == ([1000], 1000)
    assert (second["beats_ms"], second["last_ms"]) == ([], None)


def test_beats_of_an_incarnation_that_is_over_do_not_count() -> None:
    found = strip.Strip()
    found.hear(NOW, [beat("w1", incarnation=5), beat("w1", incarnation=4)])
    assert found.ticks_ms("w1", NOW) == [0]


# -- bounds

names = st.sampled_from([f"w{number}" for number in range(300)])
worker_rows = st.dictionaries(names, st.sampled_from(["alive", "suspect", "draining", "lost"]), max_size=300)
judged = st.dictionaries(names, st.sampled_from(["alive", "suspect", "dead"]), max_size=300)
ledgers = st.lists(st.tuples(st.integers(0, 99), st.integers(0, 50), st.booleans()), max_size=60)
looks = st.tuples(st.sampled_from(["s1", "s2", "s3"]), worker_rows, judged, ledgers, st.integers(0, 9))


def a_reading(look: Any, now: float) -> Any:
    scheduler, rows, nodes, held, lost = look
    rows_of_jobs = [
        job(f"j{name}", relaunches=again, counts=[10, 0, 0, 0, 0], state="done" if over else "running")
        for name, again, over in {name: (name, again, over) for name, again, over in held}.values()
    ]
    one = status(
        *(row(id, state) for id, state in rows.items()), held=rows_of_jobs, scheduler=scheduler, workers_lost=lost
    )
    return reading(one, nodes=[node(id, state) for id, state in nodes.items()], at_s=now)


@settings(max_examples=60, deadline=None)
@given(st.lists(looks, max_size=12), st.lists(st.lists(names, max_size=50), max_size=12))
def test_whatever_is_read_a_snapshot_is_bounded_and_plain(found: list[Any], beats: list[list[str]]) -> None:
    view = View()
    now = NOW
    for look in found:
        now += 0.5
        view.read(now, a_reading(look, now))
        for name, indices in view.questions(now):
            assert len(indices) <= limits.TASK_ROWS_MAX
            view.told(now, name, [task(1, msgspec.structs.replace(LOST, worker=f"w{n}", unix_s=now)) for n in range(9)])
    for number, ids in enumerate(beats):
        view.heard(now, [beat(id, 0.0, number) for id in ids])
    snapshot = view.snapshot(now)
    assert len(snapshot["tiles"]["rows"]) <= page.TILES_MAX
    assert len(snapshot["strip"]["rows"]) <= page.STRIP_MAX
    assert all(len(one["beats_ms"]) <= strip.BEATS_MAX for one in snapshot["strip"]["rows"])
    assert len(snapshot["incidents"]) <= incidents.INCIDENTS_MAX
    assert len(snapshot["events"]) <= log.EVENTS_MAX + log.JOBS_MAX
    assert len(snapshot["jobs"]) <= page_jobs.ROWS_MAX
    assert len(snapshot["load"]["ago_s"]) <= load.POINTS_MAX
    assert sum(snapshot["header"]["workers"].values()) == len(snapshot["tiles"]["rows"]) + snapshot["tiles"]["more"]
    assert msgspec.json.decode(msgspec.json.encode(snapshot)) == snapshot


def test_many_short_jobs_do_not_drive_a_death_out_of_the_log() -> None:
    view = looked("w1")
    view.read(NOW + 1, reading(status("w1"), nodes=[node("w1", "dead")]))
    for number in range(200):
        for held in (job(f"j{number}"), job(f"j{number}", state="done")):
            view.read(NOW + 1, reading(status("w1", held=[held]), nodes=[node("w1", "dead")]))
    assert said(view)[0] == "w1 dead"
    assert len(said(view)) == 1 + log.JOBS_MAX


@pytest.mark.parametrize("times", [1, 40])
def test_many_changes_at_once_are_one_line(times: int) -> None:
    view = looked("w0")
    many = [f"v{number}" for number in range(times)]
    view.read(NOW + 1, reading(status("w0", *many), nodes=[node(id) for id in ("w0", *many)]))
    assert said(view) == (["v0 joined"] if times == 1 else ["40 workers joined"])
