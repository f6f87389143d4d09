"""What a worker is told to load in each slot before its first task: "module", or "module:function", which is called.

Owns: finding and loading these. Must not know: slots, or where the names come from. Loading runs user code, so it is
done in slots only. Finding may run some (a package's own, on the way to a module in it): that is left to a process of
its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterable
from typing import Any

from sparrowmq.errors import ConfigError
from sparrowmq.payload import failure

_TEXT_BYTES_MAX = 4096


def check(names: list[str]) -> None:
    """Raise ConfigError for the first name whose module is not there. Forks: there must be no other thread yet."""
    if not names:
        return
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, _first_missing(names).encode(errors="replace")[:_TEXT_BYTES_MAX])
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        missing = file.read().decode(errors="replace")
    os.waitpid(pid, 0)
    if missing:
        raise ConfigError(f"worker.preload: {missing}", hint="is its directory on PYTHONPATH?")


def load(names: Iterable[str]) -> str:
    """Load them in order; return "" or, at the first that fails, which and why."""
    for name in names:
        module_name, _, path = name.partition(":")
        try:
            target: Any = importlib.import_module(module_name)
            if path:
                for part in path.split("."):
                    target = getattr(target, part)
                target()
        except BaseException as error:  # user code, which may even call sys.exit
            return f"preloading {name!r} failed: {failure.type_name(error)}: {failure.message_of(error)}"
    return ""


def _first_missing(names: Iterable[str]) -> str:
    for name in names:
        module_name = name.partition(":")[0]
        try:
            found = importlib.util.find_spec(module_name) is not None
            reason = f"there is no module {module_name!r}"
        except BaseException as error:  # user code of the packages above it
            found, reason = False, f"the module {module_name!r} cannot be found: {type(error).__name__}: {error}"
        if not found:
            return reason
    return ""
