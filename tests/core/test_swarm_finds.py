"""What the swarm has found in the machines, each as a scenario of its own that failed before it was mended."""

from __future__ import annotations

import msgspec
import pytest

from sparrowmq.core import effects as fx, invariants
from sparrowmq.core.assistant import Arrival, Assistant
from sparrowmq.core.hinting import Hinting
from sparrowmq.core.job import Job
from sparrowmq.core.judge import DEAD, SUSPECT, Judge
from sparrowmq.core.node_monitor import NodeMonitor
from sparrowmq.limits import SchedulerLimits
from sparrowmq.protocol import messages as m
from sparrowmq.protocol.beats import Beat
from sparrowmq.settings import AssistantSettings, SchedulerSettings, WorkerSettings
from sparrowmq.sim.slot import Work
from sparrowmq.sim.wires import Constant, Wire
from tests.core import test_node_monitor as worker, test_session as client
from tests.support.scheduler import CLIENT, World, hello, result, submit
from tests.support.sim import cluster, runs, succeeded

PATIENT = SchedulerSettings(eager=False, reconnect_grace_s=5.0)


@pytest.mark.parametrize("role", [m.WORKER, m.CLIENT])
def test_a_hello_of_an_older_connection_that_comes_late_does_not_replace_the_newer_one(role: str) -> None:
    """Seed 354: by its outdated inventory tasks that ran were launched again. Seed 377: a client's job was given up."""
    world = World(client=False)
    world.hear("newer", hello(role, "x", connection=2))
    world.said()
    world.hear("older", hello(role, "x", connection=1))
    refused, closed = world.said()
    assert isinstance(refused, fx.Send)
    assert isinstance(refused.message, m.Refused)
    assert (refused.peer, refused.message.code) == ("older", "superseded")
    assert closed == fx.Close("older")
    assert list(world.machine.state.peers) == ["newer"]
    world.hear("newest", hello(role, "x", connection=3))
    world.said()
    assert list(world.machine.state.peers) == ["newest"]


def test_a_worker_that_gives_up_reservations_takes_back_the_hello_that_tells_of_them() -> None:
    """Seed 294: a hello that took longer than the grace told of reservations that were gone by then."""
    world = cluster(workers=2, worker=WorkerSettings(scheduler_grace_s=0.3), scheduler=PATIENT)
    job = world.submit([0.5] * 6)
    world.run(0.1)
    world.set_wire("worker-1", "scheduler-1", Wire(Constant(0.4)))
    world.reset("worker-1", "scheduler-1")
    world.run(0.5)  # the hello is on its way
    world.set_wire("worker-1", "scheduler-1", Wire())
    for _ in range(10):
        world.run(0.1)
        world.check_agreement()
    world.finish(10.0)
    assert succeeded(world, job)


def test_a_request_of_an_epoch_that_is_over_does_not_come_back_into_the_queue() -> None:
    """Seed 343."""
    world = cluster(workers=1, schedulers=2, scheduler=PATIENT, worker=WorkerSettings(request_timeout_s=20.0))
    job = world.submit([0.5] * 3)
    world.run(0.1)
    home = world.client()._home
    assert home is not None
    world.pause(home.scheduler)  # the client moves its job; what the worker has asked for stays unanswered
    world.run(6.5)
    world.reset("worker-1", home.scheduler)
    world.run(0.1)
    epochs = {entry.epoch for entry in world.worker().place.queue if entry.job == job}
    assert epochs == {1}


def test_a_request_that_crosses_a_cancel_does_not_use_up_a_later_reservation() -> None:
    """Seed 148: the reservation of the new round was believed used, and nobody cancelled it."""
    world = World(workers=3)
    world.hear(CLIENT, submit(1))
    first, second = (effect.peer for effect in world.said() if isinstance(effect.message, m.Probe))  # type: ignore[union-attr]
    world.hear(first, m.Request(1, "a", 0, 1, 1))
    world.said()  # the second is sent a cancel, and has asked meanwhile
    world.hear(first, m.Goodbye("leaving"))
    assert m.Probe("a", 0, 2, 1, True) in world.to(second)
    world.hear(second, m.Request(2, "a", 0, 1, 1))
    sent, cancelled = world.to(second)
    assert isinstance(sent, m.Task)
    assert (sent.request, sent.attempts) == (2, [2])
    assert cancelled == m.Cancel("a", 0, 2)


