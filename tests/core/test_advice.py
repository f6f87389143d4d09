"""What schedulers make of an assistant: suspicion, death, veto, terms; and the assistant's own connections."""

from __future__ import annotations

from collections.abc import Sequence

from sparrowmq.core import effects as fx
from sparrowmq.core.assistant import Arrival, Assistant
from sparrowmq.protocol import messages as m
from sparrowmq.protocol.beats import Beat
from sparrowmq.settings import AssistantSettings
from tests.support.scheduler import CLIENT, World, hello, submit

ASSISTANT = "assistant's connection"
SETTINGS = AssistantSettings(detector="fixed", detection_beats=2.0, confirm_beats=2.0, hint_interval_s=0.0)


def advised(workers: int = 2, term: int = 5) -> World:
    world = World(workers=workers, beat_interval_s=0.1)
    world.hear(ASSISTANT, hello(m.ASSISTANT, "a1", term))
    assert world.to(ASSISTANT) == [m.Welcome("s1", 7, "")]
    return world


def judge(world: World, state: str, worker: str = "w1", *, term: int = 5, incarnation: int = 1) -> None:
    world.hear(ASSISTANT, m.Verdict(term, [m.Judged(worker, incarnation, state, 300, "no beat for 300 ms")]))


def state(world: World, worker: str = "w1") -> str:
    found = world.machine.state.workers.get(worker)
    return found.state if found is not None else "gone"


def probed(world: World) -> set[object]:
    return {e.peer for e in world.said() if isinstance(e, fx.Send) and isinstance(e.message, m.Probe)}


def test_a_suspect_worker_is_asked_and_gets_no_probes_until_it_is_alive_again() -> None:
    world = advised()
    judge(world, "suspect")
    assert world.said() == [fx.Send("w1", m.Ping(1000))]
    assert state(world) == "suspect"
    world.hear(CLIENT, submit(2))
    assert probed(world) == {"w2"}
    judge(world, "alive")
    world.hear(CLIENT, submit(2, job="b"))
    assert probed(world) == {"w1", "w2"}


def test_where_all_are_suspect_all_are_probed() -> None:
    world = advised()
    judge(world, "suspect", "w1")
    judge(world, "suspect", "w2")
    world.said()
    world.hear(CLIENT, submit(2))
    assert probed(world) == {"w1", "w2"}


def test_a_dead_workers_tasks_are_launched_elsewhere() -> None:
    world = advised()
    world.hear(CLIENT, submit(1))
    assert world.start("w1") == [0]
    world.now += 1.0
    judge(world, "dead")
    said = world.said()
    assert fx.Send("w1", m.Goodbye("declared dead")) in said  # should it thaw
    assert fx.Close("w1") in said
    assert fx.Send(CLIENT, m.Died("a", 0, [0], [1])) in said
    assert [e.message.first for e in said if isinstance(e, fx.Send) and isinstance(e.message, m.Probe)] == [True]
    assert state(world) == "gone"
    [event] = [e for e in world.machine.state.history.rows(world.job(), [0])[0].events if e.kind == "lost"]
    assert event.detail == "the assistant declared it dead: no beat for 300 ms"


def test_a_worker_that_was_just_heard_is_not_dead_until_it_falls_silent() -> None:
    world = advised()
    world.hear(CLIENT, submit(1))
    assert world.start("w1") == [0]
    judge(world, "suspect")
    judge(world, "dead")
    world.said()
    assert (state(world), world.machine.state.counters["vetoed"]) == ("alive", 1)
    for _ in range(10):
        world.wait(0.1)
        world.hear("w1", m.Pong(1))
    assert state(world) == "alive"
    world.said()
    world.wait(0.5)
    assert state(world) == "gone"
    assert fx.Close("w1") in world.said()


def test_a_veto_is_over_once_the_assistant_hears_the_worker_again() -> None:
    world = advised()
    judge(world, "dead")
    judge(world, "alive")
    world.wait(2.0)
    assert state(world) == "alive"


def test_verdicts_are_about_one_incarnation() -> None:
    world = advised()
    world.now += 1.0
    judge(world, "dead", incarnation=2)
    judge(world, "dead", "w9")
    assert world.said() == []
    assert state(world) == "alive"


def test_a_dead_worker_may_come_back_with_what_it_runs() -> None:
    world = advised(workers=1)
    world.hear(CLIENT, submit(1))
    assert world.start("w1") == [0]
    world.now += 1.0
    judge(world, "dead")
    world.hear("again", hello(m.WORKER, "w1", held=[m.Held("a", 0, [0], [1])]))
    assert state(world) == "alive"
    world.said()
    world.hear("again", m.Result(1, "a", 0, [0], [1], b"\0", [5], [b"r"]))
    assert m.Outcome(1, "a", 0, [0], b"\0", [b"r"]) in world.to(CLIENT)


def test_only_the_highest_term_is_listened_to() -> None:
    world = advised(term=5)
    judge(world, "suspect", term=4)
    assert state(world) == "alive"
    world.hear("newer", hello(m.ASSISTANT, "a2", 9))
    assert fx.Close(ASSISTANT) in world.said()
    judge(world, "suspect", term=5)  # over a connection that is closed
    assert state(world) == "alive"
    world.hear("older", hello(m.ASSISTANT, "a1", 8))
    [refused] = world.to("older")
    assert isinstance(refused, m.Refused)
    assert refused.code == "superseded"
    world.hear("newer", m.Verdict(9, [m.Judged("w1", 1, "suspect")]))
    assert state(world) == "suspect"


