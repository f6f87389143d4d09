"""The client session's jobs: which wait for their turn, which outlive the client, and how they are ended."""

from __future__ import annotations

import random

import msgspec
import pytest

from sparrowmq.core import effects as fx, invariants
from sparrowmq.core.session import Session
from sparrowmq.protocol import messages as m
from tests.core.test_session import SPEC, effects, hello, outcome, session, submit

# -- jobs that wait for their turn


def flight(machine: Session, *jobs: str) -> None:
    machine.submit_all(1.0, [submit(job) for job in jobs], flight=True)


def test_of_a_flight_two_jobs_are_sent_and_the_next_when_one_ends() -> None:
    machine = session()
    flight(machine, "a", "b", "c", "d")
    assert effects(machine) == [fx.Send(1, submit("a")), fx.Send(1, submit("b"))]
    machine.receive(1.1, 1, outcome(1, [0, 1, 2], job="b"))
    assert effects(machine) == [
        fx.Deliver("b", [0, 1, 2], bytes(3), [b"r0", b"r1", b"r2"]),
        fx.Send(1, submit("c")),
        fx.Send(1, m.OutcomeAck(1)),
    ]
    machine.receive(1.2, 1, m.Rejected("a", 0, "invalid", "because"))
    assert effects(machine) == [fx.JobEnded("a", "invalid", "because"), fx.Send(1, submit("d"))]


def test_flights_do_not_wait_for_each_other_or_for_single_jobs() -> None:
    machine = session()
    flight(machine, "a", "b", "c")
    flight(machine, "d", "e", "f")
    machine.submit(1.0, submit("g"))
    assert [e.message.job for e in effects(machine)] == ["a", "b", "d", "e", "g"]  # type: ignore[union-attr]


def test_single_jobs_wait_while_very_many_are_under_way() -> None:
    machine = session(jobs_in_flight=2)
    for job in "abc":
        machine.submit(1.0, submit(job))
    assert effects(machine) == [fx.Send(1, submit("a")), fx.Send(1, submit("b"))]
    machine.receive(1.1, 1, m.Rejected("a", 0, "busy", "full", 0.5))  # it keeps its place
    assert effects(machine) == []
    machine.receive(1.2, 1, outcome(1, [0, 1, 2], job="b"))
    assert effects(machine)[1:] == [fx.Send(1, submit("c")), fx.Send(1, m.OutcomeAck(1))]
    machine.tick(1.6)
    assert effects(machine)[-1] == fx.Send(1, submit("a"))


def test_what_waits_for_its_turn_is_cancelled_and_killed_without_anybodys_help() -> None:
    machine = session()
    flight(machine, "a", "b", "c", "d")
    machine.take_effects()
    machine.recall(1.1, 9, "c", [0])
    machine.kill(1.1, "d", [], 5.0)
    machine.kill(1.1, "c", [2])
    assert effects(machine) == [
        fx.Deliver("c", [0], bytes([m.CANCELLED]), [b""]),
        fx.Recalled(9, "c", [0]),
        fx.Deliver("d", [0, 1, 2], bytes([m.CANCELLED] * 3), [b""] * 3),
        fx.Deliver("c", [2], bytes([m.CANCELLED]), [b""]),
    ]
    machine.receive(1.2, 1, outcome(1, [0, 1, 2], job="a"))
    machine.receive(1.2, 1, outcome(2, [0, 1, 2], job="b"))
    sent = [e.message for e in effects(machine) if isinstance(e, fx.Send)]
    assert sent == [m.Submit("c", 0, SPEC, 1, [b"y"], indices=[1]), m.OutcomeAck(2)]  # d is over: it is not sent
    machine.receive(1.3, 1, outcome(3, [1], job="c"))
    machine.take_effects()
    invariants.check_rest(machine)