def test_a_task_that_starts_once_at_most_is_not_lost_with_another_one_of_its_slot() -> None:
    """Seed 19: its result waited in the slot when the next task crashed; it was given back as if it had not started."""
    world = cluster(workers=2)
    works = [Work(0.00005, "crash") if index % 5 == 4 else Work(0.00001) for index in range(40)]
    jobs = [world.submit(works, policy=policy, at_most_once=True) for policy in ("random", "late-binding")]
    world.finish(30.0)
    for job in jobs:
        assert runs(world, job) == [1] * 40
        assert world.history.statuses(job).count(m.SUCCEEDED) == 32


@pytest.mark.parametrize(("current", "given_back"), [(0, []), (1, [1, 2]), (2, [2])])
def test_what_may_have_started_and_may_start_only_once_is_not_given_back(current: int, given_back: list[int]) -> None:
    """Results that wait in a slot die with its process: task 1 may have ended; task 2 has not begun if another runs."""
    machine = NodeMonitor(id="w", incarnation=1, slots=1, settings=WorkerSettings(beat_interval_s=0.0))
    machine.schedulers_changed(1.0, {"s": "at s"})
    machine.receive(1.0, 1, m.Welcome("s", 1, "0"))
    machine.slot_ready(1.0, 0, 100)
    once = m.JobSpec(kind=m.SLEEP, at_most_once=True)
    for number, job in enumerate(("any", "once", "once")):
        spec = once if number else m.JobSpec(kind=m.SLEEP)
        machine.place.hand(1.0, machine.place.slots[0], m.Task(0, job, 0, spec, [number], [1], [b"p"]), "s", b"")
    machine.take_effects()
    machine.slot_exited(1.0, 0, "killed by signal 11", current)
    said = [effect.message for effect in machine.take_effects() if isinstance(effect, fx.Send)]
    back = {(one.job, index) for one in said if isinstance(one, m.Returned) for index in one.indices}
    assert back == {("once", index) for index in given_back} | ({("any", 0)} if current != 1 else set())
    lost = {index for one in said if isinstance(one, m.Result) and one.job == "once" for index in one.indices}
    assert lost == {1, 2} - set(given_back)


def test_a_result_of_a_killed_attempt_is_not_adopted() -> None:
    """Seed 98: a scheduler that was restarted killed what it did not know; its client was shown a cancelled task."""
    world = cluster(workers=2)
    job = world.submit([1.0] * 2)
    world.run(0.3)
    world.crash("scheduler-1")
    world.run(0.01)
    world.restart("scheduler-1")
    world.finish(30.0)
    assert succeeded(world, job)


def test_an_assistant_that_starts_after_an_outage_gives_nodes_time_to_be_heard() -> None:
    """Seed 16: it read old beats, none since the store was away, and declared everybody dead at once."""
    judge = Judge(AssistantSettings())
    for number in range(1, 11):
        judge.beat(0.1 * number, Beat("worker", "w", 1, number, 100))
    assert judge.judge(11.0, 0.001) == []
    judge.beat(11.1, Beat("worker", "w", 1, 111, 100))
    assert judge.judge(11.2, 0.001) == []
    (node,) = judge.judge(11.42, 0.001)
    assert node.state == SUSPECT
    silent = Judge(AssistantSettings())
    silent.beat(1.0, Beat("worker", "w", 1, 1, 100))
    assert silent.judge(11.0, 0.001) == []
    states = [node.state for k in range(60) for node in silent.judge(11.0 + 0.05 * k, 0.001)]
    assert states == [SUSPECT, DEAD]


