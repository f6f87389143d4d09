"""Processes that are killed: a worker, a scheduler, half of all workers at once.

Owns: what each round does and times. Must not know: how often, or what becomes of the times.
"""

from __future__ import annotations

import random
from typing import Final

from sparrowmq.bench.arena import Arena
from sparrowmq.bench.found import Found

WORKERS: Final = 10
SLOTS: Final = 2
SCHEDULERS: Final = 2
_HOLD_S: Final = (0.2, 0.3)  # tasks run so long: longer than any relaunch takes
_HALF_TASKS: Final = 200
_HALF_HOLD_S: Final = 0.05


def kill_worker(found: Found, rounds: int, rng: random.Random) -> None:
    """SIGKILL a worker that runs a task while there are free slots; timed until all that it ran runs elsewhere."""
    with Arena("kill-worker", rng, workers=WORKERS, slots=SLOTS) as arena, found.booked(arena.ledger):
        for _ in range(rounds):
            held = arena.hold(WORKERS // 2, rng.uniform(*_HOLD_S))
            stamps = arena.started(held)
            victim = rng.choice(stamps).worker_pid
            lost = [key for key, stamp in zip(held.keys, stamps, strict=True) if stamp.worker_pid == victim]
            found.add(arena.again(lost, arena.kill([victim])))
            arena.refill(WORKERS)
            arena.finish()


def kill_scheduler(found: Found, rounds: int, rng: random.Random) -> None:
    """SIGKILL the scheduler that has the jobs; timed until another one has accepted what is unfinished.

    There are more tasks than slots, so that some run and some wait. ``rerun``: running tasks that were started again.
    """
    slots = WORKERS * SLOTS
    with (
        Arena("kill-scheduler", rng, workers=WORKERS, slots=SLOTS, schedulers=SCHEDULERS) as arena,
        found.booked(arena.ledger),
    ):
        arena.whole()
        for _ in range(rounds):
            hold_s = rng.uniform(*_HOLD_S)
            jobs = [arena.hold(slots // 2 - 2, hold_s) for _ in range(3)]
            keys = [key for held in jobs for key in held.keys]
            arena.many_started(keys, slots)
            home = arena.home()
            running = [key for key in keys if arena.stamps.of(key)]
            killed_s = arena.kill([arena.cluster.schedulers[home].pid])
            found.add(arena.accepted_since([held.batch for held in jobs], killed_s) - killed_s)
            arena.wait()
            found.count(rerun=sum(len(arena.stamps.of(key)) - 1 for key in running))
            arena.finish()
            arena.refill(WORKERS, SCHEDULERS)


def half(found: Found, rounds: int, rng: random.Random) -> None:
    """SIGKILL half of the workers at once under full load; timed until all that they ran runs elsewhere.

    The times contain the wait for a slot: half of them are gone.
    """
    with Arena("half", rng, workers=WORKERS, slots=SLOTS) as arena, found.booked(arena.ledger):
        for _ in range(rounds):
            jobs = [arena.hold(_HALF_TASKS // 4, _HALF_HOLD_S) for _ in range(4)]
            keys = [key for held in jobs for key in held.keys]
            arena.many_started(keys, _HALF_TASKS // 4)
            victims = {member.pid for member in rng.sample(arena.cluster.workers, WORKERS // 2)}
            killed_s = arena.kill(sorted(victims))
            arena.wait()
            again = [stamps[1].at_s - killed_s for stamps in map(arena.stamps.of, keys) if stamps[1:]]
            found.add(max(again, default=0.0))
            arena.finish()
            arena.refill(WORKERS)