def test_a_flight_waits_for_a_scheduler_and_moves_with_its_two_jobs_only() -> None:
    machine = session(linked=False)
    flight(machine, "a", "b", "c")
    assert effects(machine) == []
    machine.receive(1.1, 1, m.Welcome("s1", 7, "0"))
    assert effects(machine) == [fx.Linked("s1"), fx.Send(1, submit("a")), fx.Send(1, submit("b"))]
    machine.lost(2.0, 1)
    assert effects(machine)[-1] == fx.Send(2, hello("a", "b"))  # of c no scheduler has heard
    machine.receive(2.1, 2, m.Welcome("s1", 8, "0"))
    moved = [e.message for e in effects(machine) if isinstance(e, fx.Send)]
    assert [(message.job, message.epoch) for message in moved] == [("a", 1), ("b", 1)]  # type: ignore[union-attr]


def test_a_flight_ends_as_a_whole_when_no_scheduler_is_found() -> None:
    machine = session(unavailable_after_s=3.0)
    flight(machine, "a", "b", "c", "d")
    machine.lost(1.0, 1)
    machine.take_effects()
    machine.schedulers_changed(1.1, {})
    machine.lost(1.1, 2)
    machine.tick(4.0)
    ended = [e.job for e in effects(machine) if isinstance(e, fx.JobEnded)]
    assert ended == ["a", "b", "c", "d"]
    invariants.check_rest(machine)


# -- detached jobs


def test_a_detached_job_is_forgotten_once_accepted() -> None:
    machine = session()
    machine.submit(1.0, submit(detached=True))
    machine.receive(1.1, 1, m.Accepted("a", 0, 5))
    assert effects(machine) == [fx.Send(1, submit(detached=True)), fx.JobAccepted("a", 5)]
    invariants.check_rest(machine)
    machine.receive(1.2, 1, outcome(1, [0]))  # nobody asked for it
    assert effects(machine) == [fx.Send(1, m.OutcomeAck(1))]


def test_a_detached_job_that_is_not_accepted_yet_is_said_again_under_the_same_epoch() -> None:
    machine = session()
    machine.submit(1.0, submit(detached=True))
    machine.lost(1.1, 1)
    machine.take_effects()
    machine.receive(1.2, 2, m.Welcome("s1", 7, "0"))
    assert effects(machine) == [fx.Linked("s1"), fx.Send(2, submit(detached=True))]
    machine.lost(1.3, 2)
    machine.receive(1.4, 3, m.Welcome("s1", 8, "0"))  # it was restarted and knows nothing
    machine.receive(1.5, 3, m.Accepted("a", 1, 2))
    assert effects(machine)[-1] == fx.JobAccepted("a", 2)


def test_a_detached_job_that_runs_and_whose_acceptance_was_lost_is_said_again() -> None:
    """The swarm's seed 525: its scheduler listed it as running, and its client waited for ever to hear that it is."""
    machine = session()
    machine.submit(1.0, submit(detached=True))
    machine.lost(1.1, 1)
    machine.take_effects()
    machine.receive(1.2, 2, m.Welcome("s1", 7, "0", ["a"]))
    assert effects(machine) == [fx.Linked("s1"), fx.Send(2, submit(detached=True))]
    machine.receive(1.3, 2, m.Accepted("a", 0, 2))
    assert effects(machine) == [fx.JobAccepted("a", 2)]


def test_a_detached_job_that_is_rejected_ends() -> None:
    machine = session()
    machine.submit(1.0, submit(detached=True))
    machine.receive(1.1, 1, m.Rejected("a", 0, "invalid", "because"))
    assert effects(machine)[-1] == fx.JobEnded("a", "invalid", "because")


# -- kills with a grace


def test_a_kill_is_said_again_with_the_grace_that_each_task_was_given() -> None:
    machine = session()
    machine.submit(1.0, submit())
    machine.kill(1.1, "a", [0], 2.5)
    machine.kill(1.1, "a", [1, 2])
    assert effects(machine)[1:] == [fx.Send(1, m.Kill("a", 0, [0], 2.5)), fx.Send(1, m.Kill("a", 0, [1, 2]))]
    machine.lost(1.2, 1)
    machine.receive(1.4, 2, m.Welcome("s1", 7, "0", ["a"]))
    assert effects(machine)[-2:] == [fx.Send(2, m.Kill("a", 0, [0], 2.5)), fx.Send(2, m.Kill("a", 0, [1, 2]))]


