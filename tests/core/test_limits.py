"""What one client's key may have done, and that no client, whatever it sends, takes the others' turns."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from sparrowmq import ids, limits
from sparrowmq.core import effects as fx, haste, quotas, turns
from sparrowmq.core.chatter import CHATTER_PER_S
from sparrowmq.core.quotas import Quota
from sparrowmq.core.session import Session
from sparrowmq.protocol import messages as m
from sparrowmq.settings import ClientSettings, SchedulerSettings
from tests.support.scheduler import CLIENT, SPEC, World, hello, result, submit
from tests.support.sim import cluster, succeeded

OTHER = "other client's connection"
DURABLE = msgspec.structs.replace(SPEC, durable=True)


def limited(workers: int = 0, **bounds: Any) -> World:
    """A scheduler with these limits and two clients, each with a key of its own."""
    world = World(workers=workers, client=False, limits=limits.SchedulerLimits(**bounds))
    world.hear(CLIENT, hello(m.CLIENT, "c1", key="k1"))
    world.hear(OTHER, hello(m.CLIENT, "c2", key="k2"))
    world.said()
    return world


def sends(world: World) -> list[tuple[Any, m.AnyMessage]]:
    """All that it wants done, which is to send; without the questions whether workers are there."""
    effects = [effect for effect in world.said() if not isinstance(effect, fx.Look)]
    assert all(isinstance(effect, fx.Send) for effect in effects)
    return [(e.peer, e.message) for e in effects if isinstance(e, fx.Send) and not isinstance(e.message, m.Ping)]


# -- how fast jobs come in


def too_soon(job: str, after_s: float, rate: str) -> m.Rejected:
    detail = f"s1 takes {rate} jobs a second of one client's key (scheduler.limits.submits_per_s)"
    return m.Rejected(job, 0, m.TOO_SOON, detail, pytest.approx(after_s))


def test_submissions_beyond_the_rate_are_told_when_to_come_back() -> None:
    world = limited(submits_per_s=2.0)
    world.hear(CLIENT, *(submit(1, job=job) for job in "abcde"))
    assert sends(world) == [
        (CLIENT, m.Accepted("a", 0, 0)),
        (CLIENT, m.Accepted("b", 0, 0)),
        (CLIENT, too_soon("c", 0.5, "2")),
        (CLIENT, too_soon("d", 0.5, "2")),
        (CLIENT, too_soon("e", 0.5, "2")),
    ]
    assert set(world.machine.state.jobs) == {"a", "b"}
    for job in "cde":  # those who come when they were told to are taken
        world.wait(0.5)
        world.hear(CLIENT, submit(1, job=job))
        assert sends(world) == [(CLIENT, m.Accepted(job, 0, 0))]


def heedless(world: World, submissions: int = 10_000) -> int:
    """Submit at once; return how often that was answered before the scheduler had had enough."""
    for k in range(submissions):
        if CLIENT not in world.machine.state.peers:
            return k
        world.machine._turns.over()  # each in a turn of its own: shares are not what this is about
        world.hear(CLIENT, submit(1, job=f"late-{k}"))
    return submissions


def test_who_goes_on_after_it_has_heard_to_wait_is_sent_away_and_its_key_with_it() -> None:
    world = limited(submits_per_s=2.0)
    world.hear(CLIENT, *(submit(1, job=job) for job in "abc"))
    effects = world.said()
    assert effects[2:] == [fx.Send(CLIENT, too_soon("c", 0.5, "2")), fx.Send(CLIENT, m.Ping(1))]
    world.hear(CLIENT, m.Pong(1))
    refusals_max = haste.REFUSALS * 2.0 + haste.REFUSALS_PER_S
    assert heedless(world) == refusals_max
    detail = (
        "c1 was told that s1 takes 2 jobs a second of its key (scheduler.limits.submits_per_s), and has had 68 more "
        "refused within a second"
    )
    assert world.said()[-2:] == [fx.Send(CLIENT, m.Refused("busy", detail)), fx.Close(CLIENT)]
    world.wait(4.0)
    world.said()
    world.hear("again", hello(m.CLIENT, "c3", key="k1"))
    barred = "clients of this key were sent away by s1 for asking too much; wait 6.0 s"
    assert world.said() == [fx.Send("again", m.Refused("busy", barred)), fx.Close("again")]
    world.wait(6.1)
    world.said()
    world.hear("again 2", hello(m.CLIENT, "c3", key="k1"))
    assert sends(world) == [("again 2", m.Welcome("s1", 7, ""))]
    assert world.machine.state.counters["sent_away"] == 1


def test_one_that_knows_has_as_many_under_way_as_were_taken_and_they_may_come_together() -> None:
    """As when the network or the scheduler has stood still. It is not held against it; a second time it is."""
    world = limited(submits_per_s=2.0)
    world.hear(CLIENT, *(submit(1, job=job) for job in "abc"), m.Pong(1))
    for k in range(200):
        world.wait(0.5)
        world.hear(CLIENT, submit(1, job=f"j{k}"))
        assert m.Accepted in [type(message) for _, message in sends(world)]
    for k in range(200):
        world.hear(CLIENT, submit(1, job=f"late-{k}"))
        assert [type(message) for _, message in sends(world)] == [m.Rejected]
    assert heedless(world) == haste.REFUSALS * 2.0 + haste.REFUSALS_PER_S


def test_who_has_not_heard_of_it_yet_is_not_held_to_it() -> None:
    """What it has sent before is refused, in its turns, and costs it nothing; some of it after the answer has come."""
    world = limited(submits_per_s=2.0)
    world.hear(CLIENT, *(submit(1, job=f"j{k}") for k in range(5000)))
    effects = world.said()
    assert effects[2:5] == [
        fx.Send(CLIENT, too_soon("j2", 0.5, "2")),
        fx.Send(CLIENT, m.Ping(1)),
        fx.Send(CLIENT, too_soon("j3", 0.5, "2")),
    ]
    answers: list[m.AnyMessage] = [e.message for e in effects[2:] if isinstance(e, fx.Send)]
    world.hear(CLIENT, m.Ping(5), m.Pong(7), m.Pong(1))
    assert len(world.machine._turns) > 4000
    while len(world.machine._turns):
        world.wait(0.0)
        some = [message for _, message in sends(world)]
        assert some
        answers += some
    refused = [message.job for message in answers if isinstance(message, m.Rejected)]
    assert (refused, answers[-1]) == ([f"j{k}" for k in range(2, 5000)], m.Pong(5))
    assert CLIENT in world.machine.state.peers


def test_who_does_not_answer_hears_of_each_and_one_who_sends_on_for_ever_is_sent_away() -> None:
    """A silent scheduler would be taken for dead, and what waited for an answer of minutes would fill its memory."""
    world = limited(submits_per_s=2.0, payload_bytes=4_000)
    world.hear(CLIENT, submit(1, job="a"), submit(1, job="b"), submit(1, job="c"))
    world.said()
    for number in range(haste.UNHEARD_MAX):
        world.hear(CLIENT, submit(1, job="d", payloads=[b"x" * 300]))
        world.now += 1e-6
        assert sends(world) == [(CLIENT, too_soon("d", 0.5 - 1e-6 * number, "2"))]
    assert len(world.machine._turns) == 0
    world.hear(CLIENT, submit(1, job="last"))
    detail = (
        "c1 was told that it submits too fast (scheduler.limits.submits_per_s), does not answer, and has had "
        "20,001 more refused"
    )
    assert world.said()[-2:] == [fx.Send(CLIENT, m.Refused("busy", detail)), fx.Close(CLIENT)]
    assert world.machine.state.counters["sent_away"] == 1


def test_what_a_client_knew_over_its_last_connection_it_may_have_forgotten() -> None:
    world = limited(submits_per_s=2.0)
    world.hear(CLIENT, *(submit(1, job=job) for job in "abc"), m.Pong(1))
    world.hear("again", hello(m.CLIENT, "c1", key="k1", connection=2))
    for k in range(1000):
        world.hear("again", submit(1, job=f"late-{k}"))
        world.said()
    assert "again" in world.machine.state.peers


def test_one_key_is_not_held_to_what_another_has_used_up() -> None:
    world = limited(submits_per_s=1.0)
    world.hear(CLIENT, submit(1, job="a"), submit(1, job="b"))
    world.hear(OTHER, submit(1, job="c"))
    assert sends(world) == [
        (CLIENT, m.Accepted("a", 0, 0)),
        (CLIENT, too_soon("b", 1.0, "1")),
        (OTHER, m.Accepted("c", 0, 0)),
    ]


def test_clients_with_one_key_share_its_rate_and_without_keys_each_has_its_own() -> None:
    for key, taken in (("k1", 1), ("", 2)):
        world = World(client=False, limits=limits.SchedulerLimits(submits_per_s=1.0))
        for name in ("x", "y"):
            world.hear(name, hello(m.CLIENT, name, key=key))
            world.hear(name, submit(1, job=name))
        assert len(world.machine.state.jobs) == taken


def test_the_same_job_again_costs_nothing() -> None:
    world = limited(submits_per_s=1.0)
    world.hear(CLIENT, submit(1, job="a"), submit(1, job="a"), submit(1, job="a"))
    assert sends(world) == [(CLIENT, m.Accepted("a", 0, 0))] * 3


def test_a_later_epoch_is_taken_at_once_and_costs_as_much_as_a_job() -> None:
    """Its scheduler is gone: workers will not keep for long what they have run of it."""
    world = limited(submits_per_s=1.0)
    world.hear(CLIENT, submit(1, job="a"), submit(1, job="a", epoch=1), submit(1, job="b", epoch=3), submit(1, job="c"))
    assert sends(world) == [
        (CLIENT, m.Accepted("a", 0, 0)),
        (CLIENT, m.Accepted("a", 1, 0)),
        (CLIENT, m.Accepted("b", 3, 0)),
        (CLIENT, too_soon("c", 3.0, "1")),
    ]


def test_what_may_run_once_only_is_not_lost_because_its_client_is_paced() -> None:
    """What workers have run for the dead scheduler is fetched before they forget it."""
    bounds = limits.SchedulerLimits(submits_per_s=5.0)
    world = cluster(workers=10, slots=4, schedulers=2, scheduler=SchedulerSettings(limits=bounds))
    jobs = [world.submit([5.0], at_most_once=True) for _ in range(100)]
    world.run(12.0)
    home = world.client("client-1")._home
    assert home is not None
    world.crash(home.scheduler)
    world.finish()
    assert all(succeeded(world, job) for job in jobs)


def test_what_later_epochs_owe_is_bounded() -> None:
    """Each has all workers asked what they have of it."""
    world = limited(submits_per_s=1.0)
    for epoch in range(haste.MOVED_MAX + 3):
        world.hear(CLIENT, submit(1, job="a", epoch=epoch))
        said = sends(world)
    assert world.job("a").epoch == haste.MOVED_MAX
    assert said == [(CLIENT, m.Rejected("a", haste.MOVED_MAX + 2, m.TOO_SOON, too_soon("a", 0, "1").detail, 60.0))]


def test_a_later_epoch_that_is_to_come_again_is_paid_for_once() -> None:
    """While Redis does not answer each is tried twice a second: its key would owe a thousand jobs for one."""
    world = World(workers=1, durable=True, limits=limits.SchedulerLimits(submits_per_s=1.0))
    world.said()
    again = submit(1, job="a", epoch=1, spec=DURABLE)
    for token in range(1, 100):
        world.hear(CLIENT, again)
        assert world.said() == [fx.SaveJob(token, "c1", again, 1, world.now)]
        world.machine.saved(world.now, token, "no answer")
        assert sends(world) == [(CLIENT, m.Rejected("a", 1, "store_unavailable", "no answer", 0.5))]
    world.hear(CLIENT, submit(1, job="b"), submit(1, job="c"))
    assert [message for peer, message in sends(world) if peer == CLIENT] == [
        m.Accepted("b", 0, 1),
        too_soon("c", 1.0, "1"),
    ]


def test_what_was_given_back_does_not_let_a_flood_in() -> None:
    """Of later epochs while Redis does not answer: these are counted, too, but for as many as an honest key has."""
    world = World(workers=1, durable=True, limits=limits.SchedulerLimits(submits_per_s=1.0))
    world.said()
    refused = 0
    for token in range(1, 10_000):
        world.hear(CLIENT, submit(1, job="a", epoch=1, spec=DURABLE))
        said = world.said()
        if not any(isinstance(effect, fx.SaveJob) for effect in said):
            assert said[0] == fx.Send(CLIENT, m.Rejected("a", 1, m.TOO_SOON, too_soon("a", 0, "1").detail, 60.0))
            break
        world.machine.saved(world.now, token, "no answer")
        world.said()
        refused += 1
    assert refused == haste.REFUNDS_PER_S + haste.MOVED_MAX + 1


def test_a_job_with_too_many_tasks_names_both_numbers() -> None:
    world = limited(tasks_per_job=3)
    world.hear(CLIENT, submit(3, job="a"), submit(4, job="b"))
    detail = "4 tasks in one job: the limit of s1 is 3; split the job"
    assert sends(world) == [(CLIENT, m.Accepted("a", 0, 0)), (CLIENT, m.Rejected("b", 0, "too_large", detail, 0.0))]


def test_an_honest_client_above_the_rate_is_slowed_down_and_loses_nothing() -> None:
    """40 jobs at once against 2 a second: that takes much longer than a client waits for a scheduler that is full."""
    bounds = limits.SchedulerLimits(submits_per_s=2.0, probes_per_s=20.0)
    world = cluster(
        workers=2, scheduler=SchedulerSettings(limits=bounds), client=ClientSettings(unavailable_after_s=3.0)
    )
    began = world.now
    jobs = [world.submit([0.01] * 5) for _ in range(40)]
    world.finish()
    assert all(succeeded(world, job) for job in jobs)
    assert 18.0 < world.now - began < 30.0
    assert world.sent["Rejected"] < 100, "each comes back when it was told to, and not much more often"


@pytest.mark.parametrize(("rate", "clients", "jobs"), [(40.0, 1, 100), (1.0, 3, 6), (20.0, 3, 40)])
def test_honest_clients_use_their_rate_up_and_are_never_sent_away(rate: float, clients: int, jobs: int) -> None:
    """All of them with one key, and jobs at once; then again."""
    bounds = limits.SchedulerLimits(submits_per_s=rate)
    world = cluster(workers=4, scheduler=SchedulerSettings(limits=bounds))
    for _ in range(clients - 1):
        world.add_client()
    world.run(0.1)
    for _ in range(2):
        began = world.now
        made = [world.submit([0.0001], client=f"client-{1 + k % clients}") for k in range(jobs * clients)]
        world.finish()
        assert all(succeeded(world, job) for job in made)
        assert world.now - began < 1.1 * jobs / rate + 3.0
    assert world.sent["Refused"] == 0
    assert world.sent["Rejected"] < 5 * jobs * clients


def test_limits_hold_nothing_up_for_good_when_workers_die() -> None:
    bounds = limits.SchedulerLimits(submits_per_s=20.0, probes_per_s=20.0)
    world = cluster(workers=4, scheduler=SchedulerSettings(limits=bounds))
    world.add_client()
    world.run(0.1)
    for client in ("client-1", "client-2"):
        for _ in range(30):
            world.submit([0.02] * 4, client=client)
    world.run(1.0)
    world.crash("worker-1")
    world.run(1.0)
    world.crash("worker-2")
    world.restart("worker-1")
    world.finish()


# -- how fast tasks are placed


def test_probes_beyond_the_rate_are_sent_later_and_only_those_of_that_key() -> None:
    world = limited(workers=4, probes_per_s=4.0)
    world.hear(CLIENT, submit(2, job="a"), submit(1, job="b"))
    first = sends(world)
    assert [(peer, type(message)) for peer, message in first if peer == CLIENT] == [(CLIENT, m.Accepted)] * 2
    probes = [message for _, message in first if isinstance(message, m.Probe)]
    assert (sum(probe.count for probe in probes), {probe.job for probe in probes}) == (4, {"a"})
    world.hear(OTHER, submit(1, job="c"))
    assert {message.job for _, message in sends(world) if isinstance(message, m.Probe)} == {"c"}
    world.wait(0.2)
    assert sends(world) == []
    world.wait(0.1)
    assert {message.job for _, message in sends(world) if isinstance(message, m.Probe)} == {"b"}


def test_a_job_larger_than_the_rate_is_placed_and_the_next_waits_for_it() -> None:
    world = limited(workers=2, probes_per_s=2.0)
    world.hear(CLIENT, submit(10, job="a"), submit(1, job="b"))
    assert {message.job for _, message in sends(world) if isinstance(message, m.Probe)} == {"a"}
    world.wait(9.4)  # 20 probes, of which 2 were free
    assert sends(world) == []
    world.wait(0.2)
    assert {message.job for _, message in sends(world) if isinstance(message, m.Probe)} == {"b"}


@pytest.mark.parametrize("policy", ["random", "per-task", "batch", "late-binding", "assisted"])
@pytest.mark.parametrize("eager", [True, False])
def test_every_policy_pays(policy: str, eager: bool) -> None:
    world = World(workers=3, eager=eager, limits=limits.SchedulerLimits(probes_per_s=1.0))
    spec = m.JobSpec(kind=m.SLEEP, policy=policy)
    world.hear(CLIENT, submit(1, job="a", spec=spec), submit(1, job="b", spec=spec))
    assert {effect.message.job for effect in world.said() if isinstance(effect, fx.Send)
            and isinstance(effect.message, m.Probe | m.Task)} == {"a"}  # fmt: skip
    world.wait(3.0)
    assert "b" in {effect.message.job for effect in world.said() if isinstance(effect, fx.Send)
                   and isinstance(effect.message, m.Probe | m.Task)}  # fmt: skip


def test_what_workers_ask_for_is_not_limited() -> None:
    world = limited(workers=1, probes_per_s=1.0)
    world.hear(CLIENT, submit(3, job="a"))
    world.said()
    assert world.start("w1", 3) == [0, 1, 2]


def test_a_job_that_ends_while_it_waits_to_be_placed_is_forgotten() -> None:
    world = limited(workers=1, probes_per_s=1.0)
    world.hear(CLIENT, submit(1, job="a"), submit(1, job="b"))
    world.hear(CLIENT, m.Kill("b", 0))
    world.said()
    world.wait(5.0)
    assert sends(world) == []
    assert world.job("b").how == "cancelled"


# -- token buckets


@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(1, 5)), max_size=50), st.floats(0.1, 100.0))
def test_no_key_gets_more_than_its_rate_and_one_burst(asks: list[tuple[float, int]], rate: float) -> None:
    quota, now, got = Quota(rate), 0.0, 0
    for pause_s, count in asks:
        now += pause_s
        for _ in range(count):
            if not quota.wait_s(now, "k"):
                quota.take(now, "k")
                got += 1
    assert got <= max(1.0, rate) + rate * now + 1e-3


@given(st.floats(0.01, 1e6), st.floats(0.0, 1e7))
def test_who_comes_back_when_told_finds_something(rate: float, now: float) -> None:
    quota = Quota(rate)
    quota.take(now, "k", max(1.0, rate))
    wait_s = quota.wait_s(now, "k")
    assert 0.0 < wait_s <= 1.0 / rate + 1e-6
    assert not quota.wait_s(now + wait_s + 1e-6, "k")


def test_a_debt_is_paid_before_anything_else() -> None:
    quota = Quota(10.0)
    quota.take(0.0, "k", 110.0)
    assert quota.wait_s(0.0, "k") == pytest.approx(10.1)
    assert quota.wait_s(5.0, "k") == pytest.approx(5.1)
    assert not quota.wait_s(10.2, "k")


def test_no_rate_is_no_limit_and_keeps_nothing() -> None:
    quota = Quota(0.0)
    quota.take(0.0, "k", 1e9)
    assert (quota.wait_s(0.0, "k"), len(quota)) == (0.0, 0)


def test_keys_are_bounded_and_the_one_that_asked_last_is_remembered() -> None:
    quota = Quota(1.0)
    for number in range(quotas.KEYS_MAX):
        quota.take(0.0, f"k{number}", 5.0)
    quota.take(0.0, "k0")
    quota.take(0.0, "new")
    assert len(quota) == quotas.KEYS_MAX
    assert quota.wait_s(0.0, "k0") > 0.0
    assert quota.wait_s(0.0, "k1") == 0.0


def test_time_that_stands_still_or_goes_back_gives_nothing() -> None:
    quota = Quota(1.0)
    quota.take(5.0, "k")
    assert quota.wait_s(4.0, "k") == quota.wait_s(5.0, "k") == 1.0


# -- turns


def handled(world: World) -> list[m.AnyMessage]:
    """What one turn answers: the messages are read, what waits is looked at once, the effects are taken."""
    deadline = world.machine.next_deadline()
    if deadline is not None and deadline <= world.now:
        world.machine.tick(world.now)
    return [message for _, message in sends(world)]


def test_a_burst_is_handled_in_shares_in_order_and_to_its_end() -> None:
    world = limited()
    share = turns.SHARE // turns.COSTS[m.Submit]
    world.hear(CLIENT, *(submit(1, job=f"j{k}") for k in range(3 * share)))
    answers = []
    for count in (2 * share, share, 0):  # as it is read, and when the turn ends
        some = handled(world)
        assert len(some) == count
        answers += some
    assert answers == [m.Accepted(f"j{k}", 0, 0) for k in range(3 * share)]
    assert len(world.machine._turns) == 0
    assert world.machine.next_deadline() is None or world.machine.next_deadline() > world.now


@pytest.mark.parametrize(
    "flood",
    [
        lambda k: m.Ping(k),
        lambda k: submit(1, job=f"j{k}"),
        lambda k: submit(1, job="same"),
        lambda k: m.Query(k, "jobs"),
        lambda k: m.Query(k, "summary"),
        lambda k: m.Subscribe(k, "jobs", 0.1),
        lambda k: m.Follow(k, "a", True),
        lambda k: m.Kill("a", 0, [k]),
        lambda k: m.Recall(k, "a", 0, [k]),
        lambda k: m.Drain(k, "w1"),
    ],
    ids=["ping", "submit", "same", "jobs", "summary", "subscribe", "follow", "kill", "recall", "drain"],
)
def test_others_are_answered_in_the_very_turn_whatever_one_floods_with(flood: Any) -> None:
    """And a turn stays short: of the flood's messages it answers a share, however many there are."""
    world = limited(workers=2)
    world.hear(OTHER, submit(2, job="a"))
    world.said()
    for number in range(3):
        world.hear(CLIENT, *(flood(number * 20_000 + k) for k in range(20_000)))
        world.hear(OTHER, m.Ping(number))
        deadline = world.machine.next_deadline()
        if deadline is not None and deadline <= world.now:
            world.machine.tick(world.now)
        answers = [effect.message for effect in world.said() if isinstance(effect, fx.Send)]
        assert m.Pong(number) in answers
        assert len(answers) <= 2 * turns.SHARE + 10
    assert len(world.machine._turns) <= turns.WAITING_ALL_MAX


