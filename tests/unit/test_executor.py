"""The executor's parts that need no process: frames, the shared page, the functions kept, explanations."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Iterator

import pytest

from sparrowmq import limits
from sparrowmq.errors import ProtocolError
from sparrowmq.executor import linux, page as pages, wire
from sparrowmq.executor.page import Page


@pytest.fixture
def page() -> Iterator[Page]:
    page, fd = pages.create()
    os.close(fd)
    yield page
    page.close()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        right.setblocking(False)
        yield left, right


def claim(page: Page, seq: int) -> bool:
    """Do what a slot does before a task; say whether it runs."""
    page.words[pages.STARTED] = seq
    return page.words[pages.STOP] < seq or page.resume_at(seq) == seq


class TestPage:
    def test_both_processes_see_one_page(self) -> None:
        ours, fd = pages.create()
        theirs = Page(fd)
        os.close(fd)
        theirs.words[pages.STARTED] = 2**53
        assert ours.started_seq() == 2**53

    def test_what_has_started_stays_and_the_rest_goes(self, page: Page) -> None:
        assert claim(page, 1)
        page.stop(5)
        assert page.settle() == 1
        page.words[pages.STARTED] = 2
        assert page.resume_at(2) == 6
        assert claim(page, 6)

    def test_claim_before_the_verdict_counts_as_started(self, page: Page) -> None:
        page.stop(5)
        page.words[pages.STARTED] = 3
        assert page.settle() == 3
        assert page.resume_at(3) == 3
        assert not claim(page, 4)

    def test_claim_that_was_skipped_is_not_taken_for_a_start(self, page: Page) -> None:
        assert claim(page, 2)
        page.stop(5)
        assert page.settle() == 2
        page.words[pages.STARTED] = 3  # the slot learns that it may not, and stays there
        assert page.started_seq() == 2
        page.stop(8)
        assert page.settle() == 2
        assert not claim(page, 3)
        assert claim(page, 9)
        assert page.started_seq() == 9

    def test_number_handed_after_the_reclaim_runs(self, page: Page) -> None:
        assert claim(page, 5)
        page.stop(5)
        assert claim(page, 6)
        assert page.settle() == 5

    def test_slot_waits_for_the_verdict(self, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
        """The node monitor's verdict comes while the slot waits for it, and the next reclaim with it."""
        steps = iter([lambda: None, lambda: None, page.settle, lambda: page.stop(7), lambda: None, page.settle])
        monkeypatch.setattr(time, "sleep", lambda _s: next(steps, lambda: None)())
        page.stop(5)
        page.words[pages.STARTED] = 4
        assert page.resume_at(4) == 4
        assert page.words[pages.SETTLED] in (5, 7)


class TestReader:
    def frames(self) -> list[tuple[bytearray, bytes]]:
        rng = random.Random(3)
        bodies = [b"", b"x", rng.randbytes(300_000), b"", rng.randbytes(70_000), b"yz"]
        return [(wire.frame(wire.Function(f"job{n}"), len(body)), body) for n, body in enumerate(bodies)]

    @pytest.mark.parametrize("piece", [1, 7, 65_536, 10**6])
    def test_any_cut_of_the_stream_gives_the_same_frames(
        self, ends: tuple[socket.socket, socket.socket], piece: int
    ) -> None:
        left, right = ends
        frames = self.frames() if piece > 7 else self.frames()[:2]
        stream = b"".join(bytes(head) + body for head, body in frames)
        reader = wire.Reader()
        got = []
        at = 0
        while at < len(stream):
            at += left.send(stream[at : at + piece], socket.MSG_DONTWAIT)
            try:
                while True:
                    got += reader.read(right, 1)
            except BlockingIOError:
                continue
        assert [wire.decode_order(head) for head, _ in got] == [wire.Function(f"job{n}") for n in range(len(frames))]
        assert [bytes(body or b"") for _, body in got] == [body for _, body in frames]

    def test_read_is_bounded(self, ends: tuple[socket.socket, socket.socket]) -> None:
        left, right = ends
        left.send(wire.frame(wire.Function("j"), 10**6))
        reader = wire.Reader()
        assert reader.read(right, 1) == []
        for _ in range(3):
            left.send(b"x")
            assert reader.read(right, 1) == []

    def test_end_of_the_stream(self, ends: tuple[socket.socket, socket.socket]) -> None:
        left, right = ends
        left.close()
        with pytest.raises(EOFError):
            wire.Reader().read(right, 5)

    @pytest.mark.parametrize(("head", "body"), [(wire.HEAD_BYTES_MAX + 1, 0), (1, limits.FRAME_BYTES_MAX + 1)])
    def test_huge_frames_are_refused_before_they_are_stored(
        self, ends: tuple[socket.socket, socket.socket], head: int, body: int
    ) -> None:
        left, right = ends
        left.send(wire.HEADER.pack(head, body))
        with pytest.raises(ProtocolError, match="a frame with"):
            wire.Reader().read(right, 1)


class TestFunctions:
    def test_least_recently_used_goes_first(self) -> None:
        kept: wire.Functions[int] = wire.Functions()
        for number in range(wire.FUNCTIONS_MAX):
            kept.add(f"{number}", number, 1)
        assert kept.get("0") == 0
        kept.add("new", -1, 1)
        assert kept.get("1") is None
        assert kept.get("0") == 0

    def test_bytes_are_bounded_but_the_newest_stays(self) -> None:
        kept: wire.Functions[int] = wire.Functions()
        kept.add("a", 1, wire.FUNCTION_BYTES_MAX)
        kept.add("b", 2, 1)
        assert kept.get("a") is None
        assert kept.get("b") == 2
        kept.add("c", 3, wire.FUNCTION_BYTES_MAX + 1)
        assert kept.get("c") == 3
        assert kept.get("b") is None


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "exit status 0"),
        (3 << 8, "exit status 3"),
        (9, "killed by signal 9 (SIGKILL)"),
        (11 | 128, "killed by signal 11 (SIGSEGV)"),
        (40, "killed by signal 40"),
    ],
)
def test_exit_is_explained(status: int, text: str) -> None:
    assert linux.explain_exit(status) == text
