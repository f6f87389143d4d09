"""A job's id bears its owner: to clients of any other owner it does not exist, whatever they ask for.

Two listed clients, A and B, and two that share the secret; each refusal here would not be one without its check.
"""

from __future__ import annotations

from typing import Any

import pytest

from sparrowmq.core import effects as fx, report
from sparrowmq.core.keeping import Orphan
from sparrowmq.protocol import messages as m
from tests.support.scheduler import SPEC, World, hello, outcome, result, submit

A, B, C = "a" * 20, "b" * 20, ""
JOB = f"j.{A}"
FORBIDDEN = f"job '{JOB}' would be another owner's: ids of this client's jobs "
DURABLE = m.JobSpec(kind=m.SLEEP, durable=True)


def world(**settings: Any) -> World:
    """Worker w1, and a client of each owner: A twice, by two connections."""
    made = World(workers=1, client=False, client_lease_s=0.2, **settings)
    for name, owner in (("A", A), ("A2", A), ("B", B), ("C", C), ("C2", C)):
        made.hear(name, hello(m.CLIENT, f"client {name}", key=owner or name, owner=owner))
    made.said()
    return made


def running() -> World:
    """A's job runs at w1, has printed something, and one of its three tasks has failed."""
    made = world()
    made.hear("A", submit(3, job=JOB))
    assert made.start("w1", 3, JOB) == [0, 1, 2]
    made.hear("w1", result([2], status=m.FAILED, payload=b"why", job=JOB), m.Output(JOB, 0, 0, 1, 1, b"hidden"))
    made.said()
    return made


def counted(made: World) -> int:
    return int(made.machine.state.counters.get("foreign", 0))


def without_counters(status: m.Status) -> tuple[Any, ...]:
    return status.jobs, status.tasks


@pytest.mark.parametrize("epoch", [0, 1, 7])
@pytest.mark.parametrize(("stranger", "may"), [("B", f"end in .{B}"), ("C", "have no dot: its key is not listed")])
def test_another_owners_job_is_not_submitted_whether_there_is_one_or_not(stranger: str, may: str, epoch: int) -> None:
    for made in (running(), world()):
        made.hear(stranger, submit(1, job=JOB, epoch=epoch))
        assert made.said() == [fx.Send(stranger, m.Rejected(JOB, epoch, "forbidden", FORBIDDEN + may))]
        assert (counted(made), made.machine.state.counters["rejected"]) == (1, 1)
    made = running()
    made.hear(stranger, submit(1, job=JOB, epoch=epoch, detached=True))
    assert [type(effect.message) for effect in made.said() if isinstance(effect, fx.Send)] == [m.Rejected]
    assert (made.job(JOB).client, made.job(JOB).epoch, made.job(JOB).tasks) == ("client A", 0, 3)


def test_who_shares_the_secret_has_no_ids_with_a_dot_nor_has_a_listed_client_any_without() -> None:
    made = world()
    for who, job in (("C", "j.x"), ("C", f"j.{A}"), ("A", "j"), ("A", f"j.{A}x"), ("A", f"{A}"), ("A", f"j.{A}.")):
        made.hear(who, submit(1, job=job))
        [rejected] = made.to(who)
        assert isinstance(rejected, m.Rejected)
        assert (rejected.code, rejected.retry_after_s) == ("forbidden", 0.0), job
    for who, job in (("C", "j"), ("A", f"j.{A}"), ("A", f".{A}"), ("A", f"a.b.{A}")):
        made.hear(who, submit(1, job=job))
        assert isinstance(made.to(who)[0], m.Accepted), job


def test_forbidden_submissions_count_towards_the_rate() -> None:
    from sparrowmq.limits import SchedulerLimits

    made = world(limits=SchedulerLimits(submits_per_s=1.0))
    codes = []
    for _ in range(3):
        made.hear("B", submit(1, job=JOB))
        codes += [message.code for message in made.to("B") if isinstance(message, m.Rejected)]
    assert codes[0] == "forbidden"
    assert "forbidden" not in codes[1:]