def test_what_a_scheduler_sent_back_has_never_run() -> None:
    machine = session()
    machine.submit(1.0, submit())
    machine.receive(1.1, 1, m.Rejected("a", 0, "busy", "full", 0.5))
    machine.take_effects()
    machine.kill(1.2, "a", [0])
    assert effects(machine) == [fx.Deliver("a", [0], bytes([m.CANCELLED]), [b""])]


def durable(job: str = "a") -> m.Submit:
    return msgspec.structs.replace(submit(job), spec=msgspec.structs.replace(SPEC, durable=True))


def test_a_kill_of_a_durable_job_waits_for_the_scheduler_that_has_it_next() -> None:
    """The swarm's seed 141: it was shown as killed, and taken over by another scheduler, and ran to its end."""
    machine = session({"s1": "at s1", "s2": "at s2"})
    machine.submit(1.0, durable())
    machine.receive(1.1, 1, m.Accepted("a", 0, 1))
    machine.kill(1.1, "a", [0], 2.5)
    machine.lost(1.2, 1)
    machine.kill(1.3, "a", [1], 0.0)
    machine.take_effects()
    machine.receive(1.4, 2, m.Welcome("s2", 8, "0"))
    again = msgspec.structs.replace(durable(), epoch=1, indices=[0, 1, 2])
    assert effects(machine)[-1:] == [fx.Send(2, again)]
    machine.receive(1.5, 2, m.Rejected("a", 1, "busy", "full", 0.1))
    machine.kill(1.6, "a", [2], 0.0)
    assert effects(machine) == []
    machine.tick(1.7)
    assert effects(machine)[-1:] == [fx.Send(2, again)]
    machine.receive(1.8, 2, m.Accepted("a", 1, 1))
    assert [e.message for e in effects(machine) if isinstance(e, fx.Send)] == [
        m.Kill("a", 1, [0], 2.5), m.Kill("a", 1, [1, 2], 0.0),
    ]  # fmt: skip


@pytest.mark.parametrize("detached", [False, True])
def test_a_kill_is_said_again_once_a_job_is_written(detached: bool) -> None:
    """The scheduler does not know it before: what comes between is dropped."""
    machine = session()
    machine.submit(1.0, msgspec.structs.replace(durable(), detached=detached))
    machine.kill(1.0, "a", [])
    machine.take_effects()
    machine.receive(1.1, 1, m.Accepted("a", 0, 1))
    assert fx.Send(1, m.Kill("a", 0, [0, 1, 2], 0.0)) in effects(machine)


# -- a scheduler that takes jobs only so fast


def sent(machine: Session) -> list[str]:
    return [e.message.job for e in effects(machine) if isinstance(e, fx.Send) and isinstance(e.message, m.Submit)]


def accept(machine: Session, now: float, *jobs: str) -> None:
    for job in jobs:
        machine.receive(now, 1, m.Accepted(job, 0, 1))


def refuse(machine: Session, now: float, *jobs: str) -> None:
    for job in jobs:
        machine.receive(now, 1, m.Rejected(job, 0, m.TOO_SOON, "slowly", 0.5))


def test_jobs_stand_in_line_once_one_came_too_soon_and_the_pace_grows_with_each_that_is_taken() -> None:
    machine = session()
    for job in "abcd":
        machine.submit(1.0, submit(job))
    assert sent(machine) == ["a", "b", "c", "d"], "nobody has said anything yet"
    accept(machine, 1.1, "a")
    refuse(machine, 1.1, "b", "c", "d")
    for job in "efghi":
        machine.submit(1.2, submit(job))
    machine.tick(1.59)
    assert sent(machine) == []
    machine.tick(1.6)
    assert sent(machine) == ["b"], "one, to see"
    accept(machine, 1.7, "b")
    assert sent(machine) == ["c"]
    accept(machine, 1.8, "c")
    assert sent(machine) == ["d", "e"]
    accept(machine, 1.9, "d", "e")
    assert sent(machine) == ["f", "g", "h", "i"], "two more for two"
    refuse(machine, 2.0, "f")
    machine.submit(2.0, submit("k"))
    machine.tick(2.5)
    assert sent(machine) == [], "three are unanswered"
    accept(machine, 2.6, "g")
    assert sent(machine) == []
    accept(machine, 2.6, "h")
    assert sent(machine) == ["f"], "what was sent back comes first"
    refuse(machine, 2.7, "f")
    machine.tick(3.2)
    assert sent(machine) == []
    accept(machine, 3.3, "i")
    assert sent(machine) == ["f"]
    accept(machine, 3.4, "f")
    assert sent(machine) == ["k"]


