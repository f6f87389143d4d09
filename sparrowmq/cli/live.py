"""Live output of a job: what its tasks print, printed here while they run, and the rest when they are over.

Owns: a thread that follows the job, and what was printed already. Must not know: how output travels.

What comes live is best effort; a command's result has its output (up to a bound) for certain. So what has been printed
is counted, and at the end the rest of the captured output follows.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import msgspec

from sparrowmq.cli.output import Lines
from sparrowmq.errors import CommandFailed, SparrowError
from sparrowmq.protocol import messages as m

if TYPE_CHECKING:
    from sparrowmq.client.client import Client
    from sparrowmq.client.job import Job

STARTED_POLL_S = 0.005
REST_WAIT_S = 2.0  # for what is still on its way when the job is over
_CAP_NOTE = b"[... output beyond "


class _Shown:
    """What was printed of one task's stream: so many bytes of one attempt, perhaps with gaps, or only up to the cap."""

    def __init__(self) -> None:
        self.attempt = 0
        self.bytes = 0
        self.gap = False
        self.capped = False
        self._held = b""

    def take(self, data: bytes) -> bytes:
        """Return what of ``data`` is to be printed now: the note at the cap, wherever it is cut in two, is not."""
        if self.capped:
            return b""
        before, note, _ = (self._held + data).partition(_CAP_NOTE)
        self.capped = bool(note)
        if note:
            before = before.removesuffix(b"\n")  # it may be the note's; if it is the task's, it comes with the rest
        cut = 0 if note else next((n for n in range(len(_CAP_NOTE), 0, -1) if before.endswith(_CAP_NOTE[:n])), 0)
        cut += bool(cut) and before[: len(before) - cut].endswith(b"\n")
        self._held = before[len(before) - cut :]
        before = before[: len(before) - cut]
        self.bytes += len(before)
        return before


class Live:
    """Follows one job until `finish`."""

    def __init__(self, client: Client, job: Job[Any], *, marked: bool, captured: bool) -> None:
        self._client = client
        self._lines = Lines(marked=marked)
        self._captured = captured  # the results will have the output, too
        self._shown: dict[tuple[str, int, int], _Shown] = defaultdict(_Shown)
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._follow, args=(job, name), name=f"live-{name}", daemon=True)
            for name in job.ids
        ]
        for thread in self._threads:
            thread.start()

    def _follow(self, job: Job[Any], name: str) -> None:
        while job.accepted_workers is None:  # a scheduler that does not know the job yet has nothing to follow
            if job.wait(STARTED_POLL_S):
                break
        try:
            for output in self._client.job(name).logs(follow=True):
                with self._lock:
                    self._print(output)
        except SparrowError:
            return  # its scheduler is gone, or the client: what is missing comes with the results

    def _print(self, output: m.Output) -> None:
        if not self._captured:
            self._lines.write(output)
            return
        source = output.job, output.index, output.stream
        if self._shown[source].attempt != output.attempt:
            self._shown[source] = _Shown()
        shown = self._shown[source]
        shown.attempt, shown.gap = output.attempt, shown.gap or output.dropped > 0
        self._lines.write(msgspec.structs.replace(output, data=shown.take(output.data)))

    def finish(self, job: Job[Any]) -> None:
        """The job is over: print what is missing."""
        deadline = time.monotonic() + REST_WAIT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            for future in job:
                for stream, captured in _captured(future):
                    shown = self._shown[future.job, future.index, stream]
                    rest = b"" if shown.gap else captured[shown.bytes :]
                    if rest:
                        self._lines.write(m.Output(future.job, 0, future.index, shown.attempt, stream, rest))
            self._lines.end()


def _captured(future: Any) -> list[tuple[int, bytes]]:
    """Return what a command's result has of each stream."""
    from sparrowmq.client.outcomes import CommandResult

    if not future.done() or future.cancelled():
        return []
    error = future.exception()
    if isinstance(error, CommandFailed):
        return [(1, error.stdout), (2, error.stderr)]
    result = None if error is not None else future.result()
    return [(1, result.stdout), (2, result.stderr)] if isinstance(result, CommandResult) else []
