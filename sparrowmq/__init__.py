"""sparrowmq: decentralised, low-latency scheduling of many short tasks (Sparrow, SOSP 2013).

What users import stands here by name and is loaded when it is first used, so that a worker or a scheduler that
imports a part of the package loads no client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparrowmq.client.aio import AsyncClient
    from sparrowmq.client.attached import AttachedJob, attach
    from sparrowmq.client.client import Client
    from sparrowmq.client.executor import Executor
    from sparrowmq.client.future import Future
    from sparrowmq.client.job import Job
    from sparrowmq.client.joblib_backend import register_joblib
    from sparrowmq.client.outcomes import CommandResult
    from sparrowmq.client.progress import progress
    from sparrowmq.client.tasks import task
    from sparrowmq.client.waiting import as_completed
    from sparrowmq.errors import (
        CommandFailed,
        ConfigError,
        NotSerializable,
        ProtocolError,
        Refused,
        Rejected,
        RemoteError,
        SparrowError,
        TaskCrashed,
        TaskError,
        TaskLost,
        TaskTimedOut,
        TooLarge,
        Unavailable,
        UsageError,
    )
    from sparrowmq.local import LocalCluster

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "AttachedJob",
    "Client",
    "CommandFailed",
    "CommandResult",
    "ConfigError",
    "Executor",
    "Future",
    "Job",
    "LocalCluster",
    "NotSerializable",
    "ProtocolError",
    "Refused",
    "Rejected",
    "RemoteError",
    "SparrowError",
    "TaskCrashed",
    "TaskError",
    "TaskLost",
    "TaskTimedOut",
    "TooLarge",
    "Unavailable",
    "UsageError",
    "as_completed",
    "attach",
    "progress",
    "register_joblib",
    "task",
]

_HOMES = {
    "AsyncClient": "sparrowmq.client.aio",
    "AttachedJob": "sparrowmq.client.attached",
    "Client": "sparrowmq.client.client",
    "CommandResult": "sparrowmq.client.outcomes",
    "Executor": "sparrowmq.client.executor",
    "Future": "sparrowmq.client.future",
    "Job": "sparrowmq.client.job",
    "LocalCluster": "sparrowmq.local",
    "as_completed": "sparrowmq.client.waiting",
    "attach": "sparrowmq.client.attached",
    "progress": "sparrowmq.client.progress",
    "register_joblib": "sparrowmq.client.joblib_backend",
    "task": "sparrowmq.client.tasks",
}


if not TYPE_CHECKING:  # a checker would take any name for an attribute

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'sparrowmq' has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOMES.get(name, "sparrowmq.errors")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