def test_one_that_stands_in_line_is_cancelled_here_and_makes_room_for_nobody() -> None:
    machine = session()
    for job in "abc":
        machine.submit(1.0, submit(job))
    refuse(machine, 1.1, "a", "b", "c")
    machine.take_effects()
    machine.kill(1.2, "a", [])
    machine.recall(1.2, 5, "b", [0, 1, 2])
    assert effects(machine) == [
        fx.Deliver("a", [0, 1, 2], bytes([m.CANCELLED]) * 3, [b""] * 3),
        fx.Deliver("b", [0, 1, 2], bytes([m.CANCELLED]) * 3, [b""] * 3),
        fx.Recalled(5, "b", [0, 1, 2]),
    ]
    machine.tick(1.6)
    assert sent(machine) == ["c"]


def test_of_one_that_stands_in_line_only_what_was_not_cancelled_is_sent() -> None:
    """The swarm's seeds 18 and 32: what had been shown as cancelled ran all the same."""
    machine = session()
    for job in "abc":
        machine.submit(1.0, submit(job))
    refuse(machine, 1.1, "a", "b")
    machine.take_effects()
    machine.kill(1.2, "a", [0])
    machine.recall(1.2, 5, "b", [1, 2])
    machine.kill(1.2, "c", [0, 1])  # the scheduler has refused it, and this is not known yet
    machine.take_effects()
    refuse(machine, 1.3, "c")
    machine.tick(1.6)
    accept(machine, 1.7, "a")
    accept(machine, 1.8, "b")
    given = {
        effect.message.job: effect.message.indices
        for effect in effects(machine)
        if isinstance(effect, fx.Send) and isinstance(effect.message, m.Submit)
    }
    assert given == {"a": [1, 2], "b": [0], "c": [2]}


def test_one_that_stands_in_line_and_was_killed_meanwhile_is_not_sent() -> None:
    machine = session()
    killed = [f"k{number}" for number in range(2000)]  # more than the stack has room for
    machine.submit_all(1.0, [submit(job) for job in [*killed, "b"]])
    for job in killed:
        machine.kill(1.0, job, [])
    machine.take_effects()
    refuse(machine, 1.1, *killed, "b")
    machine.tick(1.6)
    told = effects(machine)
    assert [effect.job for effect in told if isinstance(effect, fx.Deliver)] == killed
    sends = [effect.message for effect in told if isinstance(effect, fx.Send)]
    assert [message for message in sends if isinstance(message, m.Submit)] == [submit("b")]


def test_one_that_ends_otherwise_makes_room_for_the_next() -> None:
    machine = session()
    for job in "ab":
        machine.submit(1.0, submit(job))
    refuse(machine, 1.1, "a", "b")
    assert sent(machine) == ["a", "b"]
    machine.tick(1.6)
    assert sent(machine) == ["a"]
    machine.receive(1.7, 1, m.Rejected("a", 0, "invalid", "because"))
    assert sent(machine) == ["b"]


def test_one_whose_epoch_is_over_holds_nobody_up() -> None:
    """The swarm's seed 130: it counted as unanswered, waited behind itself, and so did all others for ever."""
    machine = session()
    for job in "ab":
        machine.submit(1.0, submit(job))
    refuse(machine, 1.1, "a", "b")
    machine.tick(1.6)
    assert sent(machine)[-1:] == ["a"]
    machine.receive(1.7, 1, m.Stale("a", 4))
    assert sent(machine) == ["b"]
    accept(machine, 1.8, "b")
    assert sent(machine) == ["a"]
    invariants.check_session(machine)


