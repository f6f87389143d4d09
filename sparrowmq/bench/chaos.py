"""The demonstrations: a cluster under load whose members are killed, frozen or cut off, and what becomes of its tasks.

Owns: the order of events, what is told of each, the final ledger. Must not know: how a process is stopped (`arena`),
how links are cut (`proxy`), how lines are printed.

Nothing here helps the cluster: it is told of no fault, and what it notices is read from its own log.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from sparrowmq.bench import chaos_cuts, figures
from sparrowmq.bench.arena import BEAT_S, Arena
from sparrowmq.bench.chaos_load import NAP_S, Load
from sparrowmq.bench.onlooker import Onlooker
from sparrowmq.bench.story import GIVEN_UP, MISSED, Story
from sparrowmq.errors import SparrowError, UsageError
from sparrowmq.local import Member
from sparrowmq.settings import StoreSettings

KINDS: Final = ("kill", "freeze", "partition")
WORKERS: Final = 6
SLOTS: Final = 2
SCHEDULERS: Final = 2
ASSISTANTS: Final = 2
SHARE: Final = 0.6
_SHORT_S: Final = 0.2
_CALM_S: Final = 0.8  # between faults: detectors know the beats, queues are short
_AFTER_S: Final = 0.3  # a member stays hurt after its tasks run elsewhere
_END_S: Final = 15.0

Say = Callable[[str], None]
Row = dict[str, Any]


def run(kind: str, *, times: int = 4, seed: int = 1, say: Say = lambda _text: None) -> dict[str, Any]:
    """Run one demonstration; return its incidents, the two detectors, and the ledger: what a client was shown.

    ``times``: how often a worker is hurt. ``say`` hears a line for each thing that happens. ``ok`` says that no task is
    incomplete, and that none was shown twice. Raises UsageError for an unknown ``kind``, Unavailable where the cluster
    does not come up.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown demonstration {kind!r}", hint=f"they are {', '.join(KINDS)}")
    rng = random.Random(seed)
    with contextlib.ExitStack() as stack:
        scene = stack.enter_context(_Scene.opened(kind, rng, say))
        arena = scene.arena
        load = Load(arena, WORKERS * SLOTS, SHARE, rng)
        say(
            f"A local cluster is up: {WORKERS} workers with {SLOTS} slots each, {SCHEDULERS} schedulers, {ASSISTANTS} "
            f"assistants, beats every {BEAT_S * 1e3:.0f} ms. Naps of {NAP_S * 1e3:.0f} ms arrive at {SHARE:.0%} load."
        )
        error = ""
        load.start()
        try:
            _PLAYS[kind](scene, times)
            load.stop()
            arena.wait(_END_S)
        except SparrowError as failure:
            error = str(failure)
            with contextlib.suppress(SparrowError):
                load.stop()
        detectors = scene.detectors()
        arena.ledger.close_books(final=True)
        ledger = {
            "tasks": arena.ledger.tasks,
            "incomplete": arena.ledger.lost,
            "duplicated": arena.ledger.duplicated,
            "examples": arena.ledger.examples,
        }
        ok = not (error or ledger["incomplete"] or ledger["duplicated"])
        return {
            "demo": kind, "incidents": scene.incidents, "detectors": detectors, "ledger": ledger, "error": error,
            "ok": ok,
        }  # fmt: skip


