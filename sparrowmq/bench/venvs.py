"""Virtual environments for other systems: made when they are first needed, kept for the next time.

Owns: where they are, making them, telling a whole one from one whose making was cut short. Must not know: what is
installed in them, or why.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sparrowmq.errors import Unavailable

INSTALL_TIMEOUT_S: Final = 600.0
_STAMP: Final = "whole"
_SAID_CHARS_MAX: Final = 1000


def ensure(cache: Path, name: str, requirements: Sequence[str]) -> Path:
    """Return the Python of an environment with ``requirements``; install them from the package index if need be.

    Another Python or other requirements make another environment. Raises Unavailable, with what pip said.
    """
    content = "\n".join([sys.version, sys.base_prefix, *requirements])
    directory = cache / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    python = directory / "bin" / "python"
    if not (directory / _STAMP).exists():
        shutil.rmtree(directory, ignore_errors=True)
        directory.parent.mkdir(parents=True, exist_ok=True)
        _call([sys.executable, "-m", "venv", str(directory)], name)
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        _call([str(python), *install, *requirements], name)
        (directory / _STAMP).touch()
    return python


def _call(command: list[str], name: str) -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{name} could not be installed within {INSTALL_TIMEOUT_S:g} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-_SAID_CHARS_MAX:]
        raise Unavailable(f"{name} could not be installed: {said}", hint="the package index must be reachable")