def test_another_scheduler_is_not_held_to_have_the_same_limit() -> None:
    machine = session({"s1": "at s1", "s2": "at s2"})
    for job in "abc":
        machine.submit(1.0, submit(job))
    refuse(machine, 1.1, "a", "b", "c")
    machine.take_effects()
    machine.lost(1.2, 1)
    machine.receive(1.4, 2, m.Welcome("s2", 8, "0"))
    assert sent(machine) == ["a", "b", "c"]
    machine.receive(1.5, 2, m.Rejected("a", 0, m.TOO_SOON, "slowly", 0.5))
    machine.tick(1.6)  # when the first one had wanted to hear of them
    assert sent(machine) == []
    machine.tick(2.0)
    assert sent(machine) == ["a"]


def test_what_is_cancelled_in_line_is_not_sent_later_with_the_rest_of_its_job() -> None:
    machine = session()
    machine.submit(1.0, submit("a"))
    refuse(machine, 1.1, "a")
    machine.recall(1.2, 5, "a", [0])
    assert effects(machine)[-1] == fx.Recalled(5, "a", [0])
    machine.tick(1.6)
    assert fx.Send(1, m.Submit("a", 0, SPEC, 2, [b"y", b"z"], indices=[1, 2])) in effects(machine)


def test_what_is_killed_before_it_is_refused_is_not_sent_again() -> None:
    machine = session()
    machine.submit(1.0, submit("a"))
    machine.submit(1.0, submit("b"))
    machine.kill(1.05, "a", [])
    machine.kill(1.05, "b", [1])
    machine.take_effects()
    refuse(machine, 1.1, "a", "b")
    assert effects(machine) == [
        fx.Deliver("a", [0, 1, 2], bytes([m.CANCELLED]) * 3, [b""] * 3),
        fx.Deliver("b", [1], bytes([m.CANCELLED]), [b""]),
    ]
    machine.tick(1.6)
    assert fx.Send(1, m.Submit("b", 0, SPEC, 2, [b"x", b"z"], indices=[0, 2])) in effects(machine)


def test_one_that_is_to_go_past_a_later_epoch_holds_nobody_up() -> None:
    machine = session()
    for job in "abc":
        machine.submit(1.0, submit(job))
    refuse(machine, 1.1, "a", "b", "c")
    machine.tick(1.6)
    assert sent(machine) == ["a", "b", "c", "a"]
    machine.receive(1.7, 1, m.Stale("a", 3))
    assert sent(machine) == ["b"]
    accept(machine, 1.8, "b")
    assert sent(machine) == ["c"]
    accept(machine, 1.9, "c")
    [again] = [e.message for e in effects(machine) if isinstance(e, fx.Send)]
    assert (again.job, again.epoch) == ("a", 4)  # type: ignore[union-attr]


# -- any order of events


