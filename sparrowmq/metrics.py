"""Figures of a cluster as Prometheus reads them: what they are, and the HTTP server that answers with them.

Owns: the series, what a scrape reads, how long an answer is kept. Must not know: command lines, or how a wait is
estimated (core/hinting.py). prometheus-client is the extra `metrics`; it is imported here only.

Everything is read from Redis when it is asked for: what is registered, who leads, and the leader's report. Nothing
names a task, a job or a worker.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from statistics import median
from typing import Any, Final, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, make_server

import msgspec
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from sparrowmq.core.assistant import AssistantReport, NodeReport
from sparrowmq.core.judge import ALIVE, DEAD, SUSPECT
from sparrowmq.errors import Refused, Unavailable
from sparrowmq.protocol import messages as m
from sparrowmq.runtime import health, logs
from sparrowmq.settings import StoreSettings
from sparrowmq.store import lease
from sparrowmq.store.registry import Registry

CACHE_S: Final = 1.0  # an answer is good for so long, and a failure, too: assistants tell no more than twice a second
REQUESTS_MAX: Final = 16  # at once; more are hung up on
REQUEST_S: Final = 5.0  # a client that says nothing for so long is hung up on
LOOK_S: Final = 0.5  # how often the server's loop turns while nobody asks


class Reading(NamedTuple):
    """What Redis knows of a cluster. ``report`` is the leading assistant's, None where none leads or has told any."""

    schedulers: int
    assistants: int
    leads: bool
    report: AssistantReport | None


def read(store: StoreSettings) -> Reading:
    """Read it now, in a few round trips. Raises Unavailable or Refused, within the settings' timeouts."""
    registry = Registry(store)
    try:
        schedulers = sum(not record.dead for record in registry.schedulers().values())
        assistants = registry.assistants()
        holder, _ = lease.leader(store)
        leader = next((id for id, record in assistants.items() if holder == f"{id}:{record.incarnation}"), None)
        told = registry.reports([leader]).get(leader, b"") if leader is not None else b""
    finally:
        registry.close()
    report = None
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):  # nothing told yet, or by another version
        report = msgspec.json.decode(told, type=AssistantReport)
    return Reading(schedulers, len(assistants), leader is not None, report)


def queueing_delay_s(nodes: Iterable[NodeReport]) -> float | None:
    """Return how long a task submitted now is to wait for a slot; None where that cannot be told.

    The median of the waits at the workers that are alive and take tasks. A task begins at the better of about two
    workers that are drawn at random, so three of four begin no later than this; and one worker that counts wrongly, or
    whose tasks are far longer than all others', moves a mean as far as it likes, and the median hardly.
    """
    waits = [node.wait_ms for node in _alive(nodes) if node.slots and node.wait_ms is not None]
    return median(waits) * 1e-3 if waits else None


def _alive(nodes: Iterable[NodeReport]) -> Iterator[NodeReport]:
    return (node for node in nodes if node.kind == m.WORKER and node.state == ALIVE)


def families(reading: Reading | None) -> Iterator[GaugeMetricFamily]:
    """Yield the series of a reading, None where Redis does not answer. What is not known is left out: 0 is a figure."""
    report = reading.report if reading is not None else None
    up = "Whether Redis answers and an assistant that leads has told what it knows: all else is known then."
    yield _gauge("up", up, report is not None)
    if reading is not None:
        yield _gauge("schedulers", "Schedulers that are registered and not declared dead.", reading.schedulers)
        yield _gauge("assistants", "Assistants that are registered.", reading.assistants)
        yield _gauge("assistant_leads", "Whether one of the assistants leads.", reading.leads)
    if report is None:
        return
    states = Counter(node.state for node in report.nodes if node.kind == m.WORKER)
    workers = GaugeMetricFamily("sparrowmq_workers", "Workers as the assistant judges them.", labels=["state"])
    for state in (ALIVE, SUSPECT, DEAD):
        workers.add_metric([state], states[state])
    yield workers
    alive = list(_alive(report.nodes))
    yield _gauge("slots", "Slots of the workers that are alive.", sum(node.slots for node in alive))
    yield _gauge("running", "Slots that are busy.", sum(node.running for node in alive))
    queued = "Reservations and tasks in the workers' queues; late binding leaves some reservations for each task."
    yield _gauge("queued", queued, sum(node.queued for node in alive))
    delay_s = queueing_delay_s(report.nodes)
    if delay_s is not None:
        yield _gauge("queueing_delay_seconds", "How long a task submitted now is to wait for a slot.", delay_s)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"sparrowmq_{name}", text, value=float(value))


class ClusterCollector(Collector):
    """Reads the cluster when it is asked, at most once in ``CACHE_S``; whoever asks meanwhile waits and shares it."""

    def __init__(self, read: Callable[[], Reading], clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._until_s = float("-inf")
        self._last: Reading | None = None
        self._failing = False

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the series."""
        return families(self._look())

    def _look(self) -> Reading | None:
        with self._lock:
            if self._clock() >= self._until_s:
                try:
                    self._last = self._read()
                    self._failing = False
                except (Unavailable, Refused) as error:
                    self._last = None
                    if not self._failing:
                        logs.emit("warning", "Redis does not answer", {"reason": str(error)})
                    self._failing = True
                self._until_s = self._clock() + CACHE_S
            return self._last


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_S

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: scrapes come for ever."""


class _Server(ThreadingWSGIServer):
    """One thread a request, and a bounded number of them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._free = threading.BoundedSemaphore(REQUESTS_MAX)
        super().__init__(*args, **kwargs)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up or says nothing is no news."""

    def service_actions(self) -> None:
        health.show_turn()


class _Server6(_Server):
    address_family = socket.AF_INET6


def serve(store: StoreSettings, host: str, port: int, told: Callable[[int], None]) -> None:
    """Answer scrapes until SIGTERM or SIGINT. ``told`` is called with the port once it is bound.

    Raises OSError for an address that cannot be bound.
    """
    collectors = CollectorRegistry()
    collectors.register(ClusterCollector(lambda: read(store)))
    kind = _Server6 if ":" in host else _Server
    server = make_server(host, port, make_wsgi_app(collectors), kind, _Handler)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        told(server.server_port)
        server.serve_forever(LOOK_S)
    except KeyboardInterrupt:  # what both signals raise
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
        server.server_close()
        health.hide_life()
