"""Connections between nodes: in order and without loss until they break, as TCP and ZeroMQ make them.

Owns: what is under way, resets, cuts, which wire lies between two nodes. Must not know: what messages mean, or how
nodes deal with them.

A connection is lost to an end when the other end closes it or dies, when it is reset, or when nothing has come
through for as long as ZMTP heartbeats allow. What is sent into a cut stays in the sender's kernel and leaves when the
cut heals.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from sparrowmq.core import effects as fx
from sparrowmq.protocol import codec, messages as m
from sparrowmq.sim.engine import Engine
from sparrowmq.sim.wires import RTO_S_MAX, Wire

if TYPE_CHECKING:
    from sparrowmq.sim.node import Node

HEARTBEAT_TIMEOUT_S: Final = 20.0  # as in transport/link.py
CONNECT_TIMEOUT_S: Final = 2.0  # likewise

Batch = Sequence[Any]  # messages, or the frames that they are encoded as


class End:
    """One end of a connection, and what is on its way towards it. The node that opened the connection has a number as
    ``name`` for it, the other one this object.
    """

    __slots__ = (
        "arrived_at", "cut", "cut_at", "fixed_s", "held", "name", "node", "open", "other", "starts", "under_way",
        "wire",
    )  # fmt: skip

    other: End

    def __init__(self, node: Node, name: fx.Peer | None, wire: Wire) -> None:
        self.node = node
        self.name: fx.Peer = self if name is None else name
        self.starts = node.starts  # the process, not the next one of this node
        self.open = True  # it still listens
        self.under_way = 0  # batches sent here and not arrived
        self.arrived_at = 0.0  # the latest arrival
        self.cut = False  # packets towards it are lost,
        self.cut_at = 0.0  # since then
        self.held: list[Batch | None] = []  # what waits for a cut to heal; None: the end of the connection
        self.wire = wire
        self.fixed_s = wire.fixed_s  # if every packet takes the same time: those need no draw, and keep their order

    def __repr__(self) -> str:
        return f"the connection of {self.other.node.id}"

    @property
    def calm(self) -> bool:
        """Whether the connection stands and nothing is under way."""
        return self.open and self.other.open and not self.under_way and not self.other.under_way

    def look(self, now: float) -> None:
        """Find out anew whether everything takes the same time."""
        fixed_s = None if self.cut else self.wire.fixed_s
        self.fixed_s = fixed_s if fixed_s is not None and now + fixed_s >= self.arrived_at else None

    def note_arrival(self, now: float) -> None:
        """What is under way at a fixed delay has not noted when it arrives."""
        if self.under_way:
            self.arrived_at = max(self.arrived_at, now + (self.fixed_s or 0.0))


class Network:
    """All connections of one simulation.

    ``on_message`` is called for every message that is sent. With ``encode`` everything goes through the codec.
    """

    def __init__(
        self,
        engine: Engine,
        rng: random.Random,
        wire: Wire,
        *,
        encode: bool = True,
        on_message: Callable[[m.AnyMessage], None] | None = None,
    ) -> None:
        self.sent: defaultdict[type, int] = defaultdict(int)
        self._engine = engine
        self._rng = rng
        self._wire = wire
        self._encode = codec.Encoder().encode if encode else None
        self._on_message = on_message
        self._wires: dict[tuple[str, str], Wire] = {}
        self._cuts: set[tuple[str, str]] = set()  # (from, to)
        self._dialed: dict[End, None] = {}  # the opening ends of connections that some end still listens to

    def _ends(self) -> list[End]:
        return [end for dialer in self._dialed for end in (dialer, dialer.other)]

    # -- how links are

    def set_wire(self, one: str, other: str, wire: Wire) -> None:
        """From now on the link between these two nodes ("" and "": every link) is like this."""
        if not one:
            self._wire = wire
            self._wires.clear()
        else:
            self._wires[one, other] = self._wires[other, one] = wire
        for end in self._ends():
            if not one or {one, other} == {end.node.id, end.other.node.id}:
                end.note_arrival(self._engine.now)
                end.wire = wire
                end.look(self._engine.now)

    def cut(self, sender: str, receiver: str) -> None:
        """Lose all packets from one node to another until `heal`."""
        self._cuts.add((sender, receiver))
        for end in self._ends():
            if (end.other.node.id, end.node.id) == (sender, receiver) and not end.cut:
                self._cut(end)

    def _cut(self, end: End) -> None:
        now = self._engine.now
        end.note_arrival(now)
        end.cut, end.cut_at = True, now
        end.look(now)
        self._engine.later(HEARTBEAT_TIMEOUT_S, self._unheard, end)

    def heal(self, one: str = "", other: str = "") -> None:
        """Undo `cut` between these two, both ways; without names: all cuts."""
        pair = {(one, other), (other, one)}
        self._cuts = {cut for cut in self._cuts if one and cut not in pair}
        for end in self._ends():
            if end.cut and (not one or (end.other.node.id, end.node.id) in pair):
                self._heal(end)

    def _heal(self, end: End) -> None:
        """What was held leaves, once the sender's time-out has it try again."""
        end.cut = False
        held, end.held = end.held, []
        if held:
            end.arrived_at = max(end.arrived_at, self._engine.now + self._rng.random() * RTO_S_MAX / 4)
        end.look(self._engine.now)
        for batch in held:
            when = self._arrival(end)
            if batch is None:
                self._engine.at(when, self.lose, (end,))
            else:
                self._engine.at(when, self._arrive, (end, batch))

    def _unheard(self, end: End) -> None:
        """This end may not have heard anything for as long as heartbeats allow."""
        if end.cut and end.open and self._engine.now - end.cut_at >= HEARTBEAT_TIMEOUT_S - 1e-6:
            self._tell(end.other)
            self.lose(end)

    # -- connections

    def connect(self, dialer: Node, number: int, listener: Node, starts: int) -> None:
        """Open a connection to the process that a listener was after ``starts`` starts."""
        wire = self._wires.get((dialer.id, listener.id), self._wire)
        near, far = End(dialer, number, wire), End(listener, None, wire)
        near.other, far.other = far, near
        dialer.connections[number] = near
        self._dialed[near] = None
        if not listener.up or listener.starts != starts:
            far.open = False
            self._engine.at(self._arrival(near), self.lose, (near,))
            return
        listener.connections[far] = far
        for end in (near, far):
            if (end.other.node.id, end.node.id) in self._cuts:
                self._cut(end)
        if near.cut or far.cut:
            self._engine.later(CONNECT_TIMEOUT_S, self._not_made, near)

    def _not_made(self, near: End) -> None:
        """Nobody answered in time."""
        if near.cut or near.other.cut:
            self._tell(near.other)
            self.lose(near)

    def send(self, end: End, batch: list[m.AnyMessage], at: float = 0.0) -> None:
        """Send towards ``end``, at once or ``at`` a later time; to an end that is gone, nothing."""
        sent = self.sent
        for message in batch:
            sent[message.__class__] += 1
        if self._on_message is not None:
            for message in batch:
                self._on_message(message)
        if not end.open or not end.other.open:
            return
        fixed_s = end.fixed_s
        if fixed_s is not None and self._encode is None:
            end.under_way += 1
            if at:
                self._engine.at(at + fixed_s, self._arrive, (end, batch))
            else:
                self._engine.after(fixed_s, self._arrive, (end, batch))
            return
        for frames in self._encode(batch) if self._encode is not None else (batch,):
            end.under_way += 1
            if end.cut:
                end.held.append(frames)
            else:
                self._engine.at(self._arrival(end, at), self._arrive, (end, frames))

    def _arrival(self, end: End, at: float = 0.0) -> float:
        """Return when what leaves now towards this end arrives: never before what left earlier."""
        when = (at or self._engine.now) + end.wire.transit_s(self._rng)
        when = end.arrived_at = max(when, end.arrived_at)
        return when

    def _arrive(self, end: End, frames: Batch) -> None:
        end.under_way -= 1
        node = end.node
        if end.open and end.starts == node.starts:
            if self._encode is not None:
                frames = codec.decode(frames[0], [m.Blob(frame, len(frame)) for frame in frames[1:]])
            node.receive(end, frames)

    # -- how they end

    def close(self, end: End) -> None:
        """This end is gone; the other learns of it after what was sent to it."""
        end.node.connections.pop(end.name, None)
        end.open = False
        self._tell(end.other)

    def _tell(self, end: End) -> None:
        """Have this end learn that the other is gone."""
        if not end.open:
            self._forget(end)
        elif end.cut:
            end.held.append(None)
        else:
            self._engine.at(self._arrival(end), self.lose, (end,))

    def reset(self, end: End) -> None:
        """Break the connection: what is under way is lost, and both ends learn of it, each in its own time."""
        for one in (end, end.other):
            if one.open:
                self._engine.later(one.wire.latency.draw(self._rng), self.lose, one)
            one.open = False

    def lose(self, end: End) -> None:
        """This end learns that the connection is over."""
        node = end.node
        if node.paused and node.starts == end.starts:
            node.hold(lambda: self.lose(end))
            return
        end.open = False
        self._forget(end)
        if node.starts == end.starts and node.connections.pop(end.name, None) is not None:
            node.step(node.machine.lost, end.name)

    def _forget(self, end: End) -> None:
        if not end.open and not end.other.open:
            self._dialed.pop(end, None)
            self._dialed.pop(end.other, None)
            end.held.clear()
            end.other.held.clear()
