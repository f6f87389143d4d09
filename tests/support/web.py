"""Readings of a small cluster, for tests of what the page makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from sparrowmq.core.assistant import AssistantReport, NodeReport
from sparrowmq.protocol import messages as m
from sparrowmq.protocol.beats import Beat
from sparrowmq.store.listener import Heard
from sparrowmq.web.reading import Reading

NOW = 1_800_000_000.0  # a moment in the page's clock


def job(id: str = "j1", *, tasks: int = 10, **more: Any) -> m.JobStatus:
    fields = {
        "name": "", "policy": "late-binding", "state": "running", "unplaced": 0, "launched": 0, "counts": [0] * 5,
        "epoch": 0, "client": "c", "submitted_unix_s": NOW, "response_s": 0.0, "queueing_p50_ms": 0.0,
        "queueing_p99_ms": 0.0, "service_p50_ms": 0.0, "probes": 0, "no_ops": 0, "cancels": 0, "relaunches": 0,
    }  # fmt: skip
    return m.JobStatus(id=id, tasks=tasks, **(fields | more))


def row(id: str, state: str = "alive", **more: Any) -> m.WorkerStatus:
    fields: dict[str, Any] = {"slots": 2, "reservations": 0, "launched": 0, "done": 0, "rtt_ms": 1.0} | more
    return m.WorkerStatus(id=id, host="h", pid=1, state=state, package="0", python="3.11", **fields)


def status(
    *workers: str | m.WorkerStatus, held: Sequence[m.JobStatus] = (), scheduler: str = "s1", **counters: int
) -> m.Status:
    rows = [row(one) if isinstance(one, str) else one for one in workers]
    return m.Status(1, scheduler, list(held), rows, counters, [], "h", 1, "0", NOW)


def node(id: str, state: str = "alive", **more: Any) -> NodeReport:
    fields: dict[str, Any] = {
        "kind": "worker", "incarnation": 1, "state_since_unix_s": NOW, "silent_ms": 40.0, "beats": 9, "suspicions": 0,
        "slots": 2, "running": 1, "queued": 3, "interval_ms": 100, "suspect_after_ms": 300.0,
        "heard_unix_s": NOW - 0.04,
    }  # fmt: skip
    return NodeReport(id=id, state=state, **(fields | more))


def report(*nodes: NodeReport, at_s: float = NOW) -> AssistantReport:
    return AssistantReport(
        "a1", "h", 1, "0", 7, "chen", 1.0, 2.0, at_s, ["s1"], list(nodes), 0, 0, {}, 0.5, 0, 0
    )  # fmt: skip


def reading(*statuses: m.Status, nodes: Sequence[NodeReport] = (), at_s: float = NOW, **more: Any) -> Reading:
    fields: dict[str, Any] = {"schedulers": len(statuses), "assistants": 1, "leader": "a1"} | more
    return Reading(statuses, report=report(*nodes, at_s=at_s), **fields)


def beat(id: str, age_s: float = 0.0, sequence: int = 1, **more: Any) -> Heard:
    return Heard(age_s, msgspec.structs.replace(Beat("worker", id, 1, sequence, 100, 2, 1, 3, 1000), **more))
