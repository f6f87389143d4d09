"""How many tasks this machine, or this container, can run at once.

Owns: reading the CPU quota of the control group (versions 2 and 1) and the CPU affinity. Must not know: what a
slot is used for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

ReadText = Callable[[str], str]

_MOUNT = PurePosixPath("/sys/fs/cgroup")


def available_slots(*, read_text: ReadText | None = None, affinity_cpus: int | None = None) -> int:
    """The number of whole CPUs that this process may use: at least 1.

    It is the smaller of the CPUs it may run on and of the quota, rounded down, since a quota that is exceeded
    stops every slot for the rest of its period. ``read_text`` returns the text of a file and raises OSError
    where there is none; both arguments default to what this machine says.
    """
    cpus = len(os.sched_getaffinity(0)) if affinity_cpus is None else affinity_cpus
    quota_cpus = cpu_quota(read_text or _read_text)
    return max(1, cpus if quota_cpus is None else min(cpus, int(quota_cpus)))


def cpu_quota(read_text: ReadText) -> float | None:
    """The smallest CPU quota of this process's control group and the groups above it, in CPUs; None: no quota."""
    quotas = [quota for read in (_quotas_v2, _quotas_v1) for quota in read(read_text)]
    return min(quotas, default=None)


def _quotas_v2(read_text: ReadText) -> Iterator[float]:
    for path in _group_paths(read_text, controller=""):
        for directory in _upward(_MOUNT, path):
            fields = _lines(read_text, directory / "cpu.max")
            quota, _, period_us = fields[0].partition(" ") if fields else ("max", "", "")
            yield from _ratio(quota, period_us)


def _quotas_v1(read_text: ReadText) -> Iterator[float]:
    for path in _group_paths(read_text, controller="cpu"):
        for directory in _upward(_MOUNT / "cpu", path):
            quota_us = _lines(read_text, directory / "cpu.cfs_quota_us")
            period_us = _lines(read_text, directory / "cpu.cfs_period_us")
            if quota_us and period_us:
                yield from _ratio(quota_us[0], period_us[0])


def _group_paths(read_text: ReadText, *, controller: str) -> Iterator[str]:
    """The group's path from /proc/self/cgroup, whose lines read ``number:controller,controller:path``."""
    for line in _lines(read_text, PurePosixPath("/proc/self/cgroup")):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            yield path


def _upward(mount: PurePosixPath, path: str) -> Iterator[PurePosixPath]:
    """The group's directory and all above it.

    In a container the path may be the host's while the mount already is the group, so a directory that is
    missing is nothing unusual, and the mount itself is always one of them.
    """
    directory = mount / path.lstrip("/")
    yield directory
    while directory != mount:
        directory = directory.parent
        yield directory


def _ratio(quota_us: str, period_us: str) -> Iterator[float]:
    """No value where the group has no quota ("max", -1) or the kernel says something unexpected."""
    try:
        quota, period = int(quota_us), int(period_us)
    except ValueError:
        return
    if quota > 0 and period > 0:
        yield quota / period


def _lines(read_text: ReadText, path: PurePosixPath) -> list[str]:
    try:
        return read_text(str(path)).split("\n")
    except (OSError, UnicodeDecodeError):
        return []


def _read_text(path: str) -> str:
    return Path(path).read_text(encoding="ascii")
