"""What a launcher and its owner say to each other: one line of JSON each, on standard input and output.

Owns: the specification of a local cluster, where its sockets are, the orders to its launcher, and the launcher's
reports. Must not know: who acts on them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from sparrowmq.settings import AssistantSettings, LogSettings, SchedulerSettings, StoreSettings, WorkerSettings

SOCKET_PATH_CHARS_MAX: Final = 90  # a Unix socket's path has at most 107, its ending included


class OnConnect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A program of the cluster that is started when somebody first connects to a listening socket, which it inherits.

    It finds the cluster by SPARROWMQ_STORE_URL and SPARROWMQ_SECURITY_KEYS, and the socket at the same number.
    """

    fd: int
    command: list[str]


class LaunchSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to start; the first line. ``directory`` is private and goes with the cluster.

    An empty ``store.url`` means: start a server for it.
    """

    directory: str
    schedulers: int
    workers: int
    assistants: int = 0
    scheduler: SchedulerSettings = SchedulerSettings()
    worker: WorkerSettings = WorkerSettings()
    assistant: AssistantSettings = AssistantSettings()
    store: StoreSettings = StoreSettings()
    log: LogSettings = LogSettings()
    keys: str = ""  # a directory, absolute
    detached: bool = False
    restart: bool = False  # whether a process that fails is replaced; one that ends in order is not
    start_timeout_s: float = 15.0
    drain_timeout_s: float = 10.0  # at SIGTERM
    state_path: str = ""
    log_path: str = ""
    python_path: list[str] = []
    held_fd: int = -1  # inherited: it keeps ``directory`` from being taken for a left one
    page: OnConnect | None = None


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From the owner: "start" one more ``role``, "end" the member ``pid``, or "stop" all.

    ``drain_s`` is what running tasks get; then what still runs is killed.
    """

    order: str
    role: str = ""
    pid: int = 0
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


def nearby(settings: SchedulerSettings, path: Path) -> SchedulerSettings:
    """Return the settings with Unix sockets at ``path`` where the default, a loopback port, was not changed.

    All of a local cluster is on this machine, where Unix sockets are faster and only their owner can open them.
    """
    default = SchedulerSettings()
    if len(str(path)) > SOCKET_PATH_CHARS_MAX or (settings.bind_workers, settings.bind_clients) != (
        default.bind_workers,
        default.bind_clients,
    ):
        return settings
    return msgspec.structs.replace(settings, bind_workers=f"ipc://{path}-w", bind_clients=f"ipc://{path}-c")
