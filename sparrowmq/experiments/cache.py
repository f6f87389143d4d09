"""Finished points on disk: what a repeated or interrupted command need not run again.

Owns: what a result depends on (its key), the files, and their bound. Must not know: how points are run.

A key covers the parameters, the trace, the package's version, and the source of the rooms that decide, so that a
changed scheduler never shows a figure of the old one. A file that cannot be read counts as absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

import sparrowmq
from sparrowmq.sim.point import Row
from sparrowmq.sim.setup import Setup
from sparrowmq.sim.workload import Job

FILES_MAX: Final = 10_000  # of less than 4 KiB each; the oldest go
ROOMS: Final = ("core", "placement", "sim", "protocol", "limits.py", "settings.py")
_NOT_DECIDING: Final = ("sim/swarm/",)  # it uses what the figures use, and they nothing of it


class _Entry(msgspec.Struct):
    version: str
    setup: Setup
    row: Row


def default_directory(environ: Mapping[str, str] | None = None) -> Path:
    """Return where results are kept: XDG_CACHE_HOME/sparrowmq/sim, by default below ~/.cache."""
    base = (os.environ if environ is None else environ).get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "sparrowmq" / "sim"


def source_digest(package: Path | None = None) -> str:
    """Return a digest of the source of ROOMS: of the paths and bytes of all its modules."""
    package = package or Path(sparrowmq.__file__).parent
    digest = hashlib.sha256()
    for room in ROOMS:
        place = package / room
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            name = path.relative_to(package).as_posix()
            if not name.startswith(_NOT_DECIDING):
                content = path.read_bytes()
                digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def trace_digest(trace: Sequence[Job] | None) -> str:
    """Return a digest of a trace's jobs; "" for none."""
    if trace is None:
        return ""
    digest = hashlib.sha256()
    for job in trace:
        digest.update(array("d", [job.at_s, len(job.durations_s), *job.durations_s]).tobytes())
    return digest.hexdigest()


class Cache:
    """The results of one version of the source, of one trace or none. ``problem``: why nothing is kept, "" if it is."""

    def __init__(self, directory: Path, trace: Sequence[Job] | None = None, *, source: str | None = None) -> None:
        self.directory = directory
        self.problem = ""
        self._depends_on = [sparrowmq.__version__, source or source_digest(), trace_digest(trace)]
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._bound()
        except OSError as error:
            self._fail(error)

    def get(self, setup: Setup) -> Row | None:
        """Return the result of a set-up; None if it has none."""
        try:
            return msgspec.json.decode(self._path(setup).read_bytes(), type=_Entry).row
        except (OSError, msgspec.MsgspecError):
            return None

    def put(self, setup: Setup, row: Row) -> None:
        """Keep a result; whole or not at all, whenever this process ends."""
        content = msgspec.json.encode(_Entry(sparrowmq.__version__, setup, row))
        try:
            with tempfile.NamedTemporaryFile(dir=self.directory, suffix=".part", delete=False) as file:
                try:
                    file.write(content)
                    file.close()
                    os.replace(file.name, self._path(setup))
                except BaseException:
                    with contextlib.suppress(OSError):
                        os.unlink(file.name)
                    raise
        except OSError as error:
            self._fail(error)

    def _path(self, setup: Setup) -> Path:
        parameters = msgspec.json.encode([*self._depends_on, setup], order="deterministic")
        return self.directory / f"{hashlib.sha256(parameters).hexdigest()}.json"

    def _fail(self, error: OSError) -> None:
        self.problem = f"results are not kept: {error.filename or self.directory}: {error.strerror or error}"

    def _bound(self) -> None:
        with os.scandir(self.directory) as entries:
            files = [(entry.stat().st_mtime, entry.path) for entry in entries if entry.is_file()]
        for _, path in sorted(files)[: max(0, len(files) - FILES_MAX)]:
            with contextlib.suppress(OSError):
                os.unlink(path)
