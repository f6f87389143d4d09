"""From readings and a time to one snapshot, which is all that the page knows. A state machine without I/O.

Owns: the snapshot's shape, and what on it is stale. Must not know: sockets, threads, HTTP, how it is drawn.
Everything it keeps is bounded by the rooms it is made of: `workers`, `jobs`, `load`, `strip`, `incidents`, `log`.

Times that go in are Unix seconds of the page's clock; those that come from the cluster are of the clocks there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from sparrowmq.core.assistant import AssistantReport
from sparrowmq.protocol import messages as m
from sparrowmq.store.listener import Heard
from sparrowmq.web.incidents import Incidents, Question
from sparrowmq.web.jobs import Jobs
from sparrowmq.web.load import Load
from sparrowmq.web.log import Log
from sparrowmq.web.reading import ALIVE, DEAD, DRAINING, SUSPECT, Reading
from sparrowmq.web.strip import WINDOW_S, Strip
from sparrowmq.web.workers import REJOINED_S, Change, Worker, Workers

VERSION: Final = 1  # of the snapshot's shape
STALE_S: Final = 3.0
REPORT_OLD_S: Final = 3.0  # an assistant tells twice a second
TILES_MAX: Final = 200
STRIP_MAX: Final = 12
WAITING, LIVE, STALE = "waiting", "live", "stale"


class _Source:
    """One of the two that tell: the schedulers, and the store."""

    def __init__(self, name: str, log: Log) -> None:
        self._name = name
        self._log = log
        self._said = ""  # the trouble that is in the log
        self.at_s: float | None = None
        self.why = ""

    def told(self, now: float) -> None:
        self.at_s, self.why = now, ""
        if self._said:
            self._log.add(now, "good", f"{self._name} again")
            self._said = ""

    def failed(self, now: float, why: str) -> None:
        self.why = why
        if why and not self._said:
            self._said = why
            self._log.add(now, "bad", why)

    def row(self, now: float) -> dict[str, Any]:
        age_s = None if self.at_s is None else max(0.0, now - self.at_s)
        state = WAITING if age_s is None else (STALE if age_s > STALE_S else LIVE)
        return {"state": state, "age_ms": None if age_s is None else round(age_s * 1e3), "why": self.why}


class View:
    """What the page shows. ``cluster`` is how it is named, ``package`` the version of this software."""

    def __init__(self, cluster: str = "", package: str = "") -> None:
        self._cluster = cluster
        self._package = package
        self._log = Log()
        self._workers = Workers()
        self._jobs = Jobs()
        self._load = Load()
        self._strip = Strip()
        self._incidents = Incidents()
        self._schedulers = _Source("schedulers answer", self._log)
        self._store = _Source("Redis answers", self._log)
        self._last = Reading()
        self._report = ("", 0.0)  # whose is the last one, and when it was told there
        self._report_s = 0.0  # when it was new here
        self._answered: set[str] | None = None
        self._running: dict[str, m.JobStatus] = {}

    # -- what is read

    def read(self, now: float, reading: Reading) -> None:
        """Take in one look at the cluster."""
        if reading.store_why:
            self._store.failed(now, reading.store_why)
        else:
            self._store.told(now)
        if not reading.statuses:
            found = f"none of {reading.schedulers} registered" if reading.schedulers else "none is registered"
            self._schedulers.failed(now, f"no scheduler answers ({found})")
            if not reading.store_why:
                self._last = reading._replace(statuses=self._last.statuses)
            return
        self._schedulers.told(now)
        if self._is_old(now, reading.report):
            reading = reading._replace(report=None)
        if reading.store_why:  # who leads, and what the registry says, is as it was
            before = self._last
            reading = reading._replace(schedulers=before.schedulers, assistants=before.assistants, leader=before.leader)
        changes = self._workers.read(now, reading)
        relaunched = self._jobs.read(reading.statuses)
        self._load.read(now, self._jobs.ended(), self._jobs.running(), self._jobs.waiting())
        self._incidents.changed(now, changes)
        self._incidents.judged(self._workers.known.values())
        self._incidents.relaunched(now, relaunched)
        self._note(now, reading, changes)
        self._last = reading

    def _is_old(self, now: float, report: AssistantReport | None) -> bool:
        """Return whether nothing new has been told for long: by this clock alone, which may not be the assistant's."""
        if report is None:
            return False
        told = (report.id, report.unix_s)
        if told != self._report:
            self._report, self._report_s = told, now
        return now - self._report_s > REPORT_OLD_S

    def failed(self, now: float, why: str) -> None:
        """Nobody could be asked, for this reason."""
        self._schedulers.failed(now, why)

    def heard(self, now: float, heard: Iterable[Heard]) -> None:
        """These beats were read."""
        self._strip.hear(now, heard)

    def questions(self, now: float) -> list[Question]:
        """Return what is to be asked of the schedulers beside the usual."""
        return self._incidents.questions(now)

    def told(self, now: float, job: str, rows: Sequence[m.TaskStatus]) -> None:
        """The answer to a question."""
        self._incidents.told(now, job, rows)

    def rest(self) -> None:
        """Nobody looks at the page: nothing will be read for a while."""
        self._strip.clear()
        self._schedulers.at_s = self._store.at_s = None
        self._schedulers.why = self._store.why = ""

    # -- the log

    def _note(self, now: float, reading: Reading, changes: Sequence[Change]) -> None:
        answered = {status.scheduler for status in reading.statuses}
        if self._answered is None:
            counts = f"{_count(len(changes), 'worker')}, {_count(len(answered), 'scheduler')}"
            self._log.add(now, "info", f"this page began to look: {counts}")
            changes = [change for change in changes if change.after in (SUSPECT, DEAD)]
        else:
            self._log.add_all(now, "good", sorted(answered - self._answered), "scheduler answers", "schedulers answer")
            gone = sorted(self._answered - answered)
            self._log.add_all(now, "bad", gone, "scheduler does not answer", "schedulers do not answer")
            if reading.leader != self._last.leader and not reading.store_why:
                text = "assistant leads" if reading.leader else "no assistant leads"
                self._log.add(now, "info" if reading.leader else "warn", text, reading.leader)
        self._answered = answered
        self._note_jobs(now)
        for sentence in _SENTENCES:
            names = [change.worker.id for change in changes if sentence.fits(change)]
            self._log.add_all(now, sentence.level, names, sentence.one, sentence.many)

    def _note_jobs(self, now: float) -> None:
        over = {row.id: row for row in self._jobs.rows if row.state in ("done", "cancelled")}
        ended = [over[id] for id in self._running if id in over]
        self._log.jobs_over(now, [row.name or row.id for row in ended])
        self._running = {row.id: row for row in self._jobs.rows if row.id not in over}

    # -- the snapshot

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return all that the page shows, as plain data."""
        return {
            "version": VERSION,
            "unix_s": round(now, 3),
            "feed": {"schedulers": self._schedulers.row(now), "store": self._store.row(now)},
            "header": self._header(now),
            "tiles": self._tiles(now),
            "strip": self._strip_rows(now),
            "incidents": self._incidents.rows(),
            "load": self._load.rows(now),
            "funnel": dict(self._jobs.probes),
            "jobs": self._jobs.shown(),
            "events": self._log.rows(),
        }

    def _header(self, now: float) -> dict[str, Any]:
        last, report = self._last, self._last.report
        queueing_ms = self._jobs.queueing_ms(now)
        return {
            "cluster": self._cluster,
            "package": self._package,
            **self._jobs.header(),
            "tasks_per_s": self._load.rate(),
            "queueing_p50_ms": None if queueing_ms is None else round(queueing_ms[0], 2),
            "queueing_p99_ms": None if queueing_ms is None else round(queueing_ms[1], 2),
            "workers": dict(self._workers.counts()),
            "schedulers": last.schedulers,
            "schedulers_answer": len(last.statuses),
            "assistants": last.assistants,
            "leader": last.leader,
            "detector": None if report is None else _detector(report),
        }

    def _tiles(self, now: float) -> dict[str, Any]:
        """Return a row a worker; beyond TILES_MAX those first of which there is something to see."""
        workers = sorted(self._workers.known.values(), key=lambda worker: worker.id)
        shown = workers
        if len(workers) > TILES_MAX:
            urgent = sorted(workers, key=lambda worker: (worker.state == ALIVE, worker.id))
            shown = sorted(urgent[:TILES_MAX], key=lambda worker: worker.id)
        loads = [self._load_of(worker) for worker in workers if worker.state != DEAD]
        return {
            "rows": [self._tile(worker, now) for worker in shown],
            "more": len(workers) - len(shown),
            "slots": sum(slots for slots, _, _ in loads),
            "running": sum(running for _, running, _ in loads),
        }

    def _load_of(self, worker: Worker) -> tuple[int, int, int]:
        """Return slots, how many are busy, and what is queued: by the last beat, else as the assistant has it."""
        pulse = self._strip.pulses.get(worker.id)
        load = worker.node if pulse is None else pulse.beat
        if load is not None:
            return load.slots, load.running, load.queued
        return (0 if worker.row is None else worker.row.slots), 0, 0

    def _tile(self, worker: Worker, now: float) -> dict[str, Any]:
        pulse, node, row = self._strip.pulses.get(worker.id), worker.node, worker.row
        slots, running, queued = self._load_of(worker)
        silent_ms = self._strip.silent_ms(worker.id)
        if silent_ms is None and node is not None:
            silent_ms = round(node.silent_ms)
        return {
            "id": worker.id,
            "host": "" if row is None else row.host,
            "state": worker.state,
            "for_s": round(max(0.0, now - worker.since_s), 1),
            "rejoined": now - worker.rejoined_s < REJOINED_S and worker.state in (ALIVE, DRAINING),
            "dropped": worker.dropped and worker.state == SUSPECT,
            "slots": slots,
            "running": 0 if worker.state == DEAD else running,
            "queued": 0 if worker.state == DEAD else queued,
            "done": 0 if row is None else row.done,
            "silent_ms": silent_ms,
            "interval_ms": node.interval_ms if node is not None else (0 if pulse is None else pulse.beat.interval_ms),
            "suspect_after_ms": None if node is None else node.suspect_after_ms or None,
        }

    def _strip_rows(self, now: float) -> dict[str, Any]:
        """Return the beats of a few workers: those first of which there is something to see."""
        known = self._workers.known
        ids = sorted(known, key=lambda id: (self._interest(known[id], now), id))
        rows = []
        for id in sorted(ids[:STRIP_MAX]):
            node = known[id].node
            pulse = self._strip.pulses.get(id)
            rows.append(
                {
                    "id": id,
                    "state": known[id].state,
                    "beats_ms": self._strip.ticks_ms(id, now),
                    "last_ms": None if pulse is None else round((now - pulse.last_s) * 1e3),
                    "interval_ms": 0 if pulse is None else pulse.beat.interval_ms,
                    "suspect_after_ms": None if node is None else node.suspect_after_ms or None,
                }
            )
        seen_s = self._strip.seen_s
        return {
            "window_ms": round(WINDOW_S * 1e3),
            "seen_ms": None if seen_s is None else round((now - seen_s) * 1e3),
            "rows": rows,
            "more": max(0, len(ids) - STRIP_MAX),
        }

    def _interest(self, worker: Worker, now: float) -> int:
        """Return how late a worker comes in the strip: the dead of whom no beat is left to see come last."""
        if worker.state in (ALIVE, DRAINING):
            return 1
        return 0 if worker.state == SUSPECT or self._strip.ticks_ms(worker.id, now) else 2


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _detector(report: AssistantReport) -> dict[str, Any]:
    """Return how the assistant judges, and what a fixed timeout would have said of the same beats."""
    return {
        "name": report.detector,
        "deaths": report.deaths,
        "refuted": report.refuted,
        "fixed_timeout_ms": round(report.baseline_timeout_s * 1e3),
        "fixed_deaths": report.baseline_deaths,
        "fixed_refuted": report.baseline_refuted,
    }


class _Sentence(NamedTuple):
    """Of which changes what is said, of one worker and of many."""

    level: str
    one: str
    many: str
    fits: Callable[[Change], bool]


_HERE: Final = (ALIVE, DRAINING)
_SENTENCES: Final = (
    _Sentence("good", "joined", "workers joined", lambda it: not it.before and it.after in _HERE),
    _Sentence("warn", "given up by its schedulers", "workers given up by their schedulers",
              lambda it: it.after == SUSPECT and it.worker.dropped),
    _Sentence("warn", "suspect", "workers suspect", lambda it: it.after == SUSPECT and not it.worker.dropped),
    _Sentence("bad", "dead", "workers dead", lambda it: it.after == DEAD),
    _Sentence("good", "suspicion over", "suspicions over", lambda it: it.before == SUSPECT and it.after == ALIVE),
    _Sentence("good", "rejoined", "workers rejoined", lambda it: it.before == DEAD and it.after in _HERE),
    _Sentence("info", "drains", "workers drain", lambda it: it.before == ALIVE and it.after == DRAINING),
    _Sentence("info", "left", "workers left", lambda it: not it.after and it.before != DEAD),
)  # fmt: skip
