"""What a machine wants done: plain values, in order, that a driver carries out.

Owns: the vocabulary between the machines and their drivers (runtime, simulator, tests). Must not know: how
any of it is done. ``peer`` names one connection: any hashable value, never reused; a scheduler gets it from
its driver, a node monitor or a session picks an integer in `Connect`.
"""

from __future__ import annotations

from collections.abc import Hashable

import msgspec

from sparrowmq.protocol import messages as m
from sparrowmq.protocol.beats import Beat

Peer = Hashable


class Effect(msgspec.Struct, frozen=True, gc=False):
    """Base of all effects."""


class Send(Effect, frozen=True):
    """Send ``message`` to ``peer``; to a peer that is gone, drop it (its loss is reported by itself)."""

    peer: Peer
    message: m.AnyMessage


class Connect(Effect, frozen=True):
    """Open a fresh connection to ``address`` and call it ``peer``. Sends may follow at once."""

    peer: int
    address: str


class Close(Effect, frozen=True):
    """Forget ``peer`` after what was sent to it before; nothing of it is reported any more."""

    peer: Peer


class Look(Effect, frozen=True):
    """See what the connection to ``peer`` has carried, and tell by `carried`; do nothing where that cannot be known."""

    peer: Peer


class Log(Effect, frozen=True):
    """Something an operator wants to read. ``fields`` are short texts and numbers, never payloads."""

    level: str  # "debug", "info", "warning", "error"
    event: str
    fields: dict[str, object] = {}


class Exit(Effect, frozen=True):
    """The machine is done: end the process."""

    reason: str


class Deposit(Effect, frozen=True):
    """A beat for the store: only the newest one counts, and none is waited for (DESIGN rule 9)."""

    beat: Beat


# Scheduler to the store, about durable jobs. `saved` answers each token once; order is kept.


class SaveJob(Effect, frozen=True):
    """Write this submission of ``client``'s, and own the job from now on, unless it is known at this epoch or later.

    ``tasks``: how many there are, or have been before it was resubmitted. ``patient``: it is not given up while the
    store does not answer.
    """

    token: int
    client: str
    submit: m.Submit
    tasks: int
    submitted_unix_s: float
    patient: bool = False


class SaveOutcomes(Effect, frozen=True):
    """Append these outcomes, if the job is still this scheduler's; ``over``: they are the last. Without any: ask only.

    ``outcome.seq`` counts those of the job's epoch: what is said again is not written again. ``deaths``: how many
    workers each task has lost so far, where that has changed.
    """

    token: int
    outcome: m.Outcome
    over: bool = False
    deaths: dict[int, int] = {}


class ForgetJob(Effect, frozen=True):
    """This scheduler does not take the job after all: of epoch 0 it is removed, else anybody may have it."""

    job: str
    epoch: int


# Assistant to the store.


class Condemn(Effect, frozen=True):
    """Mark this incarnation of a scheduler as dead in the registry, where its clients look."""

    scheduler: str
    incarnation: int
    detail: str


# Node monitor to its slots.


class SpawnSlot(Effect, frozen=True):
    """Start the process of this slot; `slot_ready` or `slot_exited` follows."""

    slot: int


class StartTasks(Effect, frozen=True):
    """Hand tasks to a slot, which runs them in order. Task i has sequence number ``first_seq + i``."""

    slot: int
    first_seq: int
    job: str
    epoch: int
    spec: m.JobSpec
    function: m.Payload
    payloads: list[m.Payload]  # one a task, or a single one that all share
    indices: list[int]
    attempts: list[int]


class ReclaimSlot(Effect, frozen=True):
    """Keep the slot from starting anything it was handed so far and has not started.

    `slot_reclaimed` follows and says from where on.
    """

    slot: int


class InterruptSlot(Effect, frozen=True):
    """Ask the task with this sequence number to end, if it is the one that runs (KeyboardInterrupt, or SIGTERM).

    It ends soon, with a result like any other, or does not care. No other task is concerned.
    """

    slot: int
    seq: int


class KillSlot(Effect, frozen=True):
    """Kill the slot's process with all its descendants; `slot_exited` follows."""

    slot: int


# Session to the client above it.


class JobAccepted(Effect, frozen=True):
    """A scheduler has the job. ``workers``: how many could run it at that moment."""

    job: str
    workers: int


class JobEnded(Effect, frozen=True):
    """The job will not run, or not further: every task without an outcome ends with this error."""

    job: str
    code: str  # a rejection's code, or "unavailable"
    detail: str


class Deliver(Effect, frozen=True):
    """Outcomes, each shown once: parallel lists; ``statuses`` one byte a task."""

    job: str
    indices: list[int]
    statuses: bytes
    payloads: list[m.Payload]


class Recalled(Effect, frozen=True):
    """The answer to a recall: these tasks are cancelled (their outcomes were delivered); others came too late."""

    request: int
    job: str
    indices: list[int]


class Answer(Effect, frozen=True):
    """A scheduler's status, for the query or subscription with this number."""

    request: int
    status: m.Status


class Linked(Effect, frozen=True):
    """The session is connected to this scheduler now ("" : to none)."""

    scheduler: str
    detail: str = ""


AnyEffect = (
    Send | Connect | Close | Look | Log | Exit | Deposit | SaveJob | SaveOutcomes | ForgetJob | Condemn | SpawnSlot
    | StartTasks | ReclaimSlot | InterruptSlot | KillSlot | JobAccepted | JobEnded | Deliver | Recalled | Answer
    | Linked
)  # fmt: skip
