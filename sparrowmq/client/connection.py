"""The client's thread: it drives the session machine over the poll loop and hands outcomes to futures.

Owns: one loop, one session, the connection that the session asks for, and everything that is under way between
user threads and them. Must not know: functions, arguments, values (futures decode in the user's threads).

User threads only post to the loop. All other state belongs to the loop's thread.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future as Reply
from typing import Any, Final

from sparrowmq import __version__, ids
from sparrowmq.client.follow import Follower
from sparrowmq.client.future import Future
from sparrowmq.client.inbox import CROWD, Inbox
from sparrowmq.client.inquiry import Inquiry
from sparrowmq.client.link import Question, Sink, Told
from sparrowmq.client.options import PYTHON_VERSION
from sparrowmq.client.source import Addresses, Dead, Source
from sparrowmq.core import effects as fx
from sparrowmq.core.carried import Carried
from sparrowmq.core.session import Session
from sparrowmq.errors import ProtocolError, Refused, Rejected, Unavailable, UsageError
from sparrowmq.protocol import messages as m
from sparrowmq.runtime.driver import Driver, looking
from sparrowmq.runtime.loop import Loop
from sparrowmq.security.keyring import load_credentials
from sparrowmq.settings import ClientSettings
from sparrowmq.transport.context import new_context
from sparrowmq.transport.dealer import Dealer
from sparrowmq.transport.link import UNHURRIED

_CLOSE_TIMEOUT_S: Final = 5.0
_KEYS_HINT: Final = "are these the cluster's keys? `sparrowmq keys list` shows fingerprints; security.keys says which"
_log = logging.getLogger("sparrowmq.client")


class Connection:
    """One client's link to its cluster. Its methods may be called from any thread of the process that made it."""

    def __init__(self, source: Source, settings: ClientSettings) -> None:
        """Raise SecurityError where the keys cannot be used."""
        self._pid = os.getpid()
        self.rng = random.Random()
        self.id = ids.node_id("client", self.rng)
        self.answer_timeout_s = settings.connect_timeout_s
        self.unavailable_after_s = settings.unavailable_after_s
        self.credentials = load_credentials(source.keys, m.CLIENT) if source.keys else None
        self.owner = self.credentials.owner if self.credentials is not None else ""  # that ids of its jobs bear
        self.store = source.store  # where durable jobs are kept, None where no Redis is known
        self._source = source
        self._context = new_context()
        self._loop = Loop(_on_loop_error)
        self._session = Session(
            id=self.id,
            incarnation=time.time_ns() // 1_000_000,
            rng=self.rng,
            settings=settings,
            package=__version__,
            python=PYTHON_VERSION,
        )
        self._dealers: dict[fx.Peer, Dealer] = {}
        self._sinks: dict[str, Sink] = {}  # of jobs without all outcomes
        self._inbox = Inbox()  # guarded by the gate
        self._recalls: dict[int, Reply[None]] = {}
        self._inquiries: set[Inquiry] = set()
        self._followers: set[Follower] = set()
        self._numbers = itertools.count(1)
        self.addresses: Addresses = {}  # of the schedulers known
        self._failure = ""  # why the last connection ended
        self._refusals: dict[str, m.Refused] = {}  # by address
        self._shut_out: dict[str, int] = {}  # by address: handshakes in a row that have failed
        self._linked = False  # whether a scheduler has ever welcomed the session
        self._answered = threading.Event()  # set when it is linked, or will not be
        # No post slips in behind the goodbye. Reentrant: a stream that is collected posts from wherever that happens.
        self._gate = threading.RLock()
        self._closed = False
        self._driver = Driver(
            self._loop,
            self._session,
            self._send,
            {
                fx.Connect: self._connect,
                fx.Close: self._disconnect,
                fx.Look: looking(self._loop, self._session, self._carried),
                fx.Deliver: self._deliver,
                fx.JobAccepted: self._job_accepted,
                fx.JobEnded: self._job_ended,
                fx.Recalled: self._recalled,
                fx.Linked: self._on_linked,
            },
            _emit,
        )
        self._thread = threading.Thread(target=self._run, name=f"sparrowmq-{self.id}", daemon=True)

    # Called by user threads.

    def open(self, timeout_s: float) -> None:
        """Start, and return when a scheduler has welcomed the session.

        Raises Refused when all that there are refuse it, Unavailable saying what was tried within ``timeout_s``.
        """
        try:
            self._source.start(self._loop.post, self._schedulers_changed)
            self._thread.start()
            self._answered.wait(timeout_s)
            if not self._linked:
                raise self._explain(timeout_s)
        except BaseException:
            self.close()
            raise

    def _explain(self, timeout_s: float) -> Exception:
        if self._refusals:
            address, refusal = next(iter(self._refusals.items()))
            return Refused(f"the scheduler at {address} refused this client: {refusal.detail}", code=refusal.code)
        reason, hint = self._source.explain(self.addresses)
        detail = f" ({self._failure})" if self._failure else ""
        if any(self._shut_out.values()):
            return Unavailable(reason + detail, hint=_KEYS_HINT)
        return Unavailable(f"{reason}{detail}; waited {timeout_s:g} s", hint=hint)

    def new_id(self) -> str:
        """See `link.Link`."""
        return ids.job_id(time.time_ns() // 1_000_000, self.rng, self.owner)

    def submit(self, jobs: Sequence[tuple[m.Submit, Sink]], *, flight: bool = False) -> None:
        """See `link.Link`. What many calls and threads submit wakes the loop once."""
        self.check_process()
        with self._gate:
            if self._closed:
                raise UsageError("this client is closed")
            self._inbox.put(jobs, flight=flight)
            if len(self._inbox) == 1:
                self._loop.post(self._take_inbox)

    def call(self, spec: m.JobSpec, function: bytes, payload: bytes) -> Future[Any]:
        """Send a single call, which may share its job with others like it; returns at once."""
        self.check_process()
        with self._gate:
            if self._closed:
                raise UsageError("this client is closed")
            crowded = len(self._sinks) + len(self._inbox) >= CROWD
            future = self._inbox.call(self, spec, function, payload, crowded=crowded)
            if len(self._inbox) == 1:
                self._loop.post(self._take_inbox)
        return future

    def start_recall(self, sink: Sink, indices: Sequence[int]) -> Reply[None]:
        """See `link.Link`."""
        reply: Reply[None] = Reply()

        def act() -> None:
            if sink.id not in self._sinks:
                reply.set_result(None)
                return
            number = next(self._numbers)
            self._recalls[number] = reply
            self._session.recall(self._loop.now(), number, sink.id, list(indices))

        self._post(act)
        return reply

    def kill(self, job: str, indices: Sequence[int], grace_s: float = 0.0) -> None:
        """See `link.Link`."""
        self._post(lambda: self._session.kill(self._loop.now(), job, list(indices), grace_s))

    def inquire(
        self,
        question: Question,
        timeout_s: float,
        *,
        addresses: Iterable[str] | None = None,
        first: Sequence[m.AnyMessage] = (),
    ) -> list[Told]:
        """See `link.Link`."""
        reply: Reply[list[Told]] = Reply()

        def done(inquiry: Inquiry, answers: list[Told]) -> None:
            self._inquiries.discard(inquiry)
            reply.set_result(answers)

        def act() -> None:
            inquiry = Inquiry(self._context, self._loop, done, self.credentials)
            self._inquiries.add(inquiry)
            asked = self.addresses.values() if addresses is None else addresses
            inquiry.start(asked, ids.node_id("client", self.rng), question, timeout_s, first)

        self._post(act)
        return reply.result(timeout_s + _CLOSE_TIMEOUT_S)

    def follow(self, job: str, live: bool) -> Iterator[m.Output]:
        """Yield what is printed by a job's tasks, from every known scheduler; see `JobHandle.logs`."""
        follower = Follower(self._context, self._loop, job, self.credentials)

        def act() -> None:
            self._followers.add(follower)
            follower.start(self.addresses.values(), ids.node_id("client", self.rng), live)

        def stop() -> None:
            self._followers.discard(follower)
            follower.stop()

        self._post(act)
        try:
            yield from follower.read()
        finally:
            with contextlib.suppress(UsageError):  # closed meanwhile, which has stopped it
                self._post(stop)

    def check_process(self) -> None:
        """See `future.Link`."""
        if self._pid != os.getpid():
            raise UsageError(
                f"this client and its futures belong to process {self._pid}; a fork has no connection",
                hint="make a Client in the child process",
            )

    def close(self) -> None:
        """Say goodbye, cancel what is unfinished and end the thread. Does nothing the second time, or in a fork."""
        if self._pid != os.getpid():
            return
        with self._gate:
            if self._closed:
                return
            self._closed = True
            self._loop.post(self._leave)
        self._source.stop()
        if self._thread.ident is None:
            self._release()
        else:
            self._thread.join(_CLOSE_TIMEOUT_S)

    def _post(self, action: Callable[[], None]) -> None:
        """Have the loop's thread do ``action``, surely: what comes before the goodbye is done before it."""
        self.check_process()
        with self._gate:
            if self._closed:
                raise UsageError("this client is closed")
            self._loop.post(action)

    # Called in the loop's thread.

    def _run(self) -> None:
        try:
            self._loop.run()
        finally:
            self._release()

    def _release(self) -> None:
        """Nothing more will come: end what waits, and give everything back."""
        with self._gate:
            self._closed = True
        for sink in list(self._sinks.values()):
            sink.fail(None)
        for reply in self._recalls.values():
            reply.set_result(None)
        for dealer in self._dealers.values():
            dealer.close()
        self._loop.close()
        self._context.term()

    def _take_inbox(self) -> None:
        with self._gate:
            taken = self._inbox.take()
        now = self._loop.now()
        for jobs, flight in taken:
            for submit, sink in jobs:
                self._sinks[submit.job] = sink
            self._session.submit_all(now, [submit for submit, _ in jobs], flight=flight)

    def _leave(self) -> None:
        """Ask the session to leave; the turn that this runs in sends its goodbye and is the last."""
        for inquiry in list(self._inquiries):
            inquiry.finish()
        for follower in list(self._followers):
            follower.stop()
        self._session.leave(self._loop.now())
        self._loop.stop()

    def _schedulers_changed(self, addresses: Addresses, dead: Dead) -> None:
        self.addresses = addresses
        self._refusals.clear()
        self._shut_out.clear()
        self._session.schedulers_changed(self._loop.now(), addresses, dead)

    def _send(self, peer: fx.Peer, batch: Sequence[m.AnyMessage]) -> None:
        dealer = self._dealers.get(peer)
        if dealer is not None:
            dealer.send(batch)

    def _connect(self, effect: fx.Connect) -> None:
        peer, driver = effect.peer, self._driver

        def on_batch(batch: list[m.AnyMessage]) -> None:
            if not self._linked:
                for message in batch:
                    if isinstance(message, m.Refused):
                        self._refused(effect.address, message)
            driver.on_batch(peer, batch)

        def on_lost() -> None:
            dealer = self._dealers.pop(peer)
            self._failure = f"{effect.address}: {dealer.why}"
            if not self._linked:
                self._note_handshake(effect.address, dealer.handshake_failed)
            driver.on_lost(peer)

        def on_bad(error: ProtocolError) -> None:
            fields = {"address": effect.address, "code": error.code, "detail": str(error)}
            driver.log("warning", "not a message", fields)

        self._dealers[peer] = Dealer(
            self._context,
            self._loop,
            effect.address,
            on_batch=on_batch,
            on_lost=on_lost,
            on_bad=on_bad,
            options=UNHURRIED,
            credentials=self.credentials,
        )

    def _note_handshake(self, address: str, failed: bool) -> None:
        """Stop waiting for a link when the keys are wrong everywhere: who dies while it shakes hands does so once."""
        self._shut_out[address] = self._shut_out.get(address, 0) + 1 if failed else 0
        known = set(self.addresses.values())
        if known and all(self._shut_out.get(known_address, 0) > 1 for known_address in known):
            self._answered.set()

    def _refused(self, address: str, refusal: m.Refused) -> None:
        """Stop waiting for a link when there is no other scheduler to ask."""
        self._refusals[address] = refusal
        if refusal.code != "busy" and self._refusals.keys() >= set(self.addresses.values()):
            self._answered.set()

    def _disconnect(self, effect: fx.Close) -> None:
        dealer = self._dealers.pop(effect.peer, None)
        if dealer is not None:
            dealer.close()

    def _carried(self, peer: fx.Peer) -> Carried | None:
        dealer = self._dealers.get(peer)
        return None if dealer is None else dealer.carried()

    def _deliver(self, effect: fx.Deliver) -> None:
        sink = self._sinks.get(effect.job)
        if sink is not None:
            sink.settle(effect.indices, effect.statuses, effect.payloads)
            if not sink.pending:
                del self._sinks[effect.job]

    def _job_accepted(self, effect: fx.JobAccepted) -> None:
        sink = self._sinks.get(effect.job)
        if sink is not None:
            sink.accepted(effect.workers)
            if not sink.pending:
                del self._sinks[effect.job]

    def _job_ended(self, effect: fx.JobEnded) -> None:
        sink = self._sinks.pop(effect.job, None)
        if sink is None:
            return
        code, detail = effect.code, effect.detail
        if code == "unavailable":
            sink.fail(lambda: Unavailable(detail, hint="`sparrowmq status` shows what runs"))
        else:
            sink.fail(lambda: Rejected(detail, code=code))

    def _recalled(self, effect: fx.Recalled) -> None:
        reply = self._recalls.pop(effect.request, None)
        if reply is not None:
            reply.set_result(None)

    def _on_linked(self, effect: fx.Linked) -> None:
        self._failure = effect.detail or self._failure
        if effect.scheduler:
            self._linked = True
            self._answered.set()


def _emit(level: str, event: str, fields: Mapping[str, Any]) -> None:
    shown = "".join(f" {name}={value}" for name, value in fields.items())
    _log.log(logging.getLevelNamesMapping()[level.upper()], "%s%s", event, shown)


def _on_loop_error(name: str, error: Exception, suppressed: int) -> None:
    _log.error("%s failed (%d alike before)", name, suppressed, exc_info=error)
