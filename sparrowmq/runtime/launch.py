"""What a launcher and its owner say to each other: one line of JSON each, on standard input and output.

Owns: the specification of a local cluster, the orders to its launcher, and the launcher's reports. Must not
know: who acts on them.
"""

from __future__ import annotations

import msgspec

from sparrowmq.settings import LogSettings, SchedulerSettings, StoreSettings, WorkerSettings


class LaunchSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to start; the first line. ``directory`` is private and goes with the cluster.

    An empty ``store.url`` means: start a server for it.
    """

    directory: str
    schedulers: int
    workers: int
    scheduler: SchedulerSettings = SchedulerSettings()
    worker: WorkerSettings = WorkerSettings()
    store: StoreSettings = StoreSettings()
    log: LogSettings = LogSettings()
    detached: bool = False
    restart: bool = False  # whether a scheduler or worker that ends is replaced
    start_timeout_s: float = 15.0
    drain_timeout_s: float = 10.0  # at SIGTERM
    state_path: str = ""
    log_path: str = ""
    python_path: list[str] = []


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From the owner: "start" one more ``role``, or "stop", with ``drain_s`` for running tasks."""

    order: str
    role: str = ""
    drain_s: float = 0.0


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """To the owner: "started", "exited" (a member), "store" (its pid), "ready" or "failed" (the whole)."""

    report: str
    role: str = ""
    id: str = ""
    pid: int = 0
    status: int = 0
    url: str = ""
    error: str = ""
    hint: str = ""
    exit_code: int = 0
