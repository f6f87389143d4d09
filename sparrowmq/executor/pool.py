"""The slots of one node monitor.

Owns: which process serves which slot, and the five things that can be asked of a slot: spawn, start, reclaim,
interrupt, kill. Must not know: jobs' states, schedulers, why something is asked.

Every spawn is answered by `slot_ready` or `slot_exited`, a reclaim of a living slot by `slot_reclaimed`, and the
end of a process by one `slot_exited`, after all results that it had sent.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from sparrowmq.core.effects import StartTasks
from sparrowmq.executor import linux, page as pages, zygote
from sparrowmq.executor.link import Link, LoopLike, pair
from sparrowmq.executor.zygote import Zygote
from sparrowmq.protocol import messages as m

READY_WITHIN_S: Final = 30.0
COUNT_EVERY_S: Final = 0.05  # how often the processes below a busy slot are counted
CLOSE_WITHIN_S: Final = 5.0
REMIND_S_MIN: Final = 0.02  # between the signals to a task that does not heed the first
REMIND_S_MAX: Final = 1.0
EXIT_WITHIN_S: Final = 1.0  # after the slot closed its socket
_RESTART_AFTER_S: Final = 0.2
_SWEEP_EVERY_S: Final = 0.01
_SWEEPS_MAX: Final = 200


class Listener(Protocol):
    """Who hears of the slots: the node monitor's machine, through its driver."""

    def slot_ready(self, slot: int, pid: int) -> None:
        """The slot waits for tasks."""

    def slot_results(
        self, slot: int, first_seq: int, statuses: bytes, service_us: list[int], payloads: list[m.Payload]
    ) -> None:
        """Tasks first_seq, first_seq + 1, ... have ended."""

    def slot_output(self, slot: int, seq: int, stream: int, data: bytes) -> None:
        """Task ``seq``, which runs, has written this to standard output (``stream`` 1) or error (2)."""

    def slot_retired(self, slot: int) -> None:
        """The process has grown too large, and is to be replaced between tasks."""

    def slot_exited(self, slot: int, cause: str, current_seq: int) -> None:
        """The slot's process is gone, and with it the task ``current_seq`` that it was running (0: none)."""

    def slot_reclaimed(self, slot: int, after_seq: int) -> None:
        """Nothing that was handed before the reclaim and is numbered higher will start."""


class _Process:
    """One process in a slot, from the order to fork it to the report of its end. It passes on what the slot says."""

    link: Link  # set at once

    def __init__(self, slot: int, listener: Listener, kill: Callable[[str, float], None]) -> None:
        self.slot = slot
        self.ready = False
        self.reason = ""  # why the pool has it killed, where that is not the listener's wish
        self.reclaiming = False
        self.reclaim_again = False
        self.counted_seq = 0  # the last task it had been handed when its descendants were counted
        self._listener = listener
        self._kill = kill

    def on_ready(self, pid: int) -> None:
        self.ready = True
        self._listener.slot_ready(self.slot, pid)

    def on_results(self, first_seq: int, statuses: bytes, service_us: list[int], payloads: list[m.Payload]) -> None:
        self._listener.slot_results(self.slot, first_seq, statuses, service_us, payloads)

    def on_output(self, seq: int, stream: int, data: bytes) -> None:
        self._listener.slot_output(self.slot, seq, stream, data)

    def on_large(self) -> None:
        self._listener.slot_retired(self.slot)

    def on_broken(self, reason: str) -> None:
        if reason:
            self._kill(reason, 0.0)
        else:  # most likely it is just ending, and how it ended says more
            self._kill("closed its socket", EXIT_WITHIN_S)