class _Scene:
    """One demonstration under way."""

    def __init__(self, arena: Arena, story: Story, onlooker: Onlooker, rng: random.Random, say: Say) -> None:
        self.arena = arena
        self.rng = rng
        self.cuts: chaos_cuts.Cuts | None = None
        self.incidents: list[Row] = []
        self._story = story
        self._onlooker = onlooker
        self._say = say
        self._began_s = time.monotonic()

    @classmethod
    @contextlib.contextmanager
    def opened(cls, kind: str, rng: random.Random, say: Say) -> Iterator[_Scene]:
        """Give a scene whose cluster runs; with a proxy between its parts where links are to be cut."""
        with contextlib.ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sparrowmq-demo-")))
            cuts = stack.enter_context(chaos_cuts.Cuts(directory)) if kind == "partition" else None
            arena = stack.enter_context(
                Arena(
                    f"demo {kind}", rng, workers=WORKERS, slots=SLOTS, schedulers=SCHEDULERS, assistants=ASSISTANTS,
                    log_path=str(directory / "log"), **(cuts.options() if cuts is not None else {}),
                )
            )  # fmt: skip
            arena.whole()
            url = arena.cluster.url if cuts is None else cuts.direct_url
            onlooker = Onlooker(StoreSettings(url=url), BEAT_S)
            onlooker.start()
            stack.callback(onlooker.stop)
            scene = cls(arena, Story(directory / "log"), onlooker, rng, say)
            scene.cuts = cuts
            yield scene

    def victim(self) -> tuple[Member, list[int]]:
        """Return a worker that runs tasks now, and the keys of these tasks."""
        self.arena.poll("a worker that runs tasks", lambda: bool(self._busy()))
        busy = self._busy()
        member = self.rng.choice(sorted(busy))
        return member, busy[member]

    def _busy(self) -> dict[Member, list[int]]:
        running = self.arena.running()
        return {member: running[member.pid] for member in self.arena.cluster.workers if member.pid in running}

    def tell(self, member: Member, what: str, at_s: float, **more: Any) -> Row:
        """Begin an incident: this was done to a member at that moment."""
        row: Row = {
            "at_s": round(at_s - self._began_s, 3),
            "member": member.id,
            "pid": member.pid,
            "what": what,
            **more,
        }
        self.incidents.append(row)
        return row

    def given_up(self, member: Member, since_s: float) -> None:
        """Wait until a scheduler has given the member up."""
        self.arena.poll(
            f"the end of patience with {member.id}",
            lambda: self._story.first(GIVEN_UP, member.id, since_s) is not None,
        )

    def close(self, row: Row, at_s: float, replaced_s: float | None = None) -> None:
        """End an incident: note and say what was noticed of it since ``at_s``."""
        missed, given_up = (self._story.first(events, row["member"], at_s) for events in (MISSED, GIVEN_UP))
        onlooker = self._onlooker
        moments = {
            "suspected_ms": missed and missed.at_s,
            "declared_ms": given_up and given_up.at_s,
            "detector_ms": onlooker.declared_s(row["member"], at_s),
            "fixed_timeout_ms": onlooker.fixed_s(row["member"], at_s),
        }
        row |= {name: None if s is None else figures.ms(s - at_s) for name, s in moments.items()}
        row["replaced_ms"] = None if replaced_s is None else figures.ms(replaced_s)
        row["why"] = given_up.why if given_up else ""
        row["suspicion"] = missed.event if missed else ""
        self._say(story_of(row))

    def detectors(self) -> list[Row]:
        """Return how often the cluster's own detector and a fixed timeout declared a node dead on the same beats."""
        onlooker, timeout_ms = self._onlooker, self._onlooker.fixed_timeout_s * 1e3
        return [
            {"detector": onlooker.detector, "declared": onlooker.deaths},
            {"detector": f"fixed timeout of {timeout_ms:.0f} ms", "declared": onlooker.fixed_deaths},
        ]


def story_of(row: Row) -> str:
    """Return an incident in words, one line a moment."""
    moments = [
        (row[name], text)
        for name, text in (
            ("suspected_ms", f"suspected: {row['suspicion']}"),
            ("declared_ms", f"given up: {row['why']}"),
            ("accepted_ms", "its jobs are accepted by another scheduler"),
            ("replaced_ms", "the last of its tasks runs elsewhere"),
            ("back_ms", "it is back"),
            ("detector_ms", "its beats alone: the detector would declare it dead now"),
            ("fixed_timeout_ms", "its beats alone: a fixed timeout would"),
        )
        if row.get(name) is not None
    ]
    lines = [f"{row['at_s']:7.2f} s  {row['member']} (pid {row['pid']}) {row['what']}; tasks: {row['tasks']}"]
    lines += [f"           + {at_ms:7.1f} ms  {text}" for at_ms, text in sorted(moments)]
    lines += [f"             {note}" for note in row.get("notes", ())]
    return "\n".join(lines)


# The plays.


