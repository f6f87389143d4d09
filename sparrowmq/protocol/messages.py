"""What the parts say to each other: one frozen Struct a message, a positional msgpack array on the wire.

Owns: the messages, their fields and their integer tags; the records inside them stand in records.py and can be
had from here, too. Must not know: bytes (codec.py), sockets, or what a machine does with a message.
docs/protocol.md is the same in prose, for clients in other languages.

Conventions. ``job`` is a job id and ``epoch`` its generation (raised at each fail-over, DESIGN rule 7).
``indices`` are task numbers within the job, ``attempts`` the launch numbers beside them. ``payloads`` hold
one entry a task, or a single entry that all tasks share. ``statuses`` is one byte a task (see `Status`
values below). A field added later goes last and has a default: older peers ignore it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from sparrowmq import limits
from sparrowmq.protocol.records import (
    CALL as CALL,
    CANCELLED as CANCELLED,
    COMMAND as COMMAND,
    FAILED as FAILED,
    LOST as LOST,
    PYTHON as PYTHON,
    RETRY as RETRY,
    SLEEP as SLEEP,
    STATUS_NAMES as STATUS_NAMES,
    SUCCEEDED as SUCCEEDED,
    TIMED_OUT as TIMED_OUT,
    Amount as Amount,
    Attempt as Attempt,
    Attempts as Attempts,
    Count as Count,
    Detail as Detail,
    Durations as Durations,
    Event as Event,
    Held as Held,
    Index as Index,
    Indices as Indices,
    JobSpec as JobSpec,
    JobStatus as JobStatus,
    Judged as Judged,
    Reserved as Reserved,
    Statuses as Statuses,
    Stream as Stream,
    TaskCount as TaskCount,
    TaskStatus as TaskStatus,
    Text as Text,
    WorkerStatus as WorkerStatus,
)

PROTOCOL: Final = 1


class Blob:
    """A payload that travels in a frame of its own, uncopied. ``buffer`` is bytes-like (or a ZeroMQ frame)."""

    __slots__ = ("buffer", "size")

    def __init__(self, buffer: object, size: int) -> None:
        self.buffer = buffer
        self.size = size

    def __len__(self) -> int:
        return self.size


if TYPE_CHECKING:
    Payload = bytes | Blob
else:  # on the wire a blob is the number of its frame
    Payload = bytes | Annotated[int, Meta(ge=0, lt=limits.FRAMES_MAX)]

Payloads = Annotated[list[Payload], Meta(max_length=limits.TASKS_PER_JOB_MAX)]

TOO_SOON: Final = "too_soon"  # the code of a `Rejected` job of one who submits too fast

# Roles of a connection's sender.
CLIENT: Final = "client"
WORKER: Final = "worker"
SCHEDULER: Final = "scheduler"  # of beats only
ASSISTANT: Final = "assistant"


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of all messages."""


class Hello(Message, frozen=True, tag=1):
    """First on every connection: who is there, in which version, holding what (DESIGN rule 1).

    The first four fields keep their place in every version, so that a mismatch can be refused by name.
    """

    protocol: Count
    package: Text
    role: Text
    id: Text
    incarnation: Count
    python: Text = ""
    host: Text = ""
    pid: Count = 0
    slots: Count = 0
    reserved: Annotated[list[Reserved], Meta(max_length=limits.INVENTORY_MAX)] = []
    held: Annotated[list[Held], Meta(max_length=limits.INVENTORY_MAX)] = []
    jobs: Annotated[list[Text], Meta(max_length=limits.INVENTORY_MAX)] = []  # a client's unfinished jobs
    connection: Count = 0  # grows from one to the next that an incarnation makes; 0: it does not say
    key: Text = ""  # the fingerprint of its sender's key: what a sender writes here is overwritten where it arrives
    owner: Text = ""  # the tag that its jobs' ids bear (ids.py): overwritten likewise


class Welcome(Message, frozen=True, tag=2):
    """The scheduler accepts the hello. ``jobs``: those of the client's that it knows and keeps running."""

    id: Text
    incarnation: Count
    package: Text
    jobs: Annotated[list[Text], Meta(max_length=limits.INVENTORY_MAX)] = []


class Refused(Message, frozen=True, tag=3):
    """The scheduler will not talk to this peer, or a message broke the protocol. The connection is over."""

    code: Text
    detail: Detail


class Submit(Message, frozen=True, tag=4):
    """A job. ``indices`` empty means 0..count-1; otherwise the unfinished ones of a resubmission.

    ``deaths`` (empty: all 0) carries how many workers each task has already lost, so that the bound
    survives a fail-over. ``detached``: the job outlives its client; nobody is sent its outcomes.
    """

    job: Text
    epoch: Count
    spec: JobSpec
    count: TaskCount
    payloads: Payloads
    function: Payload = b""
    indices: Indices = []
    deaths: Attempts = []
    detached: bool = False


class Accepted(Message, frozen=True, tag=5):
    """The scheduler has the job. ``workers``: how many connected workers could run it now."""

    job: Text
    epoch: Count
    workers: Count