class SlotPool:
    """All slots of a node monitor, over one zygote. Used in the loop's thread only; nothing blocks but `close`.

    A zygote that is lost takes its slots with it: each is reported as exited, and a new zygote is started for
    the spawns that follow.
    """

    def __init__(
        self, loop: LoopLike, zygote: Zygote, listener: Listener, *, ready_within_s: float | None = None
    ) -> None:
        self._loop = loop
        self._zygote: Zygote | None = zygote
        self._options = zygote.options
        self._listener = listener
        self._ready_within_s = ready_within_s or READY_WITHIN_S
        self._counting = False
        self._processes: dict[int, _Process] = {}  # by token, a number for each process that is ever ordered
        self._tokens: dict[int, int] = {}  # slot -> token of its process
        self._last_token = 0
        self._orders: deque[_Order] = deque()  # that the zygote has no room for yet
        self._waits_writable = False
        self._closed = False
        loop.add_fd(zygote.sock.fileno(), self._on_reports)

    # What the node monitor asks for.

    def spawn(self, slot: int) -> None:
        """Start the slot's process; `slot_ready` or `slot_exited` follows. The slot must have none."""
        if slot in self._tokens:
            raise ValueError(f"slot {slot} has a process already")
        self._last_token += 1
        token = self._last_token
        try:
            page, page_fd = pages.create()
            ours, theirs = pair()
        except OSError as error:  # no descriptors left
            cause = f"could not be started: {error}"
            self._loop.call_later(0.0, lambda: self._listener.slot_exited(slot, cause, 0))
            return
        process = _Process(slot, self._listener, lambda why, after_s: self._kill_later(token, why, after_s))
        process.link = Link(self._loop, ours, page, process)
        self._processes[token] = process
        self._tokens[slot] = token
        self._loop.call_later(self._ready_within_s, lambda: self._on_late(token))
        self._order(_Order(token, Zygote.spawn, (theirs.detach(), page_fd)))

    def start(self, effect: StartTasks) -> None:
        """Hand tasks to a slot that is ready. Tasks for a slot that has just ended are dropped: its exit tells."""
        process = self._process(effect.slot)
        if process is not None:
            process.link.hand(effect)
            if not self._counting and self._options.task_processes:
                self._counting = True
                self._loop.call_later(COUNT_EVERY_S, self._count)

    def reclaim(self, slot: int) -> None:
        """Keep what was handed and has not started from starting; `slot_reclaimed` follows in about 2 ms.

        Reclaims that overlap are answered together, by the last.
        """
        process = self._process(slot)
        if process is None:
            return
        if process.reclaiming:
            process.reclaim_again = True
            return
        process.reclaiming = True
        process.link.page.stop(process.link.handed_seq)
        token = self._tokens[slot]
        self._loop.call_later(pages.SETTLE_S, lambda: self._settle(token))

    def interrupt(self, slot: int, seq: int) -> None:
        """Interrupt task ``seq`` if it is the one that runs; its result follows, if it heeds that."""
        process = self._process(slot)
        if process is not None and process.ready:
            process.link.page.interrupt(seq)
            self._signal(self._tokens[slot], seq, REMIND_S_MIN)

    def _signal(self, token: int, seq: int, again_s: float) -> None:
        """Send the signal, and again while the task goes on: one just before a blocking call does not end that."""
        process = self._processes.get(token)
        if process is not None and process.link.reported_seq < seq and process.link.page.started_seq() <= seq:
            self._order(_Order(token, Zygote.interrupt))
            self._loop.call_later(again_s, lambda: self._signal(token, seq, min(2.0 * again_s, REMIND_S_MAX)))

    def kill(self, slot: int) -> None:
        """Kill the slot's process with its descendants; `slot_exited` follows, unless it has come already."""
        token = self._tokens.get(slot)
        if token is not None:
            self._order(_Order(token, Zygote.kill))

    def running(self, slot: int) -> tuple[int, float] | None:
        """Return (sequence number, start in seconds of time.monotonic) of the slot's running task."""
        process = self._process(slot)
        seq = process.link.current_seq() if process is not None else 0
        return (seq, process.link.page.started_s()) if process is not None and seq else None

    def close(self) -> None:
        """Kill all slots and end the zygote; nothing is reported any more. Blocks for CLOSE_WITHIN_S at most."""
        self._closed = True
        self._drop_orders()
        for process in self._processes.values():
            process.link.close()
        self._processes.clear()
        self._tokens.clear()
        if self._zygote is not None:
            self._loop.remove(self._zygote.sock.fileno())
            if self._zygote.close(CLOSE_WITHIN_S) != zygote.CLEAN_EXIT:
                linux.kill_outsiders(spare=0)
            self._zygote = None

    # What the slots and the zygote report.

    def _process(self, slot: int) -> _Process | None:
        token = self._tokens.get(slot)
        return None if token is None else self._processes[token]

    def _on_late(self, token: int) -> None:
        process = self._processes.get(token)
        if process is not None and not process.ready:
            self._kill_because(token, f"was not ready within {self._ready_within_s:g} s")

    def _kill_later(self, token: int, reason: str, after_s: float) -> None:
        if after_s:
            self._loop.call_later(after_s, lambda: self._kill_because(token, reason))
        else:
            self._kill_because(token, reason)

    def _kill_because(self, token: int, reason: str) -> None:
        process = self._processes.get(token)
        if process is not None:
            process.reason = process.reason or reason
            self._order(_Order(token, Zygote.kill))

    def _count(self) -> None:
        """Have the descendants of slots counted that run something, or were handed something since the last time."""
        self._counting = False
        for token, process in self._processes.items():
            link = process.link
            if link.current_seq() or link.handed_seq > process.counted_seq:
                process.counted_seq = link.handed_seq
                self._order(_Order(token, Zygote.count))
                self._counting = True
        if self._counting:
            self._loop.call_later(COUNT_EVERY_S, self._count)

    def _settle(self, token: int) -> None:
        process = self._processes.get(token)
        if process is None:
            return
        after_seq = process.link.page.settle()
        if process.link.reported_seq < after_seq - 1:  # results of short tasks wait behind the one that runs
            self._order(_Order(token, Zygote.interrupt))
        process.reclaiming = False
        if process.reclaim_again:
            process.reclaim_again = False
            self.reclaim(process.slot)
        else:
            self._listener.slot_reclaimed(process.slot, after_seq)

    def _on_reports(self) -> None:
        if self._zygote is None:
            return
        try:
            reports = self._zygote.reports()
        except EOFError:
            self._on_zygote_lost(self._zygote)
            return
        for report in reports:
            if report.event == zygote.FAILED:
                self._end(report.token, f"could not be forked: {os.strerror(report.value)}")
            elif report.event == zygote.CROWDED:
                self._on_crowded(report.token)
            else:
                self._end(report.token, linux.explain_exit(report.value))

    def _on_crowded(self, token: int) -> None:
        process = self._processes.get(token)
        if process is not None:
            limit = self._options.task_processes
            process.reason = f"it had more than {limit:,} processes (worker.task_processes) and was killed with them"

    def _end(self, token: int, cause: str) -> None:
        process = self._processes.pop(token, None)
        if process is None:
            return
        link = process.link
        link.drain()
        current_seq = link.current_seq()
        link.close()
        del self._tokens[process.slot]
        if process.reason:
            cause = f"{process.reason} ({cause})"
        elif not process.ready:
            cause = f"ended before it was ready: {cause}"
        self._listener.slot_exited(process.slot, cause, current_seq)

    # The zygote's own end.

    def _on_zygote_lost(self, lost: Zygote) -> None:
        self._zygote = None
        self._waits_writable = False
        self._loop.remove(lost.sock.fileno())
        cause = f"the zygote, which all slots descend from, ended: {lost.close(EXIT_WITHIN_S)}"
        self._drop_orders()
        self._sweep(_SWEEPS_MAX)
        for token in list(self._processes):
            self._end(token, cause)
        self._loop.call_later(_RESTART_AFTER_S, self._restart)

    def _restart(self) -> None:
        if self._closed:
            return
        try:
            self._zygote = Zygote.restart(self._options)
        except OSError:
            self._loop.call_later(_RESTART_AFTER_S, self._restart)
            raise  # the loop reports it
        self._loop.add_fd(self._zygote.sock.fileno(), self._on_reports)
        self._send_orders()

    def _sweep(self, times: int) -> None:
        """Kill what the lost zygote left, generation by generation, as this process inherits it."""
        linux.kill_outsiders(spare=self._zygote.pid if self._zygote is not None else 0)
        if times > 1 and not self._closed:
            self._loop.call_later(_SWEEP_EVERY_S, lambda: self._sweep(times - 1))

    # Orders to the zygote.

    def _order(self, order: _Order) -> None:
        self._orders.append(order)
        self._send_orders()

    def _send_orders(self) -> None:
        if self._zygote is None:
            return  # the next one gets them
        while self._orders:
            try:
                self._orders[0].send(self._zygote)
            except BlockingIOError:
                break
            except OSError:  # it has ended, and `_on_reports` is about to learn it
                return
            self._orders.popleft()
        if bool(self._orders) != self._waits_writable:
            self._waits_writable = bool(self._orders)
            self._loop.set_writable(self._zygote.sock.fileno(), self._send_orders if self._orders else None)

    def _drop_orders(self) -> None:
        for order in self._orders:
            order.drop()
        self._orders.clear()


class _Order:
    """Something that is asked of a zygote about the process ``token``, with descriptors where it is to be spawned."""

    def __init__(self, token: int, send: Callable[..., None], fds: tuple[int, ...] = ()) -> None:
        self._token = token
        self._send = send
        self._fds = fds

    def send(self, to: Zygote) -> None:
        self._send(to, self._token, *self._fds)
        self.drop()

    def drop(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = ()
