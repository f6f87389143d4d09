"""What the tasks of a scheduler's jobs printed: the last of it for those who ask, what comes for those who follow.

Owns: the bounds on what is kept and on what a follower is sent a second, and who follows which job. Must not know:
tasks' states, or what the bytes mean.

A job's transcript is one byte array of records, so that short lines cost little beside their text.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sparrowmq import limits
from sparrowmq.core.effects import Peer
from sparrowmq.core.job import Job
from sparrowmq.core.peers import Client
from sparrowmq.core.state import State
from sparrowmq.protocol import messages as m

FOLLOW_BYTES_PER_S: Final = 8 * 1024 * 1024  # what one follower is sent; beyond, output is left out, and counted

_RECORD: Final = struct.Struct("<IQBQI")  # task, attempt, stream, bytes left out before, length; then the bytes


class Transcript:
    """What is kept of one job's output."""

    __slots__ = ("_records", "dropped", "text_bytes")

    def __init__(self) -> None:
        self._records = bytearray()
        self.dropped = 0  # bytes that were dropped before the first that is kept
        self.text_bytes = 0

    def __len__(self) -> int:
        return len(self._records)

    def append(self, output: m.Output) -> None:
        """Keep this."""
        dropped = min(output.dropped, limits.INT_MAX)
        self._records += _RECORD.pack(output.index, output.attempt, output.stream, dropped, len(output.data))
        self._records += output.data
        self.text_bytes += len(output.data)

    def shrink(self, size: int) -> None:
        """Drop the oldest records until this one takes ``size`` bytes at the most."""
        start = 0
        while len(self._records) - start > size:
            _, _, _, dropped, length = _RECORD.unpack_from(self._records, start)
            start += _RECORD.size + length
            self.text_bytes -= length
            self.dropped = min(self.dropped + dropped + length, limits.INT_MAX)
        del self._records[:start]

    def outputs(self, job: Job) -> Iterator[m.Output]:
        """Yield what is kept, oldest first."""
        start, before = 0, self.dropped
        while start < len(self._records):
            index, attempt, stream, dropped, length = _RECORD.unpack_from(self._records, start)
            start += _RECORD.size + length
            data = bytes(self._records[start - length : start])
            yield m.Output(job.id, job.epoch, index, attempt, stream, data, min(before + dropped, limits.INT_MAX))
            before = 0


@dataclass(slots=True)
class Follower:
    """Who is sent a job's output as it comes. ``left`` bytes may go at once; they grow back with time."""

    request: int
    left: float
    at: float
    dropped: int = 0


class Transcripts:
    """The output of one scheduler's jobs, unfinished ones and those of its history."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._jobs: OrderedDict[int, Job] = OrderedDict()  # those with a transcript, by identity; oldest output first
        self._followers: dict[str, dict[Peer, Follower]] = {}  # by job
        self._following = 0
        self.bytes = 0

    # -- what comes

    def output(self, now: float, worker: str, message: m.Output) -> None:
        """A task wrote something at this worker: keep it, and send it to those who follow its job."""
        job = self._state.jobs.get(message.job)
        number = job.attempt_at(message.index, worker) if job is not None and job.epoch == message.epoch else 0
        if job is None or not number or number != message.attempt:
            self._state.count("stale_output")
            return
        self._keep(job, message)
        for peer, follower in self._followers.get(job.id, {}).items():
            self._send(now, peer, follower, message)

    def _keep(self, job: Job, message: m.Output) -> None:
        bounds = self._state.settings.limits
        transcript = job.transcript
        if transcript is None:
            transcript = job.transcript = Transcript()
            self._jobs[id(job)] = job
        before = len(transcript)
        transcript.append(message)
        transcript.shrink(bounds.job_output_bytes)
        self.bytes += len(transcript) - before
        while self.bytes > bounds.output_bytes:
            self._shrink_oldest()

    def _shrink_oldest(self) -> None:
        """Drop some of what was printed by the job that began to print first."""
        job = next(iter(self._jobs.values()))
        transcript = job.transcript
        assert transcript is not None
        before = len(transcript)
        transcript.shrink(max(0, before - limits.OUTPUT_BYTES_MAX))
        self.bytes += len(transcript) - before
        if not len(transcript):
            del self._jobs[id(job)]
            job.transcript = None

    def forget(self, job: Job) -> None:
        """The job is forgotten, and so is its output, if there is any."""
        if job.transcript is not None:
            self.bytes -= len(job.transcript)
            job.transcript = None
            del self._jobs[id(job)]

    def _send(self, now: float, peer: Peer, follower: Follower, message: m.Output) -> None:
        size = len(message.data)
        follower.left = min(FOLLOW_BYTES_PER_S, follower.left + (now - follower.at) * FOLLOW_BYTES_PER_S)
        follower.at = now
        dropped = min(message.dropped + follower.dropped, limits.INT_MAX)
        if size > follower.left:
            follower.dropped = min(dropped + size, limits.INT_MAX)
            return
        follower.left -= size
        follower.dropped = 0
        self._state.send(
            peer,
            m.Output(message.job, message.epoch, message.index, message.attempt, message.stream, message.data, dropped),
        )

    # -- those who follow

    def follow(self, now: float, client: Client, message: m.Follow) -> None:
        """Send what is kept of a job, and go on with what comes if that is wanted and the job is not over."""
        state, peer = self._state, client.peer
        if peer is None:
            return  # it has left meanwhile
        job = state.job(message.job) if client.owns(message.job) else None
        if job is None:
            state.send(peer, m.Followed(message.request, message.job, ""))
            return
        if job.transcript is not None:
            for output in job.transcript.outputs(job):
                state.send(peer, output)
        if not message.live or job.how or self._following >= state.settings.limits.clients:
            state.send(peer, m.Followed(message.request, job.id, job.status))
            return
        followers = self._followers.setdefault(job.id, {})
        older = followers.get(peer)
        if older is None:
            self._following += 1
        else:  # output bears no request number: one follower a connection and job
            state.send(peer, m.Followed(older.request, job.id, job.status))
        followers[peer] = Follower(message.request, FOLLOW_BYTES_PER_S, now)

    def over(self, job: Job) -> None:
        """The job is over: tell those who follow it."""
        followers = self._followers.pop(job.id, None) if self._following else None
        if followers:
            self._following -= len(followers)
            for peer, follower in followers.items():
                if follower.dropped:  # and nothing came that could say so
                    self._state.send(peer, m.Output(job.id, job.epoch, 0, 0, 1, b"", follower.dropped))
                self._state.send(peer, m.Followed(follower.request, job.id, job.status))

    def unfollow(self, peer: Peer) -> None:
        """The connection is gone."""
        if self._following:
            for job_id, followers in list(self._followers.items()):
                if followers.pop(peer, None) is not None:
                    self._following -= 1
                    if not followers:
                        del self._followers[job_id]
