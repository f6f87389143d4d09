"""What this machine alone tells a doctor: versions, CPUs, open files, shared memory, a server for Redis.

Owns: these checks. Must not know: the cluster.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sparrowmq import __version__
from sparrowmq.cli import show
from sparrowmq.errors import SparrowError

if TYPE_CHECKING:
    from sparrowmq.config import Config

OK, WARN, FAIL = "ok", "warn", "fail"
FILES_BASE = 128  # of a process without peers
FILES_A_PEER = 4  # a socket, and what ZeroMQ keeps beside it
FILES_A_SLOT = 6  # its pipe, page, process handle, and what a command's streams take


class Check(NamedTuple):
    """One verdict. ``hint`` is what to do about it, "" where nothing is to be done."""

    name: str
    state: str
    message: str
    hint: str = ""


def local_checks(loaded: Config | None) -> Iterator[Check]:
    """Yield what this machine tells; ``loaded`` None: the configuration cannot be read."""
    from sparrowmq.protocol import messages as m

    python = ".".join(map(str, sys.version_info[:3]))
    yield Check("versions", OK, f"sparrowmq {__version__}, Python {python}, protocol {m.PROTOCOL}")
    yield cpus()
    yield open_files(resource.getrlimit(resource.RLIMIT_NOFILE), loaded)
    yield shared_memory()
    yield server()
    if loaded is not None:
        yield from ports(loaded)
    yield local_cluster()


def cpus() -> Check:
    """CPUs, and the control group's quota: what `--slots 0` goes by."""
    from sparrowmq.executor.cpus import available_slots, cpu_quota

    quota = cpu_quota(lambda path: Path(path).read_text(encoding="ascii"))
    count, slots = len(os.sched_getaffinity(0)), available_slots()
    limited = "no CPU quota" if quota is None else f"a CPU quota of {quota:g}"
    said = f"{show.count(count, 'CPU')}, {limited}: a worker here has {show.count(slots, 'slot')} by default"
    if quota is not None and quota < 1.0:
        return Check("cpus", WARN, said, "less than one CPU: tasks pause whenever the quota is used up")
    return Check("cpus", OK, said)


def open_files(limit: tuple[int, int], loaded: Config | None) -> Check:
    """The limit of open files against what a worker here needs, and how many peers a scheduler could have."""
    from sparrowmq.executor.cpus import available_slots

    soft, hard = limit
    if soft == resource.RLIM_INFINITY:
        return Check("open files", OK, "no limit")
    slots = (loaded.worker.slots if loaded is not None else 0) or available_slots()
    need = FILES_BASE + FILES_A_SLOT * slots + FILES_A_PEER * 16
    peers = max(0, soft - FILES_BASE) // FILES_A_PEER
    said = f"the limit is {soft:,}: enough for a scheduler with {peers:,} workers and clients"
    raised = f"raise it: ulimit -n {min(65_536, hard) if hard > 0 else 65_536}, or LimitNOFILE= of the service"
    if soft < need:
        return Check("open files", FAIL, f"{said}; a worker with {show.count(slots, 'slot')} needs {need:,}", raised)
    return Check("open files", OK if peers >= 100 else WARN, said, "" if peers >= 100 else raised)


def shared_memory(create: Callable[[str], int] = os.memfd_create) -> Check:
    """Slots share a page of memory with their node monitor."""
    try:
        os.close(create("sparrowmq-doctor"))
    except OSError as error:
        return Check(
            "shared memory", FAIL, f"memfd_create: {error.strerror}", "workers need it: use Linux 3.17 or later"
        )
    return Check("shared memory", OK, "memfd works")


def server() -> Check:
    """A Valkey or Redis server for `sparrowmq up` and `LocalCluster`."""
    from sparrowmq.store.embedded import server_binary

    try:
        return Check("local server", OK, str(server_binary()))
    except SparrowError as error:
        return Check("local server", WARN, "no Valkey server is installed here; `sparrowmq up` needs one", error.hint)


def ports(loaded: Config) -> Iterator[Check]:
    """Fixed ports that a scheduler started here would bind."""
    for key in ("bind_workers", "bind_clients"):
        address = getattr(loaded.scheduler, key)
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        if not address.startswith("tcp://") or not port.isdecimal() or port == "0":
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("" if host == "*" else host, int(port)))
            except OSError as error:
                taken = error.errno == errno.EADDRINUSE
                advice = (
                    "fine if a scheduler runs here already; else choose another port" if taken else "choose another"
                )
                yield Check(f"scheduler.{key}", WARN, f"{address}: {error.strerror}", advice)
            else:
                yield Check(f"scheduler.{key}", OK, f"{address} is free")


def local_cluster() -> Check:
    """The cluster that `sparrowmq up` started."""
    from sparrowmq.runtime import state

    path = state.state_path()
    found = state.read(path)
    if found is None:
        return Check("local cluster", OK, "none runs")
    said = f"runs as pid {found.pid}, for {show.ago(found.started_unix_s)}"
    return Check("local cluster", OK, said + (f", log {found.log_path}" if found.log_path not in ("", "-") else ""))