@pytest.mark.parametrize("attempt", [2, 1])  # the first of another epoch has the same number
def test_an_attempt_that_another_one_has_replaced_does_not_end_its_task_when_it_is_killed(attempt: int) -> None:
    """Seed 11: a claim found both attempts of a task; one was adopted, the other killed, and its end was the task's."""
    world = World(workers=2)
    world.hear(CLIENT, submit(1, epoch=1))
    world.said()
    newer, older = "w1", "w2"
    world.hear(newer, m.Claimed("a", 1, [0], [attempt]))
    world.hear(older, m.Claimed("a", 1, [0], [1]))
    assert world.to(older) == [m.Kill("a", 1, [0])]
    world.hear(older, m.Result(1, "a", 1, [0], [1], bytes([m.CANCELLED]), [0], [b"killed"]))
    assert world.to(CLIENT) == []
    world.hear(newer, m.Result(1, "a", 1, [0], [attempt], bytes([m.SUCCEEDED]), [0], [b"r"]))
    (outcome,) = world.to(CLIENT)
    assert outcome.statuses == bytes([m.SUCCEEDED])


def test_what_a_recall_finds_at_workers_stays_out_of_the_outcome_of_what_had_waited() -> None:
    """Seeds 5568 and 7462: sent again after a reset, the first outcome told of two tasks and had one status."""
    world = World(workers=1)
    world.hear(CLIENT, submit(2))
    world.said()
    world.start("w1")
    world.hear(CLIENT, m.Recall(9, "a", 0, [0, 1]))  # task 0 is at the worker, 1 waits
    [recall] = [message for message in world.to("w1") if isinstance(message, m.Recall)]
    world.hear("w1", m.Returned(recall.request, "a", 0, [0], [1]))
    world.said()
    world.hear("again", hello(m.CLIENT, "c1", connection=2))
    outcomes = [message for message in world.to("again") if isinstance(message, m.Outcome)]
    assert [(outcome.indices, len(outcome.statuses)) for outcome in outcomes] == [([1], 1), ([0], 1)]


def test_what_an_earlier_scheduler_may_have_started_is_too_late_to_recall() -> None:
    """Seeds 2687, 6333, 6355, 6416, 7930: a recall ended tasks, some of which had run, as "killed"."""
    session = client.session()
    session.submit(1.0, client.submit())
    session.lost(1.1, 1)
    session.receive(1.2, 2, m.Welcome("s1", 8, "0"))  # another process: the job moves
    session.receive(1.3, 2, m.Rejected("a", 1, "busy", "full", 0.5))
    client.effects(session)
    session.recall(1.4, 9, "a", [2])
    assert client.effects(session) == [fx.Recalled(9, "a", [])]
    session.tick(1.8)
    sent = [effect.message for effect in client.effects(session) if isinstance(effect, fx.Send)]
    assert m.Submit("a", 1, client.SPEC, 3, [b"x", b"y", b"z"], indices=[0, 1, 2]) in sent


TIMED = m.JobSpec(kind=m.SLEEP, timeout_s=0.05)


def reclaiming(first: m.JobSpec, second: m.JobSpec) -> worker.World:
    """A worker whose slot holds tasks 2 (job b) and 3 (job c), asked for before anything was known of these jobs.

    The end of task 1 made it look patient: it takes back what has not started only just before 0.05 s are over.
    """
    world = worker.World()
    world.hear(*(m.Probe(job, 0, 1, 1) for job in "abc"))
    monitor = world.machine
    monitor._feed()
    for entry in [entry for entry in monitor.place.queue if entry.count]:
        monitor._request(monitor.links["s1"], 0, entry, 1)
    world.hear(worker.task(1, [0]), worker.task(2, [0], job="b", spec=first), worker.task(3, [0], job="c", spec=second))
    world.now += 0.0004
    world.done(1)
    world.said()
    world.wait(0.0501)
    assert world.said() == [fx.ReclaimSlot(0)]
    return world