class Rejected(Message, frozen=True, tag=6):
    """The scheduler does not take the job; nothing of it runs. ``retry_after_s`` > 0: try again then.

    With the code "too_soon" no other job should come before then, either.
    """

    job: Text
    epoch: Count
    code: Text
    detail: Detail
    retry_after_s: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 0.0


class Probe(Message, frozen=True, tag=7):
    """Scheduler to worker: leave ``count`` reservations; count 0 only asks for the load (SOSP 2013, 3.2-3.5).

    ``first``: at the head of the queue, for tasks that were lost with a worker.
    """

    job: Text
    epoch: Count
    round: Count
    count: Count
    first: bool = False


class Load(Message, frozen=True, tag=8):
    """Worker to scheduler: the answer to a probe of count 0."""

    job: Text
    epoch: Count
    round: Count
    queued: Count
    running: Count
    slots: Count


class Request(Message, frozen=True, tag=9):
    """Worker to scheduler: ``count`` reservations of this job have reached the head of the queue."""

    request: Count
    job: Text
    epoch: Count
    round: Count
    count: Count


class Task(Message, frozen=True, tag=10):
    """Scheduler to worker: launches. ``request`` 0: pushed by an early-binding policy.

    Consumes as many requested reservations as it has tasks. ``function`` is empty when the worker was sent it
    before. ``renew`` leaves that many new reservations of ``round`` at the tail of the queue (DESIGN rule 6).
    ``eager`` (with ``request`` 0): start them at once, in slots that have nothing to do, or give them back as "busy".
    """

    request: Count
    job: Text
    epoch: Count
    spec: JobSpec
    indices: Indices
    attempts: Attempts
    payloads: Payloads
    function: Payload = b""
    renew: Count = 0
    round: Count = 0
    eager: bool = False


class NoOp(Message, frozen=True, tag=11):
    """Scheduler to worker: ``count`` of the request's reservations have no task."""

    request: Count
    count: Count


class Cancel(Message, frozen=True, tag=12):
    """Scheduler to worker: drop queued reservations of this job up to ``round`` (DESIGN rule 5)."""

    job: Text
    epoch: Count
    round: Count


class Recall(Message, frozen=True, tag=13):
    """Give back tasks that have not started. Client to scheduler (cancel them), or scheduler to worker."""

    request: Count
    job: Text
    epoch: Count
    indices: Indices


class Returned(Message, frozen=True, tag=14):
    """Tasks that did not start and never will: the answer to a recall, or unasked (``request`` 0).

    ``reason`` is one of "recalled", "drain", "slow", "crash", "function", "late", "busy", "full", "refused".
    """

    request: Count
    job: Text
    epoch: Count
    indices: Indices
    attempts: Attempts = []
    reason: Text = "recalled"


class Result(Message, frozen=True, tag=15):
    """Worker to scheduler: tasks that ended. Sent again after a reconnect until acknowledged up to ``seq``."""

    seq: Count
    job: Text
    epoch: Count
    indices: Indices
    attempts: Attempts
    statuses: Statuses
    service_us: Durations
    payloads: Payloads


class ResultAck(Message, frozen=True, tag=16):
    """Scheduler to worker: every result up to ``seq`` is safe here."""

    seq: Count


class Outcome(Message, frozen=True, tag=17):
    """Scheduler to client: tasks that are over, for good. Acknowledged like results."""

    seq: Count
    job: Text
    epoch: Count
    indices: Indices
    statuses: Statuses
    payloads: Payloads


class OutcomeAck(Message, frozen=True, tag=18):
    """Client to scheduler: every outcome up to ``seq`` is safe here."""

    seq: Count


class Stale(Message, frozen=True, tag=19):
    """The receiver acts for an epoch of this job that is over; ``epoch`` is the current one."""

    job: Text
    epoch: Count


class Kill(Message, frozen=True, tag=20):
    """End these tasks, running ones too (``indices`` empty: all of the job). Client to scheduler to worker.

    A running task is interrupted (KeyboardInterrupt; SIGTERM for a command) and has ``grace_s`` to end, then its
    process is killed. The payload of the outcome `CANCELLED` tells which: empty (it had not started),
    "interrupted" or "killed".
    """

    job: Text
    epoch: Count
    indices: Indices = []
    grace_s: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 0.0


class Query(Message, frozen=True, tag=21):
    """Ask for a `Status` once.

    ``what``: "summary", "workers", "jobs", "recent" (workers, and the newest jobs), "job" (with ``job``: an id or its
    prefix), "tasks" (with a full id and ``indices``) or "failures" (with a full id: the first tasks that did not
    succeed).
    """

    request: Count
    what: Text
    job: Text = ""
    indices: Annotated[list[Index], Meta(max_length=limits.TASK_ROWS_MAX)] = []


class Subscribe(Message, frozen=True, tag=22):
    """Ask for a `Status` every ``interval_s`` until the connection ends; 0 ends the subscription."""

    request: Count
    what: Text
    interval_s: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 1.0