@pytest.mark.parametrize("stranger", ["B", "C"])
def test_another_owners_job_is_not_ended_and_who_tries_is_counted(stranger: str) -> None:
    made = running()
    made.hear(stranger, m.Kill(JOB, 0), m.Kill(JOB, 0, [1], 5.0), m.Kill(JOB, 7))
    assert made.said() == []
    assert counted(made) == 3
    made.hear(stranger, m.Recall(4, JOB, 0, [0, 1]))
    assert made.said() == [fx.Send(stranger, m.Returned(4, JOB, 0, []))]
    assert counted(made) == 4
    assert made.job(JOB).launched_on("w1") == [0, 1]
    made.hear("w1", result([0, 1], job=JOB))
    assert made.to("A") == [outcome(2, [0, 1], job=JOB)]


QUESTIONS = (
    m.Query(1, "jobs"), m.Query(1, "job", JOB), m.Query(1, "job", "j"), m.Query(1, "job", ""),
    m.Query(1, "tasks", JOB, [0, 1, 2]), m.Query(1, "tasks", JOB), m.Query(1, "failures", JOB),
)  # fmt: skip


@pytest.mark.parametrize("stranger", ["B", "C"])
@pytest.mark.parametrize("over", [False, True], ids=["unfinished", "over"])
def test_another_owners_job_is_not_looked_up(stranger: str, over: bool) -> None:
    made = running()
    if over:
        made.hear("w1", result([0, 1], job=JOB))
        made.said()
    for question in QUESTIONS:
        assert without_counters(made.ask(question, stranger)) == ([], []), question
        assert without_counters(made.ask(question, "A2")) != ([], []), question
    summary = made.ask(m.Query(1, "summary"), stranger)
    assert (summary.jobs, [row.id for row in summary.workers]) == ([], ["w1"])
    assert summary.counters["jobs_now"] == (0 if over else 1), "the cluster's figures are everybody's"
    assert counted(made) == 0, "to ask is no offence"


@pytest.mark.parametrize("over", [False, True], ids=["unfinished", "over"])
def test_the_newest_jobs_are_those_of_ones_own(over: bool) -> None:
    made = running()
    if over:
        made.hear("w1", result([0, 1], job=JOB))
        made.said()
    for who, jobs in {"A2": [JOB], "B": [], "C": []}.items():
        recent = made.ask(m.Query(1, "recent"), who)
        assert ([row.id for row in recent.jobs], [row.id for row in recent.workers]) == (jobs, ["w1"])


def test_of_the_newest_jobs_few_are_told() -> None:
    made = running()
    for number in range(report.RECENT_OPEN + 5):
        made.hear("C", submit(1, job=f"c{number:03}"))
    made.wait(1.0)  # so much at once has to wait for its turn
    made.said()
    told = [row.id for row in made.ask(m.Query(1, "recent"), "C").jobs]
    assert told == [f"c{number:03}" for number in range(report.RECENT_OPEN + 4, 4, -1)]
    for number in range(report.RECENT_OVER + 5):
        assert made.start("w1", 1, f"c{number:03}") == [0]
        made.hear("w1", result([0], job=f"c{number:03}"))
    made.wait(1.0)
    made.said()
    over = [row.id for row in made.ask(m.Query(1, "recent"), "C").jobs if row.state == "done"]
    assert over == [f"c{number:03}" for number in range(report.RECENT_OVER + 4, 4, -1)]


def test_a_subscription_shows_jobs_of_ones_own() -> None:
    made = running()
    made.hear("C", submit(1, job="c"))
    made.said()
    for who in ("A2", "B", "C2"):
        made.hear(who, m.Subscribe(9, "jobs", 0.1))
    made.wait(0.25)
    shown: dict[str, set[str]] = {}
    for effect in made.said():
        if isinstance(effect, fx.Send) and isinstance(effect.message, m.Status):
            shown.setdefault(effect.peer, set()).update(row.id for row in effect.message.jobs)
    assert shown == {"A2": {JOB}, "B": set(), "C2": {"c"}}


