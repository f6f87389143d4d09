"""The records inside messages: what a job is, what a sender holds, what a status tells.

Owns: their fields, the types and bounds of fields, and the constants that stand in them. Must not know: messages.
On the wire each is an array without a tag. A field added later goes last and has a default.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from sparrowmq import limits

Text = Annotated[str, Meta(max_length=limits.TEXT_CHARS_MAX)]
Detail = Annotated[str, Meta(max_length=limits.DETAIL_CHARS_MAX)]
Count = Annotated[int, Meta(ge=0, le=limits.INT_MAX)]
TaskCount = Annotated[int, Meta(ge=1, le=limits.TASKS_PER_JOB_MAX)]
Index = Annotated[int, Meta(ge=0, lt=limits.TASKS_PER_JOB_MAX)]
Indices = Annotated[list[Index], Meta(max_length=limits.TASKS_PER_JOB_MAX)]
Attempt = Annotated[int, Meta(ge=0, le=limits.INT_MAX)]
Attempts = Annotated[list[Attempt], Meta(max_length=limits.TASKS_PER_JOB_MAX)]
Durations = Annotated[list[Count], Meta(max_length=limits.TASKS_PER_JOB_MAX)]
Amount = Annotated[float, Meta(ge=0.0, le=float(limits.INT_MAX))]  # the bounds keep NaN and infinity out
Statuses = Annotated[bytes, Meta(max_length=limits.TASKS_PER_JOB_MAX)]
Stream = Annotated[int, Meta(ge=1, le=2)]  # 1: standard output, 2: standard error

# Task kinds: how a slot reads a task's payload.
PYTHON: Final = 0  # cloudpickled callable; payload: pickle of (args, kwargs); result: pickle
CALL: Final = 1  # function is the text "module:function"; payload: msgpack [args, kwargs]; result: msgpack
COMMAND: Final = 2  # payload: msgpack {argv, ...}; result: msgpack [status, stdout, stderr]
SLEEP: Final = 3  # payload: msgpack seconds; result: msgpack nil

# How a task ended. Final once reported, save for the last.
SUCCEEDED: Final = 0
FAILED: Final = 1  # it raised, its process crashed, or its command returned another status than 0
TIMED_OUT: Final = 2
CANCELLED: Final = 3  # payload: empty (it had not started), "interrupted" or "killed"
LOST: Final = 4  # its workers died max_attempts times
STATUS_NAMES: Final = ("succeeded", "failed", "timed_out", "cancelled", "lost")
RETRY: Final = 5  # in a result only: it failed, in a way that its job wants tried again


class JobSpec(msgspec.Struct, frozen=True, array_like=True):
    """What is the same for all tasks of a job."""

    kind: Annotated[int, Meta(ge=PYTHON, le=SLEEP)] = PYTHON
    name: Text = ""
    policy: Text = "late-binding"
    probe_ratio: Annotated[float, Meta(ge=1.0, le=limits.PROBE_RATIO_MAX)] = 2.0
    timeout_s: Annotated[float, Meta(ge=0.0, le=limits.TIMEOUT_S_MAX)] = 0.0  # 0: no timeout
    max_attempts: Annotated[int, Meta(ge=1, le=limits.ATTEMPTS_MAX)] = 3  # worker deaths before a task is lost
    python: Text = ""  # "3.11": only workers of this minor version can load the pickles; "" means any
    retries: Annotated[int, Meta(ge=0, le=limits.RETRIES_MAX)] = 0  # failed attempts that are tried again
    backoff_s: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 0.0  # before the first retry; doubles with each
    # Which failures: names of exception classes, "ValueError" or "module.Class", bases included; empty: any failure.
    retry_on: Annotated[list[Text], Meta(max_length=limits.RETRY_ON_MAX)] = []
    # A second attempt for a task that runs longer than this quantile of its siblings, or than so many seconds; 0: none.
    hedge_quantile: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    hedge_after_s: Annotated[float, Meta(ge=0.0, le=limits.TIMEOUT_S_MAX)] = 0.0
    # No task is ever started twice: where its worker or its scheduler dies, and it may have started, it is lost.
    at_most_once: bool = False
    # Specification and outcomes are kept in Redis: the job survives its client and its scheduler.
    durable: bool = False


class Reserved(msgspec.Struct, frozen=True, array_like=True):
    """Inventory: reservations of one job and round that wait in the sender's queue."""

    job: Text
    epoch: Count
    round: Count
    count: Count


class Held(msgspec.Struct, frozen=True, array_like=True):
    """Inventory: attempts of one job that the sender holds: queued, running, or ended and not yet acknowledged."""

    job: Text
    epoch: Count
    indices: Indices
    attempts: Attempts


class Judged(msgspec.Struct, frozen=True, array_like=True):
    """What an assistant thinks of one node, of this incarnation."""

    id: Text
    incarnation: Count
    state: Text  # "alive", "suspect", "dead"
    silent_ms: Count = 0  # since its last beat
    detail: Detail = ""


class WorkerStatus(msgspec.Struct, frozen=True, array_like=True):
    """One worker as one scheduler sees it."""

    id: Text
    host: Text
    pid: Count
    slots: Count
    state: Text  # "alive", "suspect", "draining", "lost"
    reservations: Count  # that this scheduler has left there
    launched: Count  # tasks of this scheduler that are there
    done: Count
    rtt_ms: Amount
    package: Text
    python: Text


class JobStatus(msgspec.Struct, frozen=True, array_like=True):
    """One job's ledger: tasks = unplaced + resting + launched + succeeded + failed + timed_out + cancelled + lost."""

    id: Text
    name: Text
    policy: Text
    state: Text  # "waiting", "running", "done", "cancelled"
    tasks: Count
    unplaced: Count
    launched: Count
    counts: Annotated[list[Count], Meta(min_length=5, max_length=5)]  # by final status
    epoch: Count
    client: Text
    submitted_unix_s: Amount
    response_s: Amount  # 0 while unfinished
    queueing_p50_ms: Amount  # response - service, per task, as the scheduler sees it
    queueing_p99_ms: Amount
    service_p50_ms: Amount
    probes: Count
    no_ops: Count
    cancels: Count  # reservations withdrawn
    relaunches: Count
    detail: Detail = ""
    resting: Count = 0  # failed tasks whose next attempt waits for its back-off
    retries: Count = 0  # failed attempts that were, or will be, tried again
    hedges: Count = 0  # second attempts of slow tasks
    output_bytes: Count = 0  # kept for `job logs`
    detached: bool = False


class Event(msgspec.Struct, frozen=True, array_like=True):
    """One thing that happened to a task."""

    unix_s: Amount
    kind: (
        Text  # "submitted", "launched", "adopted", "returned", "lost", "failed", "retried", "hedged", or a final status
    )
    attempt: Count = 0
    worker: Text = ""
    detail: Detail = ""


class TaskStatus(msgspec.Struct, frozen=True, array_like=True):
    """One task as its scheduler knows it."""

    job: Text
    index: Index
    state: Text  # "unplaced", "resting", "launched", or a final status
    attempts: Count
    worker: Text  # where it runs, or ran last
    service_us: Count  # 0 while unfinished
    events: Annotated[list[Event], Meta(max_length=limits.EVENTS_MAX)] = []
    failure: Annotated[bytes, Meta(max_length=limits.FAILURE_BYTES_MAX)] = b""  # the payload of a failed outcome
