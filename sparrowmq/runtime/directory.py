"""The private directory of a local cluster: its sockets and its log.

Owns: how it is made, whose it is, and that one which nobody has any more is removed by the next cluster: a killed
process removes nothing itself. Must not know: what is kept in it.

Who has it holds a lock on a file in it, an open descriptor that processes share by inheritance; the kernel lets
go of it when the last of them is gone, however it ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

PREFIX: Final = "sparrowmq-"
LOCK_NAME: Final = ".sparrowmq-lock"  # what has none is not ours, whatever its name


def create() -> tuple[Path, int]:
    """Return a new directory that only this user can enter, and the descriptor that holds it."""
    path = Path(tempfile.mkdtemp(prefix=PREFIX))
    fresh = path / f"{LOCK_NAME}.new"
    held = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    fresh.rename(path / LOCK_NAME)  # locked before it can be seen: nobody takes it for one that was left
    return path, held


def remove(path: Path) -> None:
    """Remove the directory and what is in it, as far as possible."""
    shutil.rmtree(path, ignore_errors=True)


def sweep() -> list[Path]:
    """Remove what clusters of this user have left that were killed; return what was removed."""
    swept = []
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX) and _remove_if_left(entry):
                swept.append(Path(entry.path))
    return swept


def _remove_if_left(entry: os.DirEntry[str]) -> bool:
    try:
        if not entry.is_dir(follow_symlinks=False) or entry.stat(follow_symlinks=False).st_uid != os.geteuid():
            return False
        lock = os.open(os.path.join(entry.path, LOCK_NAME), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # somebody else's, or just removed
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False  # it is in use
    else:
        remove(Path(entry.path))
        return True
    finally:
        os.close(lock)