@pytest.mark.parametrize("stranger", ["B", "C"])
@pytest.mark.parametrize("live", [False, True])
def test_another_owners_output_is_not_followed(stranger: str, live: bool) -> None:
    made = running()
    made.hear(stranger, m.Follow(5, JOB, live))
    assert made.said() == [fx.Send(stranger, m.Followed(5, JOB, ""))]
    made.hear(stranger, m.Follow(5, "unknown", live))
    assert made.said() == [fx.Send(stranger, m.Followed(5, "unknown", ""))]
    made.hear("w1", m.Output(JOB, 0, 0, 1, 1, b"more"))
    assert made.said() == []


def test_who_is_of_the_same_owner_sees_follows_and_ends_it() -> None:
    made = running()
    made.hear("A2", m.Follow(5, JOB, True))
    assert made.to("A2") == [m.Output(JOB, 0, 0, 1, 1, b"hidden")]
    [row] = made.ask(m.Query(1, "job", "j"), "A2").jobs
    assert (row.id, row.state) == (JOB, "running")
    made.hear("A2", m.Kill(JOB, 0))
    assert made.to("w1") == [m.Kill(JOB, 0, [0, 1])]
    made.hear("C", submit(1, job="c"))
    made.start("w1", 1, "c")
    made.hear("C2", m.Kill("c", 0))
    assert made.to("w1") == [m.Kill("c", 0, [0])]
    assert counted(made) == 0


def test_what_is_asked_of_another_owners_job_costs_what_an_unknown_one_costs() -> None:
    """Else who is made to wait would learn how large it is."""
    large = f"large.{A}"
    spent = []
    for job in (large, "unknown"):
        made = world()
        made.hear("A", submit(50_000, job=large, payloads=[b""]))
        made.start("w1", 1, large)
        made.hear("w1", m.Output(large, 0, 0, 1, 1, bytes(60_000)))
        made.said()
        made.hear("B", m.Kill(job, 0))
        at_once = made.machine._turns._spent[B]
        for number in range(40):  # more than one key may have looked at in a second, if it could be looked at
            made.hear("B", m.Follow(number, job))
            made.said()
        spent.append((at_once, made.machine._turns._rows.wait_s(made.now, B)))
    assert spent[0] == spent[1]


def test_a_hello_is_told_of_jobs_of_its_owner_only() -> None:
    """Its id was another owner's, whose lease is over."""
    made = world(durable=False)
    made.hear("A", submit(1, job=JOB, detached=True))
    made.lose("A")
    made.wait(0.3)
    assert "client A" not in made.machine.state.clients
    assert made.job(JOB).detached
    made.hear("B2", hello(m.CLIENT, "client A", key=B, owner=B, jobs=[JOB]))
    [welcome] = made.to("B2")
    assert isinstance(welcome, m.Welcome)
    assert welcome.jobs == []
    made.lose("B2")
    made.wait(0.3)
    made.hear("A3", hello(m.CLIENT, "client A", key=A, owner=A, jobs=[JOB]))
    [welcome] = made.to("A3")
    assert isinstance(welcome, m.Welcome)
    assert welcome.jobs == [JOB]


def test_a_key_that_was_listed_meanwhile_is_another_owner() -> None:
    made = world()
    made.hear("C", submit(1, job="c"))
    made.lose("C")
    made.said()
    made.hear("again", hello(m.CLIENT, "client C", key="C", owner=A))
    [refused] = made.to("again")
    assert isinstance(refused, m.Refused)
    assert refused.code == "identity_conflict"


def orphaned_client(made: World) -> None:
    """Client A's lease is over, and B goes by its id."""
    made.lose("A")
    made.wait(0.3)
    made.hear("thief", hello(m.CLIENT, "client A", key=B, owner=B))
    made.said()


