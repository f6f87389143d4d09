"""What the cluster can do without for a while: the assistant that leads, and the store.

Owns: what each round does and times. Must not know: how often, or what becomes of the times.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sparrowmq.bench import figures
from sparrowmq.bench.arena import PATIENCE_S, Arena
from sparrowmq.bench.chaos_load import Load
from sparrowmq.bench.fault_kills import SCHEDULERS, SLOTS, WORKERS
from sparrowmq.bench.found import Found
from sparrowmq.store.embedded import EmbeddedServer

ASSISTANTS: Final = 2
OUTAGE_S: Final = 10.0
_HOLD_S: Final = 0.5
_LOOKED_S: Final = 0.5  # submissions are timed for so long before the kill
_SUBMIT_EVERY_S: Final = 0.01
_LOAD: Final = 0.4
_RETURNED_S: Final = 2.0  # after its return nobody is judged before all had time to be heard again


def kill_assistant(found: Found, rounds: int, rng: random.Random) -> None:
    """SIGKILL the assistant that leads, and freeze a worker; timed until what that one ran runs elsewhere.

    Only the standby can find a frozen worker. Meanwhile tasks are submitted, and timed until they are accepted.
    """
    before_s: list[float] = []
    during_s: list[float] = []
    with (
        Arena(
            "kill-assistant", rng, workers=WORKERS, slots=SLOTS, schedulers=SCHEDULERS, assistants=ASSISTANTS
        ) as arena,
        found.booked(arena.ledger),
    ):
        arena.whole()
        for _ in range(rounds):
            leader = arena.leader()
            _submit(arena, before_s, _until(time.monotonic() + _LOOKED_S))
            held = arena.hold(WORKERS // 2, _HOLD_S)
            stamps = arena.started(held)
            victim = rng.choice(stamps).worker_pid
            lost = [key for key, stamp in zip(held.keys, stamps, strict=True) if stamp.worker_pid == victim]
            with arena.stopped(arena.tree(victim)):
                killed_s = arena.kill([leader])
                _submit(arena, during_s, lambda: all(arena.stamps.of(key)[1:] for key in lost))  # noqa: B023
                found.add(arena.again(lost, killed_s))
            arena.refill(WORKERS, SCHEDULERS, ASSISTANTS)
            arena.finish()
    found.count(
        told_accept_ms_before=figures.ms(figures.percentile(before_s, 0.99)),
        told_accept_ms_meanwhile=figures.ms(figures.percentile(during_s, 0.99)),
    )


def kill_store(found: Found, rounds: int, rng: random.Random) -> None:
    """SIGKILL the store for 10 s under load, then let an empty one take its place, and freeze a worker.

    Timed is what the frozen worker ran, until it runs elsewhere: detection has resumed. ``relaunched``: tasks that were
    started twice while there was no store.
    """
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sparrowmq-bench-")))
        server = EmbeddedServer(directory)
        server.launch()
        stack.callback(server.stop)
        server.wait_ready()
        arena = stack.enter_context(
            Arena("kill-store", rng, workers=WORKERS, slots=SLOTS, assistants=1, redis_url=server.url)
        )
        stack.enter_context(found.booked(arena.ledger))
        arena.whole()
        for _ in range(rounds):
            load = Load(arena, WORKERS * SLOTS, _LOAD, rng)
            load.start()
            try:
                server.stop()
                time.sleep(OUTAGE_S)
                server.launch()
                server.wait_ready()
                time.sleep(_RETURNED_S)
            finally:
                load.stop()
            arena.wait()
            found.count(relaunched=arena.stamps.repeated())
            arena.finish()
            arena.whole()
            found.add(_freeze(arena))
            arena.whole()
            arena.finish()


def _freeze(arena: Arena) -> float:
    held = arena.hold(WORKERS // 2, _HOLD_S)
    stamps = arena.started(held)
    victim = arena.rng.choice(stamps).worker_pid
    lost = [key for key, stamp in zip(held.keys, stamps, strict=True) if stamp.worker_pid == victim]
    with arena.stopped(arena.tree(victim)) as stopped_s:
        return arena.again(lost, stopped_s)


def _until(end_s: float) -> Callable[[], bool]:
    return lambda: time.monotonic() > end_s


def _submit(arena: Arena, accepted_s: list[float], over: Callable[[], bool]) -> None:
    """Submit a task every 10 ms until it is ``over``; note how long each took to be accepted."""
    sent = []
    deadline = time.monotonic() + PATIENCE_S
    while not over() and time.monotonic() < deadline:
        sent.append((time.monotonic(), arena.hold(1, 0.0).batch))
        time.sleep(_SUBMIT_EVERY_S)
    batches = [batch for _, batch in sent]
    arena.poll("the acceptance of submissions", lambda: all(batch.accepted_s for batch in batches))
    accepted_s += [batch.accepted_s[0] - began_s for began_s, batch in sent]
