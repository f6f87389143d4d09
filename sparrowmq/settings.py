"""What each component can be told: one frozen Struct a component, every field with a default.

Owns: names, types, ranges and defaults. Must not know: files, environment variables, flags (config.py loads
them) or what a component does with a value. config/default.toml documents each field; a test keeps it equal
to this file. Units stand last in a name.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sparrowmq.limits import AssistantLimits, SchedulerLimits, WorkerLimits

Seconds = Annotated[float, Meta(gt=0.0, le=86_400.0)]
SecondsOrZero = Annotated[float, Meta(ge=0.0, le=86_400.0)]
SlotCount = Annotated[int, Meta(ge=0, le=4096)]
PreloadName = Annotated[str, Meta(max_length=256, pattern=r"^[\w.]+(:[\w.]+)?$")]
AllowName = Annotated[str, Meta(max_length=256, pattern=r"^[\w.]+:([\w.]+|\*)$")]
Address = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^(tcp|ipc)://.+")]


class SchedulerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One scheduler. Addresses are ZeroMQ endpoints; port 0 lets the system choose one."""

    bind_workers: Address = "tcp://127.0.0.1:0"
    bind_clients: Address = "tcp://127.0.0.1:0"
    advertise_host: str = ""  # "": the bound host, or the address towards Redis where all are bound
    reconnect_grace_s: SecondsOrZero = 0.01  # or three round trips, where those are longer
    client_lease_s: Seconds = 10.0
    eager: bool = True
    cancellation: bool = True
    unschedulable_after_s: Seconds = 10.0
    ping_interval_s: Seconds = 1.0
    silent_after_s: Seconds = 10.0
    drain_timeout_s: SecondsOrZero = 30.0
    beat_interval_s: SecondsOrZero = 0.1  # 0: no beats
    claim_timeout_s: Seconds = 0.05
    thaw_s: Seconds = 0.3
    limits: SchedulerLimits = SchedulerLimits()


class WorkerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One worker: a node monitor and its slots."""

    slots: SlotCount = 0  # 0: as many as the CPU quota or affinity gives
    request_timeout_s: Seconds = 1.0
    scheduler_grace_s: SecondsOrZero = 5.0
    drain_timeout_s: SecondsOrZero = 30.0
    ping_interval_s: Seconds = 1.0
    silent_after_s: Seconds = 10.0
    beat_interval_s: SecondsOrZero = 0.1  # 0: no beats
    window_s: SecondsOrZero = 0.02
    preload: Annotated[list[PreloadName], Meta(max_length=256)] = []  # "module", imported; "module:function", called
    preload_timeout_s: Seconds = 120.0
    allow: Annotated[list[AllowName], Meta(max_length=10_000)] = []  # "module:function", "module:*"; []: everything
    recycle_tasks: Annotated[int, Meta(ge=0)] = 0  # 0: a slot's process is never replaced for its age
    recycle_mib: Annotated[int, Meta(ge=0)] = 0  # 0: nor for its size
    task_memory_mib: Annotated[int, Meta(ge=0)] = 0  # 0: no limit
    task_processes: Annotated[int, Meta(ge=0)] = 512  # 0: no limit
    output_bytes: Annotated[int, Meta(ge=0, le=64 * 1024 * 1024)] = 256 * 1024  # of a task and stream
    limits: WorkerLimits = WorkerLimits()


class AssistantSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One assistant. Several may run; the one that holds the lease speaks.

    A node is suspect once the detector says so, and dead ``confirm_beats`` of its intervals later.
    """

    detector: Literal["fixed", "chen", "bertier", "phi-accrual", "self-tuning"] = "chen"
    detection_beats: Annotated[float, Meta(ge=1.0, le=1000.0)] = 2.0  # the detector's margin, in intervals
    confirm_beats: Annotated[float, Meta(ge=0.0, le=1000.0)] = 2.0
    margin_s_max: SecondsOrZero = 1.0  # for the assistant's own lag
    forget_after_s: Seconds = 60.0  # a node that was declared dead
    hint_interval_s: SecondsOrZero = 0.1  # 0: no hints
    canary_interval_s: Annotated[float, Meta(gt=0.0, le=0.1)] = 0.05  # far below what counts as a gap (core/judge.py)
    lease_s: Seconds = 0.6
    limits: AssistantLimits = AssistantLimits()


class ClientSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One client session."""

    connect_timeout_s: Seconds = 5.0
    unavailable_after_s: Seconds = 30.0
    jobs_in_flight: Annotated[int, Meta(ge=1, le=10_000)] = 5000  # with schedulers at a time; others wait here
    ping_interval_s: Seconds = 1.0
    silent_after_s: Seconds = 5.0


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Redis: where it is, and how long anything waits for it. A record lives for ``ttl_s`` unless refreshed."""

    url: str = ""  # "": none
    username: str = ""  # "": the URL's, or the role's where the password comes from security.keys
    password: str = ""  # "": the URL's, or the one in security.keys
    tls_ca_file: str = ""  # "": the system's
    tls_cert_file: str = ""  # "": this end shows no certificate
    tls_key_file: str = ""
    sentinel_username: str = ""
    sentinel_password: str = ""  # "": sentinels ask for none
    prefix: Annotated[str, Meta(min_length=1, max_length=64)] = "sq:"
    connect_timeout_s: Seconds = 2.0
    reply_timeout_s: Seconds = 2.0
    ttl_s: Seconds = 6.0
    refresh_interval_s: Seconds = 2.0
    poll_interval_s: Seconds = 1.0
    results_ttl_s: Annotated[float, Meta(ge=1.0, le=366 * 86_400.0)] = 86_400.0  # of a durable job, from its end


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Log lines on standard error. "auto": human on a terminal, JSON otherwise."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "human", "json"] = "auto"


class SecuritySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What guards the sockets. With ``keys``, a directory (security/keyring.py), every connection is encrypted.

    ``insecure`` allows to bind beyond loopback without.
    """

    keys: str = ""  # "": none
    insecure: bool = False


class HealthSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How others can tell that a process is well: its loop touches ``file`` each second."""

    file: str = ""  # "": none
