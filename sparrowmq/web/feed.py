"""Reads the cluster for as long as somebody looks, and has the newest snapshot ready.

Owns: two threads (one asks the schedulers and the registry, one reads the beats), and when they read. Must not know:
HTTP, or what is made of what is read.

Nothing that it waits for holds up a snapshot: that is made of what has been read so far, and says how old it is. With
nobody looking it reads nothing and has no connection.
"""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable
from typing import Final

import msgspec

from sparrowmq.client.client import Client
from sparrowmq.core.assistant import AssistantReport
from sparrowmq.errors import SparrowError
from sparrowmq.runtime import logs
from sparrowmq.settings import ClientSettings, StoreSettings
from sparrowmq.store import lease
from sparrowmq.store.listener import Listener
from sparrowmq.store.registry import Registry
from sparrowmq.web.reading import Reading
from sparrowmq.web.view import View

READ_S: Final = 0.5
LISTEN_S: Final = 0.2
FRAME_S: Final = 0.2  # a snapshot is good for so long, whoever asks
ANSWER_S: Final = 1.0  # a scheduler that has not answered by then is left out, and so is Redis
CONNECT_S: Final = 2.0
RETRY_S: Final = 1.0
IDLE_S: Final = 10.0  # after the last question
TRACE: Final = 4  # frames of an unexpected error that go to the log


class Feed:
    """The newest snapshot of a cluster; any thread may ask. ``keys`` as in `Client`."""

    def __init__(self, store: StoreSettings, keys: str, view: View, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        # A Redis that hangs must not make the schedulers' answers look old.
        self._hasty = msgspec.structs.replace(
            store,
            connect_timeout_s=min(store.connect_timeout_s, ANSWER_S),
            reply_timeout_s=min(store.reply_timeout_s, ANSWER_S),
        )
        self._keys = keys
        self._view = view
        self._clock = clock
        self._lock = threading.Lock()  # of the view
        self._frames = threading.Lock()  # of the frame, and of what follows
        self._frame = b""
        self._made_s = float("-inf")
        self._wanted_s = float("-inf")
        self._reading: threading.Event | None = None  # of the threads that read now: set, they end
        self._closed = False

    def frame(self) -> bytes:
        """Return the newest snapshot as JSON. The first call after a while starts the reading."""
        now = time.monotonic()
        with self._frames:
            self._wanted_s = now
            self._wake()
            if now - self._made_s >= FRAME_S:
                with self._lock:
                    snapshot = self._view.snapshot(self._clock())
                self._frame = msgspec.json.encode(snapshot)
                self._made_s = now
            return self._frame

    def close(self) -> None:
        """End the threads; they may take a moment for it."""
        with self._frames:
            self._closed = True
            if self._reading is not None:
                self._reading.set()

    def _wake(self) -> None:
        if self._reading is not None or self._closed:
            return
        self._reading = done = threading.Event()
        for run, name in ((self._read_on, "web-feed"), (self._listen_on, "web-beats")):
            threading.Thread(target=run, args=(done,), name=name, daemon=True).start()

    def _rest(self, done: threading.Event) -> None:
        """End the reading if nobody has asked for a while."""
        with self._frames:
            if time.monotonic() - self._wanted_s <= IDLE_S or done.is_set():
                return
            done.set()
            self._reading = None
            with self._lock:
                self._view.rest()

    # -- the schedulers, and what the registry knows

    def _read_on(self, done: threading.Event) -> None:
        while not done.is_set():
            try:
                with self._client() as client, contextlib.closing(Registry(self._hasty)) as registry:
                    self._read_with(client, registry, done)
            except SparrowError as error:
                self._fail(str(error))
            except Exception:  # a thread that ended for it would leave the page without a word
                logs.emit("error", "reading the cluster failed", {"error": traceback.format_exc(limit=TRACE)})
                self._fail("the page cannot read the cluster: its log tells why")
            self._rest(done)
            done.wait(RETRY_S)

    def _client(self) -> Client:
        settings = ClientSettings(connect_timeout_s=CONNECT_S)
        return Client(self._store.url, settings=settings, store=self._store, keys=self._keys)

    def _read_with(self, client: Client, registry: Registry, done: threading.Event) -> None:
        while not done.is_set():
            began = time.monotonic()
            reading = self._look(client, registry)
            with self._lock:
                self._view.read(self._clock(), reading)
                questions = self._view.questions(self._clock())
            for job, indices in questions:
                statuses = client.query("tasks", job, indices, timeout_s=ANSWER_S)
                rows = [row for status in statuses for row in status.tasks]
                with self._lock:
                    self._view.told(self._clock(), job, rows)
            self._rest(done)
            done.wait(max(0.0, began + READ_S - time.monotonic()))

    def _look(self, client: Client, registry: Registry) -> Reading:
        reading = Reading(schedulers=len(client.schedulers))
        try:
            reading = self._look_up(registry, reading)
        except SparrowError as error:
            reading = reading._replace(store_why=str(error))
        return reading._replace(statuses=client.query("recent", timeout_s=ANSWER_S))

    def _look_up(self, registry: Registry, reading: Reading) -> Reading:
        """Add what Redis tells of the assistants."""
        assistants = registry.assistants()
        holder, _ = lease.leader(self._hasty)
        leader = next((id for id, record in assistants.items() if holder == f"{id}:{record.incarnation}"), "")
        reports = []
        for id, told in registry.reports([leader] if leader else assistants).items():
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):  # by another version, or by anybody
                reports.append((id == leader, msgspec.json.decode(told, type=AssistantReport)))
        best = max(reports, key=lambda one: (one[0], one[1].unix_s), default=None)
        report = None if best is None else best[1]
        return reading._replace(assistants=len(assistants), leader=leader, report=report)

    def _fail(self, why: str) -> None:
        with self._lock:
            self._view.failed(self._clock(), why)

    # -- the beats

    def _listen_on(self, done: threading.Event) -> None:
        with contextlib.closing(Listener(self._store, logs.emit)) as listener:
            while not done.is_set():
                began = time.monotonic()
                try:
                    heard = listener.read()
                except Exception:  # without beats the page is still worth something
                    logs.emit("error", "reading the heartbeats failed", {"error": traceback.format_exc(limit=TRACE)})
                    heard, began = None, began + RETRY_S
                if heard is not None:
                    with self._lock:
                        self._view.heard(self._clock(), heard)
                done.wait(max(listener.wait_s, began + LISTEN_S - time.monotonic()))