def test_a_timeout_is_not_held_against_the_task_behind() -> None:
    """Seeds 2421, 6768, 7177, 8307, 8846: a task was over, and its result waited in the slot behind the next one.

    The next one was killed as timed out; the first, whose result was lost with the process, ran once more.
    """
    world = reclaiming(TIMED, m.JobSpec(kind=m.SLEEP))
    world.machine.slot_reclaimed(world.now, 0, 3)
    world.wait(0.0)
    assert world.said() == []
    world.done(2)  # the reclaim had it sent
    [over] = world.sent()
    assert isinstance(over, m.Result)
    assert (over.job, over.statuses) == ("b", bytes([m.SUCCEEDED]))
    world.wait(1.0)
    assert world.said() == []


def test_a_task_is_ended_when_it_is_known_that_its_time_is_up() -> None:
    world = reclaiming(TIMED, TIMED)
    world.machine.slot_reclaimed(world.now, 0, 2)
    world.wait(0.0)
    assert world.said() == [fx.Send(1, worker.returned([0], "slow", job="c")), fx.KillSlot(0)]
    world.machine.slot_exited(world.now, 0, "killed by signal 9", 2)
    [timed_out] = world.sent()
    assert isinstance(timed_out, m.Result)
    assert (timed_out.job, timed_out.statuses) == ("b", bytes([m.TIMED_OUT]))


@pytest.mark.parametrize("first", [m.JobSpec(kind=m.SLEEP), m.JobSpec(kind=m.SLEEP, timeout_s=0.051)])
def test_a_task_that_keeps_its_slot_from_sending_has_its_own_timeout(first: m.JobSpec) -> None:
    """It holds the GIL, say. Its time counts from when it was seen to run, whatever is believed of the one before."""
    world = reclaiming(first, TIMED)
    world.machine.slot_reclaimed(world.now, 0, 3)
    world.wait(0.049)
    assert not any(isinstance(effect, fx.KillSlot) for effect in world.said())
    world.wait(0.002)
    assert fx.KillSlot(0) in world.said()
    world.machine.slot_exited(world.now, 0, "killed by signal 9", 3)
    back, timed_out = world.sent()
    assert back == worker.returned([0], "crash", job="b")
    assert isinstance(timed_out, m.Result)
    assert (timed_out.job, timed_out.statuses) == ("c", bytes([m.TIMED_OUT]))
    assert "0.05 s" in msgspec.msgpack.decode(timed_out.payloads[0])["message"]


@pytest.mark.parametrize("policy", ["per-task", "batch", "late-binding"])
@pytest.mark.parametrize("lost", [False, True])
def test_a_scheduler_that_thaws_launches_nothing_before_the_client_has_answered(policy: str, lost: bool) -> None:
    """Seed 193: loads that had come meanwhile completed a sample, and its tasks were launched at once."""
    world = World(workers=3, eager=policy == "late-binding", client_lease_s=10.0)
    world.hear("w3", m.Goodbye("draining"))
    world.hear(CLIENT, submit(6, spec=m.JobSpec(kind=m.SLEEP, policy=policy)))
    (probed, *_) = {effect.peer for effect in world.said() if isinstance(effect.message, m.Probe)}  # type: ignore[union-attr]
    if lost:
        world.lose(CLIENT)
    world.now += 5.0
    for peer in ("w1", "w2"):
        world.hear(peer, m.Load("a", 0, 1, 0, 0, 1), m.Request(1, "a", 0, 1, 1))
    world.hear("w4", hello(m.WORKER, "w4"))
    world.hear(str(probed), m.Goodbye("draining"))
    world.machine.tick(world.now)
    effects = world.said()
    assert not [effect for effect in effects if isinstance(effect, fx.Send) and isinstance(effect.message, m.Task)]
    if lost:
        world.hear(CLIENT, hello(m.CLIENT, "c1", jobs=["a"], connection=2))
        effects = world.said()
    (ping,) = [
        e.message for e in effects if isinstance(e, fx.Send) and e.peer == CLIENT and isinstance(e.message, m.Ping)
    ]
    world.hear(CLIENT, m.Pong(ping.n))
    assert [effect for effect in world.said() if isinstance(effect.message, m.Probe | m.Task)]  # type: ignore[union-attr]


