"""Many seeds of the swarm over processes; what has been found, and how to see it again.

Owns: the processes and their ends, the file that lets a long run go on later, transcripts. Must not know: what a seed
means, or what is checked (sim/swarm).

A seed that fails is played once more with a journal: the transcript is of that second run, which is the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import statistics
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import IO, Any, Final

import msgspec

import sparrowmq
from sparrowmq.errors import UsageError
from sparrowmq.executor import linux
from sparrowmq.experiments import children
from sparrowmq.sim.journal import Journal
from sparrowmq.sim.swarm.drawing import draw
from sparrowmq.sim.swarm.play import Play, Verdict

EVENTS_MIN: Final = 3_000  # of a seed of 20 workers and 30 s: with fewer, the swarm would be too weak
LINES: Final = 400  # of a transcript, before the failure
_SHARED: Final = 4  # seeds that a process is given at a time

Watch = Callable[["Count"], AbstractContextManager[object]]


class Parameters(msgspec.Struct, frozen=True):
    """What decides how a seed goes, beside the seed."""

    workers: int = 20
    duration_s: float = 30.0
    source: str = ""  # a digest of the code that was run

    def replay(self, seed: int) -> str:
        """Return the command that plays one seed again."""
        command = f"sparrowmq sim swarm --first {seed} --seeds 1"
        return f"{command} --workers {self.workers} --duration {self.duration_s:g}"


class Finding(msgspec.Struct, frozen=True):
    """A seed that failed: why, found by which check, the command that plays it again, the file with its transcript."""

    seed: int
    failure: str
    found_by: str
    replay: str
    transcript: str = ""


class Report(msgspec.Struct):
    """What has become of the seeds that were asked for."""

    seeds: int = 0  # finished ones
    wanted: int = 0
    resumed: int = 0  # of the finished ones, those that an earlier run had finished
    events: int = 0
    events_min: int = 0
    events_median: float = 0.0
    tasks: int = 0
    virtual_s: float = 0.0
    findings: list[Finding] = msgspec.field(default_factory=list)
    interrupted: bool = False


class Count:
    """How far the run is: what a bar reads whenever it is drawn."""

    def __init__(self, total: int) -> None:
        self.description = "seeds"
        self.total: int | None = total
        self.done = 0
        self.failed = 0


def source_digest() -> str:
    """Return a digest of the package's source: a seed is finished only for the code that played it."""
    package = Path(sparrowmq.__file__).parent
    digest = hashlib.sha256()
    for room in ("core", "placement", "protocol", "sim", "errors.py", "ids.py", "limits.py", "settings.py"):
        place = package / room
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def play(seed: int, parameters: Parameters, journal: Journal | None = None) -> Verdict:
    """Play one seed; a full-sized one with too few events to mean anything counts as failed."""
    verdict = Play(draw(seed, workers=parameters.workers, duration_s=parameters.duration_s), journal).run()
    full = parameters.workers >= 20 and parameters.duration_s >= 30.0
    if full and not verdict.failure and verdict.events < EVENTS_MIN:
        too_few = f"{verdict.events:,} events: a seed has {EVENTS_MIN:,} at least"
        return msgspec.structs.replace(verdict, failure=too_few, found_by="events")
    return verdict


def transcript(seed: int, parameters: Parameters, lines: int = LINES) -> str:
    """Play a seed again and tell of it: what was wrong, the last events before that, what the seed means."""
    journal = Journal(lines)
    verdict = play(seed, parameters, journal)
    scenario = draw(seed, workers=parameters.workers, duration_s=parameters.duration_s)
    parts = [
        f"{parameters.replay(seed)}\n\n{verdict.failure or 'nothing failed'}\n"
        f"(found by {verdict.found_by or 'no check'} at {verdict.at_s:g} s, after {verdict.events:,} events; "
        f"digest {journal.digest()})",
        f"The last {lines} events:\n" + "\n".join(journal.lines()),
        "The scenario:\n" + "\n".join(scenario.lines()),
    ]
    return "\n\n".join(parts) + "\n"


def run(
    *,
    first: int,
    seeds: int,
    parameters: Parameters,
    processes: int = 1,
    resume: Path | None = None,
    transcripts: Path = Path(),
    watch: Watch = contextlib.nullcontext,
) -> Report:
    """Play these seeds, ``processes`` at a time; Ctrl-C ends them at once and returns what is finished.

    ``resume``: a file with one line a finished seed, which are not played again; new ones are added to it. Raises
    UsageError where it is of a run with other parameters, or no such file.
    """
    parameters = msgspec.structs.replace(parameters, source=source_digest())
    wanted = range(first, first + seeds)
    with contextlib.ExitStack() as stack:
        done, kept = _resumed(resume, parameters)
        if kept is not None:
            stack.callback(kept.close)
        known = {seed: verdict for seed, verdict in done.items() if seed in wanted}
        swarm = _Swarm(wanted, known, parameters, kept, transcripts)
        interrupted = False
        try:
            with watch(swarm.count):
                swarm.go(max(1, processes))
        except KeyboardInterrupt:
            interrupted = True
        finally:
            swarm.end()
    return _report(swarm, interrupted)


def _report(swarm: _Swarm, interrupted: bool) -> Report:
    verdicts = [swarm.verdicts[seed] for seed in sorted(swarm.verdicts)]
    report = Report(len(verdicts), len(swarm.wanted), swarm.resumed, interrupted=interrupted)
    whole = [verdict.events for verdict in verdicts if not verdict.failure]
    report.events = sum(verdict.events for verdict in verdicts)
    report.events_min = min(whole, default=0)
    report.events_median = statistics.median(whole) if whole else 0.0
    report.tasks = sum(verdict.tasks for verdict in verdicts)
    report.virtual_s = round(sum(verdict.virtual_s for verdict in verdicts), 3)
    for verdict in verdicts:
        if verdict.failure:
            path = swarm.transcripts.get(verdict.seed, "")
            replay = swarm.parameters.replay(verdict.seed)
            report.findings.append(Finding(verdict.seed, verdict.failure, verdict.found_by, replay, path))
    return report