class World:
    """A session, and schedulers that remember what they were sent. Every task must end once, whatever happens."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.machine = session({"s1": "at s1", "s2": "at s2"}, jobs_in_flight=3)
        self.now = 1.0
        self.peer = 1  # the connection that stands; 0: none
        self.asked = 0  # the connection that waits for a welcome
        self.there: dict[str, tuple[int, set[int]]] = {}  # jobs of the scheduler: epoch, open tasks
        self.shown: list[tuple[str, int]] = []
        self.killed: set[tuple[str, int]] = set()
        self.submitted: list[tuple[str, int]] = []
        self.recalled: set[int] = set()
        self.requests = 0
        self.seq = 0

    def settle(self) -> None:
        for effect in effects(self.machine):
            match effect:
                case fx.Deliver():
                    self.shown += [(effect.job, index) for index in effect.indices]
                case fx.Recalled():
                    self.recalled.add(effect.request)
                case fx.Connect():
                    self.asked = effect.peer
                case fx.Send(_, m.Submit() as sent) if effect.peer == self.peer:
                    tasks = set(sent.indices or range(sent.count))
                    over = {(sent.job, index) for index in tasks} & {*self.shown, *self.killed}
                    assert not over, f"{over} are over, or killed, and are sent"
                    self.there[sent.job] = (sent.epoch, tasks)
                case fx.Send(_, m.Recall() as recall):
                    _, tasks = self.there[recall.job]
                    back = [index for index in recall.indices if index in tasks and self.rng.random() < 0.5]
                    self.end(recall.job, back, m.CANCELLED)
                    self.machine.receive(
                        self.now, self.peer, m.Returned(recall.request, recall.job, recall.epoch, back)
                    )

    def end(self, job: str, indices: list[int], status: int) -> None:
        epoch, tasks = self.there[job]
        self.seq += 1
        tasks.difference_update(indices)
        if not tasks:
            del self.there[job]
        payloads: list[m.Payload] = [b""] * len(indices)
        outcome = m.Outcome(self.seq, job, epoch, indices, bytes([status]) * len(indices), payloads)
        self.machine.receive(self.now, self.peer, outcome)

    def step(self) -> None:
        self.now += self.rng.choice([0.0, 0.01, 0.6])
        job = self.rng.choice(sorted(self.machine.jobs) or ["none"])
        some = self.rng.sample(range(3), self.rng.randint(1, 3))
        what = ["submit", "end", "end", "end", "recall", "kill", "reject", "accept", "stale", "lose", "welcome", "tick"]
        match self.rng.choice(what):
            case "submit" if len(self.submitted) < 60:
                names = [f"{len(self.submitted)}-{n}" for n in range(self.rng.randint(1, 5))]
                self.submitted += [(name, index) for name in names for index in range(3)]
                self.machine.submit_all(self.now, [submit(name) for name in names], flight=self.rng.random() < 0.5)
            case "end" if self.peer and self.there:
                name = self.rng.choice(sorted(self.there))
                self.end(name, [i for i in some if i in self.there[name][1]] or list(self.there[name][1]), m.SUCCEEDED)
            case "recall":
                self.requests += 1
                self.machine.recall(self.now, self.requests, job, some)
            case "kill":
                named = self.rng.choice([some, []])
                if job in self.machine.jobs:
                    self.killed |= {(job, index) for index in named or range(3)}
                self.machine.kill(self.now, job, named, self.rng.choice([0.0, 2.0]))
            case "reject" if self.peer and self.there:
                name = self.rng.choice(sorted(self.there))
                epoch, _ = self.there.pop(name)
                code = self.rng.choice(["busy", m.TOO_SOON])
                self.machine.receive(self.now, self.peer, m.Rejected(name, epoch, code, "full", 0.1))
            case "accept" if self.peer and self.there:
                self.accept(self.rng.choice(sorted(self.there)))
            case "stale" if self.peer and self.there:
                name = self.rng.choice(sorted(self.there))
                epoch, _ = self.there.pop(name)
                self.machine.receive(self.now, self.peer, m.Stale(name, epoch + self.rng.randint(0, 1)))
            case "lose" if self.peer:
                lost, self.peer = self.peer, 0
                self.machine.lost(self.now, lost)
            case "welcome":
                self.welcome()
            case "tick":
                self.machine.tick(self.now)
        self.settle()

    def accept(self, name: str) -> None:
        self.machine.receive(self.now, self.peer, m.Accepted(name, self.there[name][0], 1))

    def welcome(self) -> None:
        if self.peer or not self.asked:
            return
        self.peer, self.asked = self.asked, 0
        if self.rng.random() < 0.5:  # it was restarted, or is another one
            self.there.clear()
        self.machine.receive(self.now, self.peer, m.Welcome("s", 7 if self.there else 8, "0", sorted(self.there)))

    def finish(self) -> None:
        for _ in range(500):
            self.now += 0.6
            self.machine.tick(self.now)
            self.settle()
            self.welcome()
            self.settle()
            if self.peer:
                for name in sorted(self.there):
                    if name in self.there:
                        self.end(name, sorted(self.there[name][1]), m.SUCCEEDED)
                self.settle()
            if not self.machine.jobs:
                return


def test_every_task_ends_once_whatever_happens() -> None:
    for seed in range(300):
        world = World(seed)
        for _ in range(150):
            world.step()
        world.finish()
        assert sorted(world.shown) == sorted(world.submitted), f"seed {seed}"
        assert world.recalled == set(range(1, world.requests + 1)), f"seed {seed}"
        invariants.check_rest(world.machine)