@pytest.mark.parametrize("over", [False, True], ids=["unfinished", "over"])
def test_a_job_is_not_submitted_again_by_one_who_goes_by_its_clients_id(over: bool) -> None:
    made = world()
    made.hear("A", submit(1, job=JOB, epoch=1, detached=True))
    made.hear("w1", m.Claimed(JOB, 1, [], []))
    assert made.start("w1", 1, JOB) == [0]
    if over:
        made.hear("w1", result([0], epoch=1, job=JOB))
    orphaned_client(made)
    for epoch in (0, 1, 2):
        for detached in (False, True):
            made.hear("thief", submit(1, job=JOB, epoch=epoch, detached=detached))
            [answer] = [effect.message for effect in made.said() if isinstance(effect, fx.Send)]
            assert isinstance(answer, m.Rejected)
            assert answer.code == "forbidden"
    assert (made.job(JOB).epoch, made.job(JOB).status) == (1, "done" if over else "running")


def test_a_durable_job_that_was_saved_late_is_not_given_to_one_who_goes_by_its_clients_id() -> None:
    made = world(durable=True)
    made.hear("A", submit(1, job=JOB, spec=DURABLE))
    [save] = [effect for effect in made.said() if isinstance(effect, fx.SaveJob)]
    orphaned_client(made)
    made.machine.saved(made.now, save.token)
    assert made.to("thief") == []
    assert made.job(JOB).detached
    assert made.machine.state.clients["client A"].jobs == set()


def test_the_answer_to_a_recall_is_not_for_one_who_goes_by_the_id_of_who_asked() -> None:
    made = world()
    made.hear("A", submit(1, job=JOB, detached=True))
    made.start("w1", 1, JOB)
    made.hear("A", m.Recall(4, JOB, 0, [0]))
    [recall] = made.to("w1")
    assert isinstance(recall, m.Recall)
    orphaned_client(made)
    made.hear("w1", m.Returned(recall.request, JOB, 0, [0], [1]))
    assert made.to("thief") == []
    assert made.job(JOB).status == "cancelled"


def test_nor_is_one_that_waits_for_the_store() -> None:
    made = world(durable=True)
    made.hear("A", submit(2, job=JOB, detached=True, spec=DURABLE))
    [save] = [effect for effect in made.said() if isinstance(effect, fx.SaveJob)]
    made.machine.saved(made.now, save.token)
    made.said()
    made.hear("A", m.Recall(4, JOB, 0, [1]))
    [outcomes] = [effect for effect in made.said() if isinstance(effect, fx.SaveOutcomes)]
    orphaned_client(made)
    made.machine.saved(made.now, outcomes.token)
    assert made.to("thief") == []


def test_a_job_that_was_taken_over_is_none_of_who_goes_by_its_clients_id() -> None:
    made = world(durable=True)
    orphaned_client(made)
    made.machine.orphaned(made.now, [Orphan(submit(1, job=JOB, epoch=1, spec=DURABLE), "client A", 0.0)])
    made.said()
    assert made.job(JOB).payer == A, "the limits of its owner's key go on to bind it"
    made.hear("w1", m.Claimed(JOB, 1, [], []))
    assert made.start("w1", 1, JOB) == [0]
    for message in (m.Kill(JOB, 1), m.Recall(1, JOB, 1, [0]), submit(1, job=JOB, epoch=2, spec=DURABLE)):
        made.hear("thief", message)
    assert [type(message).__name__ for message in made.to("thief")] == ["Returned", "Rejected"]
    made.hear("w1", m.Stale(JOB, 5))
    assert made.to("thief") == [], "nor is it told what became of the job"
    assert made.machine.state.counters["foreign"] == 3


def test_a_job_of_the_same_base_id_is_another_job_everywhere() -> None:
    made = world()
    jobs = {"A": JOB, "B": f"j.{B}", "C": "j"}
    for who, job in jobs.items():
        made.hear(who, submit(1, job=job, spec=SPEC))
        assert isinstance(made.to(who)[0], m.Accepted)
    for who, job in jobs.items():
        assert made.start("w1", 1, job) == [0]
        made.hear("w1", result([0], job=job))
        assert made.to(who) == [outcome(1, [0], job=job)]
    for who, job in jobs.items():
        assert [row.id for row in made.ask(m.Query(1, "job", "j"), who).jobs] == [job]
