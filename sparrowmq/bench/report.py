"""What every measurement says besides its figures: the cluster and the machine it ran on.

Owns: the frame of a result. Must not know: what is measured.
"""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import psutil

from sparrowmq import __version__
from sparrowmq.bench.target import Target

_PACKAGES: Final = ("pyzmq", "msgspec", "cloudpickle", "numpy")


def result(bench: str, figures: dict[str, Any], cluster: Target) -> dict[str, Any]:
    """Return the result of ``bench``: ``figures``, then what it ran on. Ready for JSON."""
    return {"bench": bench, **figures, "cluster": describe(cluster), "environment": environment()}


def describe(cluster: Target) -> dict[str, Any]:
    """Return a cluster's settings. One of our own has the defaults in all that is not named here."""
    return {
        "kind": ", ".join(("local", *cluster.links, "default settings")) if cluster.own else "given",
        "workers": cluster.workers,
        "slots": cluster.slots,
        "schedulers": cluster.schedulers,
    }


def environment() -> dict[str, Any]:
    """Return what the machine and its software are. ``load_1_min`` well above 1 means that others were at work."""
    return {
        "at": time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime()),
        "cpus": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_1_min": round(os.getloadavg()[0], 2),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {"sparrowmq": __version__, **versions(_PACKAGES)},
    }


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of those ``packages`` that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
