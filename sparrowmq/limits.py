"""Every bound of the protocol and of the machines' collections, in one place.

Owns: the numbers. Must not know: who enforces them. Settings can lower some of them; nothing raises the
protocol's own ones, since both ends must agree on them.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

# The protocol: the same on both ends of every connection.
FRAME_BYTES_MAX: Final = 64 * 1024 * 1024 + 4096  # a 64 MiB payload and the pickle framing around it
FRAMES_MAX: Final = 1024  # frames of one multipart message
MESSAGES_MAX: Final = 4096  # messages in one body frame
TASKS_PER_JOB_MAX: Final = 100_000
JOB_BYTES_MAX: Final = 256 * 1024 * 1024  # the payloads of one job together
DURABLE_BYTES_MAX: Final = 64 * 1024 * 1024  # ... of one that is kept in Redis
INLINE_BYTES_MAX: Final = 16 * 1024  # a larger payload travels in a frame of its own
TEXT_CHARS_MAX: Final = 256  # ids, names, codes
DETAIL_CHARS_MAX: Final = 4096  # sentences meant for people
PROOF_BYTES_MAX: Final = 64  # of a proof of enrolment
INT_MAX: Final = 2**53  # counters and identifiers: exact in every language's double
PROBE_RATIO_MAX: Final = 100.0
TIMEOUT_S_MAX: Final = 30 * 86_400.0
ATTEMPTS_MAX: Final = 100
INVENTORY_MAX: Final = 200_000  # entries of a hello
HELLO_BYTES_MAX: Final = 16 * 1024 * 1024  # of a connection's first message: all that a worker by default may hold
STATUS_ROWS_MAX: Final = 50_000  # jobs or workers in one status
COUNTERS_MAX: Final = 1024  # named counters in one status
TASK_ROWS_MAX: Final = 1000  # tasks in one status
EVENTS_MAX: Final = 1000  # of one task in a status
FAILURE_BYTES_MAX: Final = 64 * 1024  # of one failed task's payload in a status
RETRIES_MAX: Final = 100
RETRY_ON_MAX: Final = 32  # names of exceptions
OUTPUT_BYTES_MAX: Final = 64 * 1024  # of a task's output in one message

RateOrZero = Annotated[float, Meta(ge=0.0, le=1e9)]


class SchedulerLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of one scheduler's collections."""

    jobs: int = 10_000  # unfinished jobs
    tasks: int = 2_000_000  # tasks of unfinished jobs
    payload_bytes: int = 2 * 1024**3  # payloads of unfinished jobs and unacknowledged outcomes
    clients: int = 10_000
    workers: int = 20_000
    finished_jobs: int = 1_000  # summaries kept for `job list`
    client_credit_bytes: int = 256 * 1024 * 1024  # unacknowledged outcomes of one client; beyond, its tasks wait
    history_tasks: int = 200_000  # tasks of finished jobs whose history is kept
    history_bytes: int = 64 * 1024 * 1024  # unusual events and failures of tasks, over all jobs
    job_output_bytes: int = 1024 * 1024  # the last output of a job
    output_bytes: int = 64 * 1024 * 1024  # output kept over all jobs
    submits_per_s: RateOrZero = 0.0  # jobs of one client's key; 0: no limit
    probes_per_s: RateOrZero = 0.0  # probes and tasks sent for the jobs of one client's key; 0: no limit
    tasks_per_job: Annotated[int, Meta(ge=0, le=TASKS_PER_JOB_MAX)] = 0  # 0: the protocol's limit


class WorkerLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of one worker's collections."""

    queue_entries: int = 100_000  # reservations (counted per job and round) and pushed batches
    queued_tasks: int = 200_000  # pushed tasks that wait for a slot
    schedulers: int = 256
    functions: int = 256  # cached functions
    function_bytes: int = 512 * 1024 * 1024
    unacked_bytes: int = 512 * 1024 * 1024  # results that no scheduler has acknowledged; beyond, no requests
    window_tasks: int = 1024  # tasks of one request
    job_records: int = 4096  # jobs whose epoch and pace are remembered


class AssistantLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of one assistant's collections."""

    nodes: int = 20_000  # workers and schedulers that are watched
    schedulers: int = 256  # that are talked to
    beats: int = 100_000  # kept in the store's stream
