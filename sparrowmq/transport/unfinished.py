"""What connections have brought and nobody has got as a message: how much, and which of them hang up for it.

Owns: that count, when which connection is looked at, and which have brought nothing at all. Must not know: routing ids,
or how a connection is ended.

ZeroMQ hands over whole messages only: it keeps the frames of one whose last frame has not come, and its limit is one
for each frame. Who never sends a last frame would take all memory. From above nothing of it shows; from below it does:
the kernel counts what a TCP connection has brought (kernel.py). That less the messages that were taken is
what ZeroMQ holds of it. It is too much when it exceeds the largest message (of a stranger: the largest hello) and no
message has come of it although everything that could be read was.

All connections together may hold so much, and strangers a quarter of it. Beyond that some hang up: strangers first,
those that hold the most before the others, then peers that hold more than an even share, as chance has it. (Those that
were silent longest are the nearest to the end of their messages: with them first, eight peers with 200 MiB each over
links of one speed began anew for ever, and none came to an end.) A Unix socket has no such count: whoever may write to
its directory is its owner and is trusted.

Bytes are not memory. A frame costs ZeroMQ 64 bytes however small it is, and two bytes on the wire are one: what is held
may cost 32 times as much. With keys each frame has 33 bytes and more around it, and costs 144: four times as much.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Final

from sparrowmq import limits
from sparrowmq.transport.kernel import bytes_received, bytes_unread, bytes_waiting

LOOK_EVERY_S: Final = 0.1
LOOK_AGAIN_S: Final = 0.02  # while somebody holds too much, messages or not
# Beyond what a message holds: its framing, the handshake, what ZeroMQ has taken from the kernel and not cut yet.
_SLACK_BYTES: Final = 1024 * 1024
STRANGER_BYTES_MAX: Final = limits.HELLO_BYTES_MAX + _SLACK_BYTES
# The body and the payloads of the largest job; a dealer's batches are cut to that (link.cut).
PEER_BYTES_MAX: Final = limits.JOB_BYTES_MAX + limits.FRAME_BYTES_MAX + _SLACK_BYTES
_NEAR_BYTES: Final = 8 * 1024 * 1024  # held of one connection, from which on it is looked at each time
_STRANGERS_PART: Final = 4  # of what all may hold together, strangers may hold one in so many
_LITTLE_BYTES: Final = 64 * 1024  # to end one that holds no more than that gains nothing: most hellos are smaller
_FRAME_EXTRA_BYTES: Final = 64  # around a frame at most: 9 by ZMTP, with CURVE 33 more
_COMMANDS_BYTES: Final = 64  # between two looks: heartbeats and their answers, which are no messages
_ALL_IN_LOOKS: Final = 10  # after so many, each connection was looked at ...
_LOOKS_MIN, _LOOKS_MAX = 100, 500  # ... where it takes neither fewer nor more at one time, at 4 us each


class Flow:
    """One connection. ``held``: bytes of it that were no message yet when it was looked at, and are none since."""

    __slots__ = ("brought", "heard", "held", "hung_up", "mute", "received", "since", "taken")

    def __init__(self, messages: int) -> None:
        self.received = 0  # at the last look
        self.taken = 0  # as messages, since then, and more than was held
        self.held = 0
        self.heard = messages  # how many there had been of all connections when it last brought one
        self.hung_up = False
        self.brought = -1  # when it was last asked whether it is mute ...
        self.mute = 0  # ... and how often in a row it was the same
        self.since: tuple[int, int] | None = None  # rounds and messages, when it was first seen to hold too much


class Unfinished:
    """The flows of one socket, by descriptor. ``unread_max``: bytes of one that are too many, messages or not.

    ``held_max``: bytes that all of them may hold together, and the strangers among them a quarter.
    """

    def __init__(self, unread_max: int, held_max: int, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()
        self.rounds = 0  # how often everything that had arrived was read
        self.held = 0  # by all flows
        self._unread_max = unread_max
        self._held_max = held_max
        self._crowded: tuple[int, int] | None = None  # rounds and messages, when all together held too much
        self._messages = 0
        self._flows: dict[int, Flow] = {}  # that looked at longest ago first
        self._near: dict[int, None] = {}  # those to look at each time, in the same order

    def __contains__(self, descriptor: int) -> bool:
        return descriptor in self._flows

    def __len__(self) -> int:
        return len(self._flows)

    def arrived(self, descriptor: int) -> None:
        """A connection was accepted; an older one with this descriptor is over."""
        self.gone(descriptor)
        self._flows[descriptor] = Flow(self._messages)
        self._near[descriptor] = None

    def gone(self, descriptor: int) -> None:
        """The connection is over."""
        self._near.pop(descriptor, None)
        flow = self._flows.pop(descriptor, None)
        if flow is not None:
            self.held -= flow.held
            flow.held = 0

    def get(self, descriptor: int) -> Flow | None:
        """Return the flow of the connection that has this descriptor now."""
        return self._flows.get(descriptor)

    def took(self, flow: Flow, size: int, frames: int) -> None:
        """A message of ``size`` bytes in so many frames was taken from this connection."""
        size += frames * _FRAME_EXTRA_BYTES
        known = min(size, flow.held)
        flow.held -= known
        self.held -= known
        flow.taken += size - known
        flow.since = None
        self._messages += 1
        flow.heard = self._messages

    def suspicious(self) -> bool:
        """Whether somebody, or all, held too much at the last look: everything should be read before the next."""
        in_doubt = any(self._flows[descriptor].since is not None for descriptor in self._near)
        return in_doubt or self._crowded is not None

    def look(self, is_stranger: Callable[[int], bool]) -> list[int]:
        """Look at some connections, most of all at those in doubt; return those to hang up."""
        count = min(_LOOKS_MAX, max(_LOOKS_MIN, len(self._flows) // _ALL_IN_LOOKS))
        chosen = dict.fromkeys(itertools.islice(self._near, _LOOKS_MAX))
        chosen.update(dict.fromkeys(itertools.islice(self._flows, count)))
        return [descriptor for descriptor in chosen if self._is_endless(descriptor, is_stranger(descriptor))]

    def surplus(self, is_stranger: Callable[[int], bool]) -> list[int]:
        """Return those to hang up because all together hold too much, after a look."""
        strangers = sum(self._flows[descriptor].held for descriptor in self._near if is_stranger(descriptor))
        if self.held <= self._held_max and strangers <= self._held_max // _STRANGERS_PART:
            self._crowded = None
            return []
        if self._crowded is None:
            self._crowded = (self.rounds, self._messages)
            return []
        if not self._had_its_turn(self._crowded):
            return []
        silent_since = self._crowded[1]
        self._crowded = (self.rounds, self._messages)
        return self._over_their_share(silent_since, is_stranger)

    def mute(self, questions: int) -> list[int]:
        """Call it at each heartbeat. Return those that have brought nothing at all since so many of them.

        It counts heartbeats, not seconds: while this process is frozen nobody is asked, and nothing is read.
        Where something waits to be delivered the question waits, too, and the kernel bounds how long. One that has
        never brought anything is a stranger, or is on a system that does not count.
        """
        found = []
        for descriptor, flow in self._flows.items():
            if flow.brought != flow.received:
                flow.brought, flow.mute = flow.received, 0
                continue
            flow.mute += 1
            if flow.mute > questions and flow.received and not bytes_waiting(descriptor):
                found.append(descriptor)
        return found

    def _over_their_share(self, silent_since: int, is_stranger: Callable[[int], bool]) -> list[int]:
        """Return as many as make up for what is too much, of those that brought no message since then."""
        standing = {descriptor: flow for descriptor, flow in self._flows.items() if not flow.hung_up}
        excess = sum(flow.held for flow in standing.values()) - self._held_max
        of_strangers = sum(flow.held for descriptor, flow in standing.items() if is_stranger(descriptor))
        of_strangers -= self._held_max // _STRANGERS_PART
        share = self._held_max // max(1, len(standing))
        suspects: list[tuple[int, float, int]] = []
        for descriptor, flow in standing.items():
            if flow.heard > silent_since or flow.held <= _LITTLE_BYTES:
                continue
            if is_stranger(descriptor):
                suspects.append((0, -flow.held, descriptor))
            elif flow.held > share:
                suspects.append((1, self._rng.random(), descriptor))
        chosen = []
        for rank, _, descriptor in sorted(suspects):
            if excess <= 0 and (rank or of_strangers <= 0):
                break
            chosen.append(descriptor)
            excess -= standing[descriptor].held
            of_strangers -= standing[descriptor].held
        return chosen

    def _is_endless(self, descriptor: int, stranger: bool) -> bool:
        flow = self._flows[descriptor] = self._flows.pop(descriptor)
        self._near.pop(descriptor, None)
        received = bytes_received(descriptor)
        if received is None:
            return False
        held = max(0, flow.held + received - flow.received - flow.taken - _COMMANDS_BYTES)
        self.held += held - flow.held
        flow.held, flow.received, flow.taken = held, received, 0
        if stranger or flow.held > _NEAR_BYTES:
            self._near[descriptor] = None
        most = STRANGER_BYTES_MAX if stranger else PEER_BYTES_MAX
        if flow.held <= most or flow.held - bytes_unread(descriptor) <= most:
            flow.since = None
            return False
        if flow.since is None:
            flow.since = (self.rounds, self._messages)
        return flow.held > self._unread_max or self._had_its_turn(flow.since)

    def _had_its_turn(self, since: tuple[int, int]) -> bool:
        """Whether a complete message would have been read since then: each connection's turn comes in each round."""
        rounds, messages = since
        return self.rounds > rounds or self._messages - messages > 2 * len(self._flows) + _LOOKS_MAX
