"""What tasks print, on this terminal: line by line, each with the number of its task.

Owns: how chunks become lines, and where they go. Must not know: where chunks come from.
"""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterable, Set
from typing import TYPE_CHECKING, Any

import click

from sparrowmq.cli import show

if TYPE_CHECKING:
    from sparrowmq.cli.base import Globals
    from sparrowmq.protocol import messages as m

STREAMS = {1: "stdout", 2: "stderr"}
LINE_CHARS_MAX = 64 * 1024  # a longer line is printed in pieces


class Lines:
    """Prints chunks as they come; a line that is not complete waits for its rest, so that lines never mix.

    Without ``marked`` there is one task only, and everything is printed at once.
    """

    def __init__(self, *, marked: bool, mark: str = "") -> None:
        self._marked = marked
        self._mark = mark
        self._decoders: dict[tuple[int, int], Any] = {}
        self._rests: dict[tuple[int, int], str] = {}

    def write(self, output: m.Output) -> None:
        """Print a chunk."""
        if output.dropped:
            self._note(output)
        if not self._marked:
            _print(output.data, output.stream)  # byte for byte: it may be no text, and go to a file
            return
        source = (output.index, output.stream)
        decoder = self._decoders.setdefault(source, codecs.getincrementaldecoder("utf-8")("replace"))
        text = self._rests.pop(source, "") + decoder.decode(output.data)
        *whole, rest = text.split("\n")
        for line in whole:
            _print(f"{self._mark}[{output.index}] {line}\n", output.stream)
        if len(rest) > LINE_CHARS_MAX:
            _print(f"{self._mark}[{output.index}] {rest}\n", output.stream)
        elif rest:
            self._rests[source] = rest

    def end(self) -> None:
        """Print what no line end has followed."""
        for (index, stream), rest in sorted(self._rests.items()):
            _print(f"{self._mark}[{index}] {rest}\n", stream)
        self._rests.clear()

    def _note(self, output: m.Output) -> None:
        where = f"{self._mark}[{output.index}] " if self._marked else ""
        _print(f"{where}[... {show.count(output.dropped, 'byte')} left out ...]\n", 2)


def _print(text: str | bytes, stream: int) -> None:
    click.echo(text, nl=False, err=stream == 2)


def write(
    options: Globals,
    chunks: Iterable[m.Output],
    *,
    tasks: Set[int] | None,
    stream: str | None,
    marked: bool,
    mark: str = "",
) -> None:
    """Print ``chunks`` as ``--output`` wants them; only those of ``tasks`` and ``stream``, where these are given."""
    wanted = (
        chunk
        for chunk in chunks
        if (tasks is None or chunk.index in tasks) and (stream is None or STREAMS[chunk.stream] == stream)
    )
    if options.output == "json":
        show.as_json([as_row(chunk) for chunk in wanted])
    elif options.output == "jsonl":
        for chunk in wanted:
            show.as_json(as_row(chunk))
            sys.stdout.flush()
    else:
        lines = Lines(marked=marked and not options.quiet, mark=mark)
        for chunk in wanted:
            lines.write(chunk)
        lines.end()


def as_row(output: m.Output) -> dict[str, Any]:
    """Return a chunk as a row."""
    return {
        "job": output.job,
        "task": output.index,
        "attempt": output.attempt,
        "stream": STREAMS[output.stream],
        "text": output.data.decode(errors="replace"),
        "dropped": output.dropped,
    }
