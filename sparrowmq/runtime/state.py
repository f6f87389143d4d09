"""The file that tells other commands of this user which local cluster runs.

Owns: where the file is, what it holds, and whether it still tells the truth (the process may be long gone and
its number taken by another). Must not know: how a cluster is started.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import msgspec

from sparrowmq.errors import UsageError

FILE_BYTES_MAX = 1024 * 1024
CREATE_TIME_SLACK_S = 0.05  # the kernel counts in ticks of 10 ms


class ClusterState(msgspec.Struct, frozen=True):
    """One running local cluster. ``pid`` and ``create_time_unix_s`` are its launcher's."""

    url: str
    pid: int
    create_time_unix_s: float
    started_unix_s: float
    schedulers: int
    workers: int
    assistants: int = 0
    log_path: str = ""
    keys: str = ""  # the directory with the keys that it uses


def state_directory(environ: Mapping[str, str] | None = None) -> Path:
    """Return where state is kept: XDG_STATE_HOME/sparrowmq, by default ~/.local/state/sparrowmq."""
    environ = os.environ if environ is None else environ
    base = environ.get("XDG_STATE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state") / "sparrowmq"


def state_path(environ: Mapping[str, str] | None = None) -> Path:
    """Return the path of the state file."""
    return state_directory(environ) / "cluster.json"


def create_time(pid: int) -> float:
    """Return when the process started (Unix seconds); 0.0 when there is none."""
    import psutil

    try:
        process = psutil.Process(pid)
        return 0.0 if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return 0.0


def is_alive(state: ClusterState) -> bool:
    """Return whether the launcher that wrote ``state`` still runs."""
    return abs(create_time(state.pid) - state.create_time_unix_s) < CREATE_TIME_SLACK_S


def read(path: Path) -> ClusterState | None:
    """Return the running cluster, or None: no file, not this user's, not readable as one, or out of date."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                return None
            state = msgspec.json.decode(file.read(FILE_BYTES_MAX), type=ClusterState)
    except (OSError, msgspec.DecodeError):
        return None
    return state if is_alive(state) else None


def write(path: Path, state: ClusterState) -> None:
    """Write the file, readable by this user only. Raises UsageError when another cluster runs."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    sweep(path)
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(state)) + b"\n")
        os.link(fresh, path)  # unlike a rename, it does not replace what another has written meanwhile
    except FileExistsError:
        raise already_running(path) from None
    finally:
        fresh.unlink()


def sweep(path: Path) -> bool:
    """Remove the file if the cluster it names is gone; return whether it did."""
    if not os.path.lexists(path) or read(path) is not None:
        return False
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        path.rename(aside)
        if read(aside) is not None:  # another has taken its place meanwhile
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
            return False
    except FileNotFoundError:
        return False
    finally:
        aside.unlink(missing_ok=True)
    return True


def already_running(path: Path) -> UsageError:
    """Return the error for a second cluster."""
    return UsageError(
        f"a local cluster is running already ({path} tells which)",
        hint="use it (`sparrowmq status`), or end it with `sparrowmq down`",
    )


def remove(path: Path, pid: int) -> None:
    """Remove the file if it is that of ``pid``."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        if msgspec.json.decode(path.read_bytes(), type=ClusterState).pid == pid:
            path.unlink()
