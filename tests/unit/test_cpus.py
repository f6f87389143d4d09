"""The default number of slots, from the files that a kernel would show."""

from __future__ import annotations

import pytest

from sparrowmq.executor.cpus import ReadText, available_slots, cpu_quota

V1_CONTAINER = "5:memory:/docker/4aef\n4:cpu,cpuacct:/docker/4aef\n"


def reader(files: dict[str, str]) -> ReadText:
    def read_text(path: str) -> str:
        try:
            return files[path]
        except KeyError:
            raise FileNotFoundError(path) from None

    return read_text


def test_without_control_groups_affinity_decides() -> None:
    assert available_slots(read_text=reader({}), affinity_cpus=3) == 3


@pytest.mark.parametrize(
    ("cpu_max", "slots"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("250000 100000\n", 2),
        ("50000 100000\n", 1),
        ("1600000 100000\n", 8),
        ("", 8),
        ("nonsense\n", 8),
        ("200000 0\n", 8),
    ],
)
def test_version_2_quota(cpu_max: str, slots: int) -> None:
    files = {"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": cpu_max}
    assert available_slots(read_text=reader(files), affinity_cpus=8) == slots


def test_version_2_smallest_quota_of_the_groups_above_wins() -> None:
    files = {
        "/proc/self/cgroup": "0::/workers.slice/one.scope\n",
        "/sys/fs/cgroup/workers.slice/one.scope/cpu.max": "600000 100000\n",
        "/sys/fs/cgroup/workers.slice/cpu.max": "300000 100000\n",
    }
    assert cpu_quota(reader(files)) == 3.0


@pytest.mark.parametrize(("quota_us", "cpus"), [("150000\n", 1.5), ("-1\n", None)])
def test_version_1_quota_in_a_container_that_sees_the_hosts_path(quota_us: str, cpus: float | None) -> None:
    files = {
        "/proc/self/cgroup": V1_CONTAINER,
        "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": quota_us,
        "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }
    assert cpu_quota(reader(files)) == cpus


def test_version_1_quota_of_another_controller_does_not_count() -> None:
    files = {
        "/proc/self/cgroup": "4:cpuacct:/\n",
        "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
        "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }
    assert cpu_quota(reader(files)) is None


def test_this_machine_has_at_least_one() -> None:
    assert available_slots() >= 1
