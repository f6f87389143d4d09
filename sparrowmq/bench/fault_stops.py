"""Processes that are stopped (SIGSTOP) and go on later: connections stand, and nothing but silence tells.

Owns: what each round does and times. Must not know: how often, or what becomes of the times.

Stopped is either the node monitor alone, while its slots go on and finish their tasks, or the whole tree below it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from sparrowmq.bench.arena import Arena
from sparrowmq.bench.fault_kills import SLOTS, WORKERS
from sparrowmq.bench.found import Found

_SHORT_S: Final = 0.2  # never a reason to relaunch anything
_SHORT_HOLD_S: Final = 0.4
_LONG_HOLD_S: Final = (0.2, 1.0)  # the first attempt may end before the second starts, while it runs, or after it
_SETTLED_BEATS_S: Final = 0.5  # a worker that has just come back: detectors know its beats again

Pids = Callable[[Arena, int], list[int]]


def monitor_short(found: Found, rounds: int, rng: random.Random) -> None:
    """Stop the node monitor of a worker that runs tasks for 200 ms. ``relaunched``: tasks that ran twice."""
    _short("stop-monitor-short", found, rounds, rng, _monitor)


def tree_short(found: Found, rounds: int, rng: random.Random) -> None:
    """Stop all processes of a worker that runs tasks for 200 ms. ``relaunched``: tasks that ran twice."""
    _short("stop-tree-short", found, rounds, rng, Arena.tree)


def monitor_long(found: Found, rounds: int, rng: random.Random) -> None:
    """Stop the node monitor of a worker; timed until all that it ran runs elsewhere; only then it goes on."""
    _long("stop-monitor", found, rounds, rng, _monitor)


def tree_long(found: Found, rounds: int, rng: random.Random) -> None:
    """Stop all processes of a worker; timed until all that it ran runs elsewhere; only then they go on."""
    _long("stop-tree", found, rounds, rng, Arena.tree)


def _monitor(_arena: Arena, worker_pid: int) -> list[int]:
    return [worker_pid]


def _short(name: str, found: Found, rounds: int, rng: random.Random, pids: Pids) -> None:
    with Arena(name, rng, workers=WORKERS, slots=SLOTS, assistants=1) as arena, found.booked(arena.ledger):
        arena.whole()
        for _ in range(rounds):
            held = arena.hold(WORKERS // 2, _SHORT_HOLD_S)
            victim = rng.choice(arena.started(held)).worker_pid
            with arena.stopped(pids(arena, victim)):
                time.sleep(_SHORT_S)
            found.add()
            arena.wait()
            found.count(relaunched=arena.stamps.repeated())
            arena.finish()
            arena.whole()


def _long(name: str, found: Found, rounds: int, rng: random.Random, pids: Pids) -> None:
    with Arena(name, rng, workers=WORKERS, slots=SLOTS, assistants=1) as arena, found.booked(arena.ledger):
        arena.whole()
        for _ in range(rounds):
            time.sleep(_SETTLED_BEATS_S)
            held = arena.hold(WORKERS // 2, rng.uniform(*_LONG_HOLD_S))
            stamps = arena.started(held)
            victim = rng.choice(stamps).worker_pid
            lost = [key for key, stamp in zip(held.keys, stamps, strict=True) if stamp.worker_pid == victim]
            with arena.stopped(pids(arena, victim)) as stopped_s:
                found.add(arena.again(lost, stopped_s))
            arena.whole()  # the worker has refuted its death, and told what it still had
            arena.finish()