def test_a_task_that_was_adopted_and_comes_back_is_launched_once() -> None:
    """Seed 197: it stood among the fresh tasks and among those to be launched again."""
    record = Job(submit(4, epoch=1), "c", 1.0)
    record.workers.add("w")
    assert record.adopt(1.0, 1, 1, "w")
    record.put_back(1)
    assert record.take(2.0, 4, "w")[0] == [1, 0, 2, 3]
    assert record.unplaced == 0
    invariants.check_job(record)


def test_an_assistant_that_takes_over_marks_the_schedulers_that_died_before() -> None:
    """The one before died with them, and had told nobody."""
    assistant = Assistant(id="a", incarnation=1, settings=AssistantSettings())
    for number in range(1, 11):
        now = 0.1 * number
        assistant.heard(now, now, 0.0, [Arrival(now, Beat("scheduler", "s", 7, number, 100))])
    for number in range(21):
        assistant.heard(1.0 + 0.1 * number, 1.0 + 0.1 * number, 0.0, [])
    assert not [effect for effect in assistant.take_effects() if isinstance(effect, fx.Condemn)]
    assistant.leads(3.0, 5)
    condemned = [effect for effect in assistant.take_effects() if isinstance(effect, fx.Condemn)]
    assert [(effect.scheduler, effect.incarnation) for effect in condemned] == [("s", 7)]


def test_a_scheduler_that_used_hints_before_an_outage_does_not_end_the_assistant() -> None:
    """Seed 274: nothing was left of anybody's demand, and the workers were divided by it."""
    hinting = Hinting()
    hinting.observe(1.0, Beat("worker", "w", 1, 1, 100, slots=2))
    hinting.observe(1.0, Beat("scheduler", "s", 1, 1, 100, probes={"s": 5}))
    hinting.observe(7.0, Beat("scheduler", "s", 1, 61, 100, probes={"s": 5}))
    hints = hinting.hints(7.1, "s", 7)
    assert hints is not None
    assert hints.workers == ["w"]


RETRIED = m.JobSpec(kind=m.SLEEP, retries=3)


def test_an_attempt_with_a_number_that_the_task_has_had_is_not_adopted() -> None:
    """Seeds 202, 999, 2380, 3541, 4145, 4776, 4955: numbers fell, and an attempt was launched under one used before.

    A former scheduler had launched both; the one adopted first failed before the other was told of.
    """
    world = World(workers=2)
    world.hear(CLIENT, submit(1, epoch=1, spec=RETRIED))
    world.hear("w1", m.Claimed("a", 1, [0], [3]), result([0], epoch=1, attempt=3, status=m.RETRY))
    world.said()
    world.hear("w2", m.Claimed("a", 1, [0], [2]))
    assert world.to("w2") == [m.Kill("a", 1, [0]), m.Probe("a", 1, 1, 1)]
    world.hear("w2", result([0], epoch=1, attempt=2, status=m.RETRY))
    assert world.start("w1") == [0]
    assert (world.job().attempts, world.job().retries) == ([4], 1)


def test_a_failure_does_not_end_an_attempt_of_the_same_number_elsewhere() -> None:
    """Seeds 1819, 2367, 4626, 5008: the first of this epoch ran, and a failure of the first of another one ended it."""
    world = World(workers=2)
    world.hear(CLIENT, submit(1, epoch=1, spec=RETRIED))
    world.hear("w2", m.Claimed("a", 1, [], []))
    world.wait(0.06)
    assert world.start("w2") == [0]
    world.hear("w1", m.Claimed("a", 1, [0], [1]), result([0], epoch=1, status=m.RETRY))
    assert world.said() == [fx.Send("w1", m.Kill("a", 1, [0])), fx.Send("w1", m.ResultAck(1))]
    assert (world.job().launched_on("w2"), world.job().failures) == ([0], {})