def test_without_an_assistant_nobody_is_suspect() -> None:
    world = advised()
    judge(world, "suspect")
    world.lose(ASSISTANT)
    assert state(world) == "alive"


def test_an_assistant_cannot_do_what_clients_and_workers_do() -> None:
    for message in (submit(1), m.Result(1, "a", 0, [0], [1], b"\0", [5], [b"r"])):
        world = advised()
        world.hear(ASSISTANT, message)
        [refused] = world.to(ASSISTANT)
        assert isinstance(refused, m.Refused)
        assert refused.code == "forbidden"


# -- the assistant


def assistant(term: int = 5) -> Assistant:
    machine = Assistant(id="a1", incarnation=1, settings=SETTINGS)
    machine.heard(0.0, 0.0, 0.0, [])
    machine.leads(0.0, term)
    machine.schedulers_changed(0.0, {"s1": "one"})
    return machine


def beat(sequence: int, id: str = "w1", kind: str = "worker") -> Beat:
    return Beat(kind, id, 3, sequence, 100)


def said(machine: Assistant) -> Sequence[fx.AnyEffect]:
    return [effect for effect in machine.take_effects() if not isinstance(effect, fx.Log)]


def see(machine: Assistant, now: float, *beats: Beat) -> None:
    machine.heard(now, now, 0.0, [Arrival(now, one) for one in beats])


def test_it_says_hello_with_its_term_and_then_who_is_not_alive() -> None:
    machine = assistant()
    connection = m.Hello(m.PROTOCOL, "", m.ASSISTANT, "a1", 5, connection=1)
    assert said(machine) == [fx.Connect(1, "one"), fx.Send(1, connection)]
    see(machine, 0.0, beat(1))
    for step in range(1, 5):
        see(machine, step * 0.1)
    assert said(machine) == []
    machine.receive(0.4, 1, m.Welcome("s1", 1, ""))
    [send] = said(machine)
    assert isinstance(send, fx.Send)
    assert isinstance(send.message, m.Verdict)
    assert [(node.id, node.state) for node in send.message.nodes] == [("w1", "suspect")]


def test_changes_are_told_and_schedulers_are_condemned() -> None:
    machine = assistant()
    machine.receive(0.0, 1, m.Welcome("s1", 1, ""))
    see(machine, 0.0, beat(1), beat(1, "s9", "scheduler"))
    said(machine)
    for step in range(1, 7):
        see(machine, step * 0.1)
    told = said(machine)
    states = [
        [(node.id, node.incarnation, node.state) for node in effect.message.nodes]
        for effect in told
        if isinstance(effect, fx.Send) and isinstance(effect.message, m.Verdict)
    ]
    assert states == [[("w1", 3, "suspect")], [("w1", 3, "dead")]]
    assert [effect for effect in told if isinstance(effect, fx.Condemn)] == [
        fx.Condemn("s9", 3, "no beat for 500 ms (every 100 ms expected)")
    ]
    see(machine, 0.7, beat(8))
    [back] = said(machine)
    assert isinstance(back, fx.Send)
    assert back.message == m.Verdict(5, [m.Judged("w1", 3, "alive", 0, "it beats")])
    report = machine.report(0.7)
    assert (report.deaths, report.refuted, report.schedulers) == (2, 1, ["s1"])


def test_a_standby_hears_everything_and_says_nothing() -> None:
    machine = assistant(term=0)
    see(machine, 0.0, beat(1))
    for step in range(1, 9):
        see(machine, step * 0.1)
    assert said(machine) == []
    assert machine.report(0.8).nodes[0].state == "dead"
    machine.leads(0.8, 6)
    assert said(machine)[0] == fx.Connect(1, "one")
    machine.receive(0.8, 1, m.Welcome("s1", 1, ""))
    [send] = said(machine)
    assert isinstance(send, fx.Send)
    assert send.message == m.Verdict(6, [m.Judged("w1", 3, "dead", 800, "no beat for 800 ms (every 100 ms expected)")])
    machine.leads(0.9, 0)
    assert said(machine) == [fx.Close(1)]


def test_it_connects_again_and_follows_the_registry() -> None:
    machine = assistant()
    said(machine)
    machine.lost(0.0, 1)
    due = machine.next_deadline()
    assert due is not None
    machine.tick(due)
    assert said(machine)[0] == fx.Connect(2, "one")
    machine.schedulers_changed(0.1, {"s1": "elsewhere", "s2": "two"})
    assert [e for e in said(machine) if not isinstance(e, fx.Send)] == [
        fx.Close(2),
        fx.Connect(3, "elsewhere"),
        fx.Connect(4, "two"),
    ]
    machine.schedulers_changed(0.2, {"s2": "two"})
    assert said(machine) == [fx.Close(3)]
    machine.receive(0.3, 4, m.Refused("superseded", "no"))
    assert said(machine) == [fx.Close(4)]
    machine.tick(5.3)
    assert said(machine)[0] == fx.Connect(5, "two")