def _write(path: Path, text: str) -> str:
    """Write a transcript; return where it is, or why it is not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        return f"not written: {error}"
    return str(path)


# -- the file of a long run


def _resumed(path: Path | None, parameters: Parameters) -> tuple[dict[int, Verdict], IO[bytes] | None]:
    """Return what earlier runs have finished, and the file to add to."""
    if path is None:
        return {}, None
    text = path.read_text() if path.exists() else ""
    whole, _, _ = text.rpartition("\n")  # a line that was cut off by an end in the middle is played again
    lines = whole.splitlines()
    done: dict[int, Verdict] = {}
    if lines:
        _check_same(path, lines[0], parameters)
    for number, line in enumerate(lines[1:], start=2):
        try:
            verdict = msgspec.json.decode(line, type=Verdict)
        except msgspec.DecodeError as error:
            raise UsageError(
                f"{path}, line {number}: no verdict on a seed: {error}", hint="name another file"
            ) from None
        done[verdict.seed] = verdict
    kept = path.open("r+b" if lines else "wb")
    kept.seek(len(f"{whole}\n".encode()) if lines else 0)
    kept.truncate()
    if not lines:
        kept.write(json.dumps({"swarm": 1, **msgspec.to_builtins(parameters)}).encode() + b"\n")
        kept.flush()
    return done, kept


def _check_same(path: Path, line: str, parameters: Parameters) -> None:
    try:
        head: dict[str, Any] = json.loads(line)
        assert head["swarm"] == 1
    except (ValueError, KeyError, TypeError, AssertionError):
        raise UsageError(f"{path}, line 1: this is no file of a swarm", hint="name a file that is new") from None
    for name, mine in msgspec.to_builtins(parameters).items():
        if head.get(name) != mine:
            raise UsageError(
                f"{path} is of a run with {name} {head.get(name)}, this one has {mine}",
                hint="give the same parameters, or another file",
            )


# -- processes


class _Child:
    def __init__(self, process: SpawnProcess) -> None:
        self.process = process
        self.seeds: deque[int] = deque()  # given and not finished


class _Swarm:
    def __init__(
        self, wanted: range, done: dict[int, Verdict], parameters: Parameters, kept: IO[bytes] | None, directory: Path
    ) -> None:
        self.wanted = wanted
        self.parameters = parameters
        self.verdicts = done
        self.transcripts: dict[int, str] = {}  # where the story of a seed that failed is
        self.resumed = len(done)
        self.count = Count(len(wanted))
        self.count.done = len(done)
        self._kept = kept
        self._directory = directory
        self._left = deque(seed for seed in wanted if seed not in done)
        self._children: dict[Connection, _Child] = {}
        for verdict in done.values():
            self.count.failed += bool(verdict.failure)
            if verdict.failure:
                self._left.appendleft(verdict.seed)  # once more, for its transcript
        self.count.done -= self.count.failed
        self.count.failed = 0

    def go(self, processes: int) -> None:
        for _ in range(min(processes, len(self._left))):
            self._start()
        while self._children:
            for connection in children.heard(self._children):
                self._hear(connection)

    def end(self) -> None:
        """End what still runs."""
        children.end({connection: child.process for connection, child in self._children.items()})
        self._children.clear()

    def _start(self) -> None:
        connection, process = children.start(_work, self.parameters)
        self._children[connection] = _Child(process)
        self._feed(connection)

    def _feed(self, connection: Connection) -> None:
        """Give a process its next seeds; none: it ends."""
        child = self._children[connection]
        while self._left and len(child.seeds) < _SHARED:
            child.seeds.append(self._left.popleft())
            with contextlib.suppress(OSError):  # it has died: its end of the pipe will say so
                connection.send(child.seeds[-1])
        if not child.seeds:
            with contextlib.suppress(OSError):
                connection.send(None)

    def _hear(self, connection: Connection) -> None:
        child = self._children[connection]
        try:
            verdict, text = connection.recv()
        except (EOFError, ConnectionError):
            del self._children[connection]
            children.gone(connection, child.process)
            if child.seeds:
                self._died(child)
            return
        child.seeds.popleft()
        self._over(verdict, text)
        self._feed(connection)

    def _died(self, child: _Child) -> None:
        """Its first seed is the guilty one; the others are for another process."""
        guilty = child.seeds.popleft()
        self._left.extendleft(reversed(child.seeds))
        failure = f"the process that played it ended with status {child.process.exitcode}"
        self._over(Verdict(guilty, 0, 0.0, 0, 0, "", failure, "process"), "")
        if self._left:
            self._start()

    def _over(self, verdict: Verdict, text: str) -> None:
        known = self.verdicts.get(verdict.seed)
        self.verdicts[verdict.seed] = verdict
        self.count.done += 1
        self.count.failed += bool(verdict.failure)
        if text:
            self.transcripts[verdict.seed] = _write(self._directory / f"swarm-{verdict.seed}.txt", text)
        if self._kept is not None and known is None and verdict.found_by != "process":
            self._kept.write(msgspec.json.encode(verdict) + b"\n")
            self._kept.flush()


def _work(connection: Connection, parent: int, parameters: Parameters) -> None:
    """In a child: play one seed after the other."""
    linux.die_with_parent(parent)
    while (seed := connection.recv()) is not None:
        verdict = play(seed, parameters)
        connection.send((verdict, transcript(seed, parameters) if verdict.failure else ""))