@pytest.mark.parametrize(("policy", "placed"), [("random", m.Task), ("late-binding", m.Probe)])
def test_a_worker_gets_nothing_of_a_job_before_it_has_said_what_it_has(policy: str, placed: type) -> None:
    """Seeds 1638, 2587, 4569: a launch crossed the answer, and the kill of the attempt that it told of ended both."""
    world = World(workers=1, eager=True)
    world.hear(CLIENT, submit(2, epoch=1, spec=m.JobSpec(kind=m.SLEEP, policy=policy)))
    world.said()
    world.wait(0.06)
    assert world.said() == []
    world.lose("w1")
    world.hear("again", hello(m.WORKER, "w1", connection=2))
    assert [type(message) for message in world.to("again")] == [m.Welcome, m.Claim]
    world.hear("again", m.Claimed("a", 1, [0], [1]))
    assert [type(message) for message in world.to("again")] == [placed]
    assert world.job().launched_on("w1")[0] == 0


def test_a_worker_that_answers_late_gets_its_share() -> None:
    world = World(workers=2)
    world.hear(CLIENT, submit(4, epoch=1))
    world.hear("w2", m.Claimed("a", 1, [], []))
    world.wait(0.06)
    assert m.Probe("a", 1, 1, 8) in world.to("w2")
    world.hear("w1", m.Claimed("a", 1, [], []))
    assert world.said() == [fx.Send("w1", m.Probe("a", 1, 1, 4))]


def test_what_a_worker_has_put_under_a_claim_is_adopted_though_its_answer_was_lost() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(2, epoch=1))
    world.said()
    world.lose("w1")
    world.hear("again", hello(m.WORKER, "w1", held=[m.Held("a", 1, [0], [2])], connection=2))
    assert world.job().launched_on("w1") == [0]
    world.said()
    world.hear("again", result([0], epoch=1, attempt=2), m.Claimed("a", 1, [], []))
    assert [type(effect.message) for effect in world.said() if isinstance(effect, fx.Send)] == [
        m.ResultAck, m.Outcome, m.Probe,
    ]  # fmt: skip


def test_no_second_attempt_is_sought_while_workers_have_yet_to_say_what_they_have() -> None:
    """With the place that it got, tasks that others were about to claim could be launched as well."""
    world = World(workers=2)
    world.hear(CLIENT, submit(2, epoch=1, spec=m.JobSpec(kind=m.SLEEP, hedge_after_s=0.01)))
    world.hear("w1", m.Claimed("a", 1, [0], [1]))
    world.said()
    world.wait(0.04)
    assert world.said() == []


def test_a_job_that_is_submitted_again_makes_room_for_itself() -> None:
    """Seed 2104: it was refused, as one job too many, and what its client had left behind was launched on."""
    world = World(workers=1, limits=SchedulerLimits(jobs=1))
    world.hear(CLIENT, submit(2))
    world.said()
    world.hear(CLIENT, submit(2, epoch=1))
    assert world.said() == [
        fx.Send("w1", m.Cancel("a", 0, 1)), fx.Send(CLIENT, m.Accepted("a", 1, 1)), fx.Send("w1", m.Claim("a", 1)),
    ]  # fmt: skip


def test_a_job_that_is_submitted_again_and_refused_ends_here() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(2), submit(1, job="b"))
    world.machine.drain(world.now, world.now + 9.0)
    world.said()
    world.hear(CLIENT, submit(2, epoch=1))
    assert [effect.message for effect in world.said() if isinstance(effect, fx.Send)] == [
        m.Rejected("a", 1, "draining", "s1 is shutting down", 0.1),
        m.Cancel("a", 0, 1),
    ]
    assert list(world.machine.state.jobs) == ["b"]