class Status(Message, frozen=True, tag=23):
    """Scheduler to client: the answer to a query or one tick of a subscription."""

    request: Count
    scheduler: Text
    jobs: Annotated[list[JobStatus], Meta(max_length=limits.STATUS_ROWS_MAX)] = []
    workers: Annotated[list[WorkerStatus], Meta(max_length=limits.STATUS_ROWS_MAX)] = []
    counters: Annotated[dict[Text, Count], Meta(max_length=limits.COUNTERS_MAX)] = {}
    tasks: Annotated[list[TaskStatus], Meta(max_length=limits.TASK_ROWS_MAX)] = []
    host: Text = ""
    pid: Count = 0
    package: Text = ""
    unix_s: Amount = 0.0  # the scheduler's clock


class Ping(Message, frozen=True, tag=24):
    """Either way: are you there? Answered by `Pong` with the same ``n``."""

    n: Count


class Pong(Message, frozen=True, tag=25):
    """The answer to `Ping`."""

    n: Count


class Goodbye(Message, frozen=True, tag=26):
    """The sender leaves. "draining": give it nothing new; "leaving": it is gone when you read this."""

    reason: Text


class Output(Message, frozen=True, tag=27):
    """What a running task wrote: worker to scheduler, which keeps some of it and sends it to those who follow.

    Best effort: a connection that drops loses what was under way. ``dropped``: bytes left out before these.
    """

    job: Text
    epoch: Count
    index: Index
    attempt: Attempt
    stream: Stream
    data: Annotated[bytes, Meta(max_length=limits.OUTPUT_BYTES_MAX)]
    dropped: Count = 0


class Follow(Message, frozen=True, tag=28):
    """Client to scheduler: send the `Output` of a job (a full id) that is kept and, if ``live``, what is to come."""

    request: Count
    job: Text
    live: bool = False


class Followed(Message, frozen=True, tag=29):
    """The end of what was asked with `Follow`. ``state``: the job's as in its status, "" if it is not known here."""

    request: Count
    job: Text
    state: Text = ""


class Drain(Message, frozen=True, tag=30):
    """Take ``worker`` (a full id) out of service: it finishes what runs, for ``grace_s`` at most, and ends.

    Client to scheduler, which answers with a `Status` that has the worker's row (none: it is not known here).
    Scheduler to worker, which hands back what it has not finished by then.
    """

    request: Count
    worker: Text
    grace_s: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 0.0


class Verdict(Message, frozen=True, tag=31):
    """Assistant to scheduler: what it has come to think of workers; first, on a connection, of all that are not alive.

    ``term`` is the fencing token of its lease: one below another that the scheduler has seen is ignored. The scheduler
    leaves a suspect worker out of sampling, and gives a dead one up unless it has just heard it itself.
    """

    term: Count
    nodes: Annotated[list[Judged], Meta(max_length=limits.STATUS_ROWS_MAX)]


class Hints(Message, frozen=True, tag=32):
    """Assistant to scheduler: the workers to probe first, its share; parallel lists.

    No two schedulers are given the same worker. ``waits_us``: what others have left there is expected to keep a task
    waiting so long, by the worker's last beat.
    """

    term: Count
    workers: Annotated[list[Text], Meta(max_length=limits.STATUS_ROWS_MAX)]
    waits_us: Annotated[list[Count], Meta(max_length=limits.STATUS_ROWS_MAX)]


class Claim(Message, frozen=True, tag=33):
    """Scheduler to worker: this job is mine from this epoch on; hand over what you hold of earlier ones (rule 13)."""

    job: Text
    epoch: Count


class Claimed(Message, frozen=True, tag=34):
    """Worker to scheduler: these attempts run here, or have ended and their results follow. The answer to `Claim`.

    What waited of earlier epochs is dropped.
    """

    job: Text
    epoch: Count
    indices: Indices
    attempts: Attempts


class Died(Message, frozen=True, tag=35):
    """Scheduler to client: so many workers have died under each of these tasks so far (for `Submit.deaths`)."""

    job: Text
    epoch: Count
    indices: Indices
    deaths: Attempts


class Proof(Message, frozen=True, tag=36):
    """First on a connection to a scheduler with keys, and together with the hello: its sender may act as ``role``.

    ``mac`` shows that it knows the role's secret (security/credentials.py); empty where its key is on the scheduler's
    list. The transport adds it and takes it away: machines never see one.
    """

    role: Text
    id: Text
    mac: Annotated[bytes, Meta(max_length=limits.PROOF_BYTES_MAX)] = b""


AnyMessage = (
    Hello | Welcome | Refused | Submit | Accepted | Rejected | Probe | Load | Request | Task | NoOp | Cancel
    | Recall | Returned | Result | ResultAck | Outcome | OutcomeAck | Stale | Kill | Query | Subscribe | Status
    | Ping | Pong | Goodbye | Output | Follow | Followed | Drain | Verdict | Hints | Claim | Claimed | Died
    | Proof
)  # fmt: skip
