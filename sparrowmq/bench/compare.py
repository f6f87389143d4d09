"""The same work on sparrowmq and on what a user would pick instead, one after the other on this machine.

Owns: which systems there are, what they need, running each in a process of its own, their figures side by side.
Must not know: how a system is set up and called (`rivals`, `contender`), how figures are printed.

A system that cannot be installed, fails or takes too long is part of the result, with the reason.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from sparrowmq.bench import guarded, report, venvs
from sparrowmq.bench.rivals.runner import Options
from sparrowmq.errors import SparrowError, Unavailable, UsageError
from sparrowmq.store import embedded

_RIVALS: Final = Path(__file__).resolve().parent / "rivals"
_ROOT: Final = Path(__file__).resolve().parents[2]
_NAP_S: Final = 0.01
_PAYLOAD_BYTES: Final = 2**20
_BUDGET_S: Final = 25.0  # a work that has taken so long is not repeated


class System(NamedTuple):
    """One of those compared. ``requirements``: what its environment needs; none: it runs in this one."""

    name: str
    module: str
    requirements: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()  # whose versions are told
    path: Path = _RIVALS  # where the module is


SYSTEMS: Final = (
    System("sparrowmq", "sparrowmq.bench.contender", packages=("pyzmq", "msgspec", "cloudpickle")),
    System("dask", "dask_distributed", ("distributed==2026.8.0",), ("dask", "distributed")),
    System("ray", "ray_core", ("ray==2.60.0",), ("ray",)),
    System("celery", "celery_redis", ("celery[redis,msgpack]==5.7.0",), ("celery", "kombu", "redis")),
    System("process-pool", "process_pool"),
)
NAMES: Final = tuple(system.name for system in SYSTEMS)


def default_cache() -> Path:
    """Return where environments are kept: XDG_CACHE_HOME/sparrowmq/bench, by default below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "sparrowmq" / "bench"


def run(
    *,
    names: Sequence[str] = NAMES,
    slots: int = 2,
    tasks: int = 10_000,
    trips: int = 1000,
    payloads: int = 200,
    naps: int = 1000,
    runs: int = 5,
    timeout_s: float = 300.0,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> dict[str, Any]:
    """Run the works of `rivals.runner` on the systems with these ``names``; every figure is a median of ``runs``.

    Each system has ``slots`` processes of one task at once, and ``timeout_s`` for all of its works, installing not
    counted; a work that has taken 25 s in all is not repeated. ``say`` hears what goes on. Raises UsageError for an
    unknown name.
    """
    unknown = set(names) - set(NAMES)
    if unknown:
        raise UsageError(f"unknown system {min(unknown)!r}", hint=f"the systems are {', '.join(NAMES)}")
    options = Options(
        slots=slots,
        runs=runs,
        budget_s=_BUDGET_S,
        tasks=tasks,
        trips=trips,
        payloads=payloads,
        payload_bytes=_PAYLOAD_BYTES,
        naps=naps,
        nap_s=_NAP_S,
        directory="",
        redis_server=_redis_server(),
        packages=[],
    )
    rows = []
    for system in SYSTEMS:
        if system.name in names:
            rows.append(measure(system, options, cache or default_cache(), timeout_s, say))
    told = ("slots", "tasks", "trips", "payloads", "payload_bytes", "naps", "nap_s", "runs", "budget_s")
    works = {name: value for name, value in options.items() if name in told}
    return {"bench": "compare", "works": works, "systems": rows, "environment": report.environment()}


def measure(
    system: System, options: Options, cache: Path, timeout_s: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """Return what one system did: ``versions``, ``settings``, ``start_s``, ``works`` and ``error`` ("": none)."""
    row: dict[str, Any] = {"name": system.name, "error": ""}
    try:
        python = _python(system, cache, say)
    except SparrowError as error:
        return row | {"error": str(error)}
    say(f"{system.name}: running")
    with tempfile.TemporaryDirectory(prefix="sq-bench-", ignore_cleanup_errors=True) as directory:
        figures_path, log_path = Path(directory, "figures.json"), Path(directory, "log")
        kept = Path(directory, "kept")
        kept.mkdir()
        given = {**options, "directory": str(kept), "packages": list(system.packages)}
        command = [str(python), "-P", str(_RIVALS / "runner.py"), system.module, json.dumps(given), str(figures_path)]
        environment = _environment(system, home=kept)
        status = guarded.run(command, environment=environment, log_path=log_path, timeout_s=timeout_s)
        if figures_path.exists():
            row |= json.loads(figures_path.read_text())
        under_way = row.pop("under_way", "its end" if "works" in row else "its start")
        row["error"] = _error(status, under_way, timeout_s, log_path)
    return row


def _error(status: int | None, under_way: str, timeout_s: float, log_path: Path) -> str:
    if status is None:
        return f"stopped after {timeout_s:g} s, while at: {under_way}"
    return f"ended with status {status}, while at: {under_way}\n{guarded.tail(log_path)}" if status else ""


def _python(system: System, cache: Path, say: Callable[[str], None]) -> Path:
    if not system.requirements:
        return Path(sys.executable)
    say(f"{system.name}: preparing {cache}")
    return venvs.ensure(cache, system.name, system.requirements)


def _environment(system: System, home: Path) -> dict[str, str]:
    """Return this process's environment without what would change a system's settings, such as files at home."""
    ours = ("PYTHON", "SPARROWMQ_", "RAY_", "DASK_", "CELERY_", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    path = [str(system.path), str(_RIVALS)]
    if not system.requirements:  # it runs with this Python, and may be us
        path += [*filter(os.path.isdir, map(os.path.abspath, sys.path)), str(_ROOT)]
    return kept | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(path)), "HOME": str(home)}


def _redis_server() -> str:
    try:
        return str(embedded.server_binary())
    except Unavailable:
        return ""