@pytest.mark.parametrize(
    "question",
    [
        lambda k: m.Query(k, "summary"),
        lambda k: m.Subscribe(k, "jobs", 0.1),
        lambda k: m.Follow(k, "a", True),
        lambda k: m.Drain(k, "w1"),
    ],
    ids=["query", "subscribe", "follow", "drain"],
)
def test_who_asks_on_while_hundreds_of_questions_wait_is_sent_away(question: Any) -> None:
    world = limited()
    k = 0
    while CLIENT in world.machine.state.peers and k < 20_000:
        world.hear(CLIENT, question(k))
        k += 1
    refusals = [e for e in world.said() if isinstance(e, fx.Close) or isinstance(getattr(e, "message", 0), m.Refused)]
    asked = turns.QUESTIONS_WAITING_MAX + 1
    detail = f"{asked} questions of c1 wait to be answered; s1 lets no more than {asked - 1} of one client wait"
    assert refusals == [fx.Send(CLIENT, m.Refused("busy", detail)), fx.Close(CLIENT)]
    assert (world.machine.state.counters["sent_away"], len(world.machine._turns)) == (1, 0)
    world.hear(OTHER, m.Ping(1))
    assert sends(world) == [(OTHER, m.Pong(1))]


def test_many_clients_of_one_key_have_one_share_and_each_comes_to_its_turn() -> None:
    """However often it connects: others are answered in the very turn, and that stays short."""
    world = limited()
    peers = [f"of one key {number}" for number in range(100)]
    for peer in peers:
        world.hear(peer, hello(m.CLIENT, peer, key="one key"))
    world.said()
    for peer in peers:
        world.hear(peer, *(submit(1, job=f"{peer} {k}") for k in range(turns.SHARE // turns.COSTS[m.Submit])))
    world.hear(OTHER, m.Ping(7))
    world.machine.tick(world.now)
    answers = sends(world)
    assert (OTHER, m.Pong(7)) in answers
    assert len(answers) <= 2 * turns.SHARE + 1
    heard = {peer for peer, _ in answers}
    for _ in range(len(peers)):
        world.machine.tick(world.now)
        heard |= {peer for peer, _ in sends(world)}
    assert heard == {*peers, OTHER}


def test_who_has_gone_and_left_nothing_keeps_nobody_out() -> None:
    """One key could have thousands of ids, one after the other, each of which is remembered for a lease."""
    world = limited(clients=4)
    world.hear("has a job", hello(m.CLIENT, "has a job"), submit(1, job="a"))
    world.hear("idle 1", hello(m.CLIENT, "idle 1"))
    for peer in ("has a job", "idle 1"):
        world.lose(peer)
    for number in range(2, 50):
        peer = f"idle {number}"
        world.hear(peer, hello(m.CLIENT, peer))
        assert m.Welcome in [type(message) for _, message in sends(world)]
        world.lose(peer)
    world.hear("stays", hello(m.CLIENT, "stays"))
    world.hear("too many", hello(m.CLIENT, "too many"))
    refused = fx.Send("too many", m.Refused("busy", "4 clients are connected: the limit of s1"))
    assert world.said()[-2:] == [refused, fx.Close("too many")]
    assert set(world.machine.state.clients) == {"c1", "c2", "has a job", "stays"}


def test_kills_and_recalls_wait_in_any_number_that_a_client_can_have_jobs() -> None:
    world = limited()
    world.hear(
        CLIENT, *(m.Recall(k, f"j{k}", 0, [0]) for k in range(10_000)), *(m.Kill(f"j{k}", 0) for k in range(10_000))
    )
    assert CLIENT in world.machine.state.peers


def test_questions_are_metered_by_what_they_have_others_look_at() -> None:
    world = limited()
    rows = 100
    for k in range(rows):
        world.hear(OTHER, submit(1, job=f"j{k}"))
        world.said()
    answered, asked, start = 0, 0, world.now
    cost = rows + turns.ROWS_PER_QUESTION + rows // turns.JOBS_PER_ROW
    while world.now < start + 2.0:
        for _ in range(min(200 - (asked - answered), 1000 - asked)):
            world.hear(CLIENT, m.Query(asked, "jobs"))
            asked += 1
        answered += len(handled(world))
        deadline = world.machine.next_deadline()
        world.now = max(world.now + 0.001, min(deadline or start + 2.0, start + 2.0))
    assert answered * cost <= 3.1 * turns.ROWS_PER_S, "a burst, and two seconds' worth"
    assert answered * cost >= 2.5 * turns.ROWS_PER_S


def test_clients_of_one_key_take_turns_at_what_it_may_have_looked_at() -> None:
    """Else one that asks again as soon as it is answered would keep the others' pings waiting for ever."""
    world = limited()
    world.hear("asks", hello(m.CLIENT, "asks", key="one key"))
    world.hear("recalls", hello(m.CLIENT, "recalls", key="one key"))
    everything = m.Recall(1, "none", 0, list(range(100_000)))
    world.hear("asks", *[everything] * 4)
    world.wait(0.0)
    world.said()
    world.hear("recalls", everything, m.Ping(9))
    heard: list[Any] = []
    end = world.now + 5.0
    while world.now < end:
        world.wait(0.001)
        for peer, message in sends(world):
            if peer == "asks":
                world.hear("asks", everything)
            heard.append((peer, type(message)))
    assert 5 <= heard.count(("asks", m.Returned)) <= 10
    assert heard.index(("recalls", m.Returned)) <= 1
    assert ("recalls", m.Pong) in heard


def test_who_lets_too_much_wait_is_sent_away_and_others_stay() -> None:
    world = limited()
    for k in range(turns.WAITING_MAX + 2 * turns.SHARE):  # what it says after that is not answered, in this turn
        world.machine.receive(world.now, CLIENT, m.Kill(f"j{k}", 0))
    said = world.said()
    [refused] = [e.message for e in said if isinstance(e, fx.Send) and isinstance(e.message, m.Refused)]
    assert refused.code == "busy"
    assert "100,001 messages with 0 bytes of c1 wait" in refused.detail
    assert [e for e in said if isinstance(e, fx.Close)] == [fx.Close(CLIENT)]
    assert (len(world.machine._turns), world.machine.state.counters["refused_busy"]) == (0, 1)
    world.hear(OTHER, m.Ping(1))
    assert sends(world) == [(OTHER, m.Pong(1))]


def test_a_client_may_let_wait_what_one_batch_may_bring_however_little_a_scheduler_takes() -> None:
    world = limited(payload_bytes=1000)
    large = submit(1, job="large", payloads=[bytes(limits.JOB_BYTES_MAX)])
    world.hear(CLIENT, *(submit(1, job=f"j{k}") for k in range(40)), large)
    world.wait(0.0)
    rejected = [message for _, message in sends(world) if isinstance(message, m.Rejected)]
    assert [(message.job, message.code) for message in rejected] == [("large", "too_large")]


def test_payloads_that_wait_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "WAITING_BYTES_MAX", 0)
    world = limited(payload_bytes=4_000)
    world.hear(CLIENT, *(submit(1, job=f"j{k}", payloads=[b"x" * 300]) for k in range(100)))
    refusals = [e.message for e in world.said() if isinstance(e, fx.Send) and isinstance(e.message, m.Refused)]
    assert [refused.code for refused in refusals] == ["busy"]
    assert "3 messages with 1,044 bytes of c1 wait" in refusals[0].detail
    assert "1,000 bytes" in refusals[0].detail


@pytest.mark.parametrize(
    "message",
    [
        m.Kill("none", 0, list(range(100_000))),
        m.Recall(1, "none", 0, list(range(100_000))),
        m.Submit("j", 0, SPEC, 100_000, [b""], indices=list(range(100_000))),
        m.Submit("j", 0, SPEC, 100_000, [b""] * 100_000),
    ],
    ids=["kill", "recall", "submit", "payloads"],
)
def test_long_lists_are_bounded_as_payloads_are(message: m.AnyMessage, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the wire a number has three bytes, in memory it has more than ten times as many."""
    monkeypatch.setattr(turns, "WAITING_BYTES_MAX", 0)
    world = limited(payload_bytes=400_000_000)
    world.hear(CLIENT, *[m.Kill("none", 0, list(range(100_000)))] * 3)
    sent = 0
    while CLIENT in world.machine.state.peers and sent < 50:
        world.hear(CLIENT, message)
        sent += 1
    assert 10 < sent < 40


def hold_back(world: World, peer: str, clients: int, messages: int) -> None:
    """Have as many clients of one key let messages wait that are not handled for long: what is before them costs much.

    A kill of a job that is not there costs what its list makes it look like.
    """
    for number in range(clients):
        name = f"{peer} {number}"
        world.hear(name, hello(m.CLIENT, name, key=peer))
        world.hear(name, *[m.Kill("none", 0, list(range(100_000)))] * 3, *[m.Kill("none", 0)] * messages)


def test_where_all_together_let_too_much_wait_those_who_do_it_go() -> None:
    """And not whoever says something next: here an honest client with more jobs than one turn takes."""
    world = limited()
    hold_back(world, "hoarder", 20, 9_995)
    world.said()
    assert len(world.machine._turns) == 20 * 9_998 - 1
    world.hear(OTHER, *(submit(1, job=f"j{k}") for k in range(10_100)))
    assert OTHER in world.machine.state.peers
    gone = [e.peer for e in world.said() if isinstance(e, fx.Close)]
    assert 0 < len(gone) <= 2
    assert all(peer.startswith("hoarder") for peer in gone)


def test_payloads_that_wait_of_all_clients_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "WAITING_BYTES_MAX", 0)
    world = limited(payload_bytes=40_000)
    for number in range(10):
        hold_back(world, f"hoarder {number}", 1, 0)
        world.hear(f"hoarder {number} 0", *(submit(1, job=f"{number}-{k}", payloads=[b"x" * 900]) for k in range(10)))
        assert world.machine._turns._waiting_bytes <= 20_000
    world.hear(OTHER, *(submit(1, job=f"j{k}", payloads=[b"x" * 30]) for k in range(50)))
    assert OTHER in world.machine.state.peers
    world.wait(3.0)
    world.said()
    assert len(world.machine._turns) == world.machine._turns._waiting_bytes == 0


def test_what_waits_goes_with_its_connection() -> None:
    for end in (lambda world: world.lose(CLIENT), lambda world: world.hear(CLIENT, m.Goodbye("leaving"))):
        world = limited()
        world.hear(CLIENT, *(m.Kill("none", 0) for _ in range(3 * turns.SHARE)))
        end(world)
        world.said()
        assert len(world.machine._turns) == 0
        world.wait(1.0)
        assert not [e for e in world.said() if isinstance(e, fx.Send)]


def test_acknowledgements_never_wait() -> None:
    world = limited(workers=1)
    world.hear(CLIENT, submit(1, job="a"))
    world.start("w1")
    world.hear("w1", result([0]))
    world.said()
    world.hear(CLIENT, *(m.Kill("none", 0) for _ in range(2 * turns.SHARE)), m.OutcomeAck(1))
    assert len(world.machine._turns)
    assert not len(world.machine.state.clients["c1"].outbox)


@pytest.mark.parametrize(
    "chatter", [m.Ping, m.Pong, m.OutcomeAck, lambda k: m.OutcomeAck(1)], ids=["pings", "pongs", "acks", "one ack"]
)
def test_who_chatters_without_end_is_sent_away(chatter: Any) -> None:
    world = limited()
    for k in range(int(CHATTER_PER_S)):
        world.hear(CLIENT, chatter(k))
    assert [message for _, message in sends(world) if not isinstance(message, m.Pong)] == []
    world.hear(CLIENT, chatter(0), chatter(1))
    detail = (
        "c1 says too much that is of no use; s1 takes 200 a second of one client: pings, answers to nothing and "
        "acknowledgements of nothing together"
    )
    said = [e for e in world.said() if not isinstance(getattr(e, "message", None), m.Pong)]
    assert said == [fx.Send(CLIENT, m.Refused("busy", detail)), fx.Close(CLIENT)]
    assert (world.machine.state.counters["sent_away"], CLIENT in world.machine.state.peers) == (1, False)
    world.hear("again", hello(m.CLIENT, "c1", key="k1"))
    wait = "clients of this key were sent away by s1 for asking too much; wait 10.0 s"
    assert world.said() == [fx.Send("again", m.Refused("busy", wait)), fx.Close("again")]
    world.hear(OTHER, m.Ping(1))
    assert sends(world) == [(OTHER, m.Pong(1))]


def test_what_comes_late_and_all_at_once_is_no_chatter() -> None:
    """A scheduler that stood still finds a ping of each second."""
    world = limited()
    for _ in range(3):
        world.hear(CLIENT, *(m.Ping(k) for k in range(150)))
        assert sends(world) == [(CLIENT, m.Pong(k)) for k in range(150)]
        world.wait(1.0)


def test_who_acknowledges_each_of_thousands_of_outcomes_is_no_chatterer() -> None:
    world = limited(workers=1)
    n = 3 * int(CHATTER_PER_S)
    for k in range(1, n + 1):
        world.hear(CLIENT, submit(1, job=f"j{k}"))
        world.start("w1", job=f"j{k}")
        world.hear("w1", result([0], seq=k, job=f"j{k}"))
        world.hear(CLIENT, m.OutcomeAck(k))
    assert world.machine.state.clients["c1"].outbox.next_seq == n + 1
    assert CLIENT in world.machine.state.peers


def test_subscriptions_of_one_client_are_few() -> None:
    world = limited()
    world.hear(OTHER, m.Subscribe(1, "summary", 0.1))
    for k in range(100):
        world.hear(CLIENT, m.Subscribe(k, "summary", 0.1))
        world.wait(0.01)
    mine = [request for peer, request in world.machine._statuses.subscriptions if peer == CLIENT]
    assert mine == list(range(84, 100)), "the oldest end"
    assert (OTHER, 1) in world.machine._statuses.subscriptions


# -- the same limits seen from the client


def test_a_client_keeps_to_the_time_that_it_was_told() -> None:
    settings = ClientSettings(unavailable_after_s=3.0, silent_after_s=100.0)
    machine = Session(id="c1", incarnation=1, rng=random.Random(1), settings=settings)

    def submitted() -> list[str]:
        effects = machine.take_effects()
        return [e.message.job for e in effects if isinstance(e, fx.Send) and isinstance(e.message, m.Submit)]

    machine.schedulers_changed(0.0, {"s1": "a1"})
    machine.receive(0.0, 1, m.Welcome("s1", 1, "0"))
    machine.submit(0.0, submit(1, job="a"))
    machine.submit(0.0, submit(1, job="b"))
    machine.receive(0.0, 1, m.Rejected("b", 0, "busy", "slowly", 20.0))
    assert submitted() == ["a", "b"]
    machine.tick(19.9)
    assert submitted() == []
    machine.receive(19.9, 1, m.Accepted("a", 0, 1))
    machine.tick(20.0)
    assert submitted() == ["b"]
    machine.receive(20.0, 1, m.Rejected("b", 0, "busy", "slowly", 20.0))
    assert "b" in machine.jobs, "others are taken: it is only slow"
    machine.tick(40.0)
    machine.receive(40.0, 1, m.Rejected("b", 0, "busy", "slowly", 20.0))
    assert "b" not in machine.jobs


def test_what_a_hello_names_and_nobody_knows_is_not_looked_at_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may name 200,000 jobs, and whoever is let in may come as often as it likes."""
    looked: list[str] = []
    owner_of = ids.owner_of
    monkeypatch.setattr(ids, "owner_of", lambda job_id: looked.append(job_id) or owner_of(job_id))
    world = World(client=False)
    world.hear("before", hello(m.CLIENT, "c"))
    world.hear("before", submit(1, job="a", detached=True), submit(1, job="b"))
    world.lose("before")
    looked.clear()
    names = [f"{number}" for number in range(limits.INVENTORY_MAX - 2)]
    world.hear("again", hello(m.CLIENT, "c", jobs=[*names, "b", "a"], connection=2))
    [welcome] = [effect.message for effect in world.machine.take_effects() if isinstance(effect, fx.Send)][-2:-1]
    assert isinstance(welcome, m.Welcome)
    assert welcome.jobs == ["a", "b"]
    assert len(looked) < 10