def _kill(scene: _Scene, times: int) -> None:
    """SIGKILL workers, one after the other, then the scheduler that has the jobs."""
    arena = scene.arena
    time.sleep(_CALM_S)
    for _ in range(times):
        member, keys = scene.victim()
        killed_s = arena.kill([member.pid])
        row = scene.tell(member, "is killed", killed_s, tasks=len(keys))
        replaced_s = arena.elsewhere(keys, killed_s)
        arena.refill(WORKERS, SCHEDULERS)
        time.sleep(_CALM_S)  # the detectors, which hear beats only, find it much later
        scene.close(row, killed_s, replaced_s)
    _kill_scheduler(scene)


def _kill_scheduler(scene: _Scene) -> None:
    arena = scene.arena
    member = arena.cluster.schedulers[arena.home()]
    keys = [key for some in arena.running().values() for key in some]
    batches = arena.ledger.unfinished
    before = {key: len(arena.stamps.of(key)) for key in keys}
    killed_s = arena.kill([member.pid])
    row = scene.tell(member, "is killed", killed_s, tasks=len(keys))
    row["accepted_ms"] = figures.ms(arena.accepted_since(batches, killed_s) - killed_s)
    arena.refill(WORKERS, SCHEDULERS)
    reruns = sum(len(arena.stamps.of(key)) - before[key] for key in keys)
    row["rerun"] = reruns
    row["notes"] = [f"of {len(keys)} tasks that ran, {reruns} were started again"]
    scene.close(row, killed_s)


def _freeze(scene: _Scene, times: int) -> None:
    """SIGSTOP all processes of workers: every other time only for as long as nobody may be given up for it."""
    arena = scene.arena
    for number in range(times):
        time.sleep(_CALM_S)
        member, keys = scene.victim()
        with arena.stopped(arena.tree(member.pid)) as stopped_s:
            if number % 2:
                row = scene.tell(member, f"is frozen for {_SHORT_S * 1e3:.0f} ms", stopped_s, tasks=len(keys))
                time.sleep(_SHORT_S)
                replaced_s = None
            else:
                row = scene.tell(member, "is frozen, until its tasks run elsewhere", stopped_s, tasks=len(keys))
                scene.given_up(member, stopped_s)
                replaced_s = arena.elsewhere(keys, stopped_s)
                time.sleep(_AFTER_S)
        _back(scene, row, stopped_s, replaced_s)


def _partition(scene: _Scene, times: int) -> None:
    """Cut the links of workers to schedulers and Redis in each of the four ways, in turn."""
    arena, cuts = scene.arena, scene.cuts
    assert cuts is not None
    for number in range(times):
        how = chaos_cuts.WAYS[number % len(chaos_cuts.WAYS)]
        time.sleep(_CALM_S)
        member, keys = scene.victim()
        cut_s = time.monotonic()
        with cuts.cut(member.pid, how.name):
            row = scene.tell(member, how.what, cut_s, tasks=len(keys), how=how.name)
            scene.given_up(member, cut_s)
            replaced_s = arena.elsewhere(keys, cut_s)
            time.sleep(_AFTER_S)
        _back(scene, row, cut_s, replaced_s)


def _back(scene: _Scene, row: Row, since_s: float, replaced_s: float | None) -> None:
    """Wait until the member is one of the cluster again."""
    scene.arena.whole()
    row["back_ms"] = figures.ms(time.monotonic() - since_s)
    scene.close(row, since_s, replaced_s)


_PLAYS: Final[dict[str, Callable[[_Scene, int], None]]] = {"kill": _kill, "freeze": _freeze, "partition": _partition}


def verdict(result: dict[str, Any]) -> Sequence[str]:
    """Return the last lines: the detectors side by side, and the ledger."""
    sides = ", ".join(f"{row['detector']} {row['declared']}" for row in result["detectors"])
    ledger = result["ledger"]
    lines = [f"Declared dead on the same beats: {sides}."]
    lines.append(
        f"Ledger: tasks {ledger['tasks']:,}, incomplete {ledger['incomplete']:,}, duplicated {ledger['duplicated']:,}"
    )
    return [*lines, *ledger["examples"], *filter(None, [result["error"]])]
