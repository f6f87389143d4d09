"""What the container tests share: a cluster for a module, jobs whose tasks can be counted one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sparrowmq.bench.containers import Project, engine_answers
from sparrowmq.errors import Unavailable

WORKERS = 10


@contextmanager
def project_of(environment: dict[str, str] | None = None, **scale: int) -> Iterator[Project]:
    """Give a cluster of containers whose workers are all registered; print how long that took from `up` on."""
    if not engine_answers():
        pytest.skip("no Docker engine answers `docker info`")
    with Project(environment=environment) as project:
        try:
            project.build()
            project.come_up(**scale)
        except Unavailable as error:
            logs = project("logs", "--no-color", "--tail", "20")
            pytest.fail(f"{error}\n{logs}", pytrace=False)
        print(f"{scale['worker']} workers are registered {project.registered_s:.1f} s after `up` began")
        yield project


def naps(count: int, duration_s: float) -> tuple[list[str], str]:
    """Return the arguments of `run`, and its standard input, for so many numbered naps (jobs/example.py)."""
    return ["--call", "example:nap", "--args-file", "-"], "".join(f"[{duration_s}, {n}]\n" for n in range(count))


def assert_each_once(report: dict[str, Any], count: int) -> None:
    """The results are those of tasks 0 to ``count``, each of them once and succeeded."""
    others = [result for result in report["results"] if result["status"] != "succeeded"]
    assert not others, f"{len(others)} of {count} did not succeed: {others[:3]}; {report['jobs']}"
    assert len(report["results"]) == count
    assert Counter(result["value"][0] for result in report["results"]) == Counter(range(count))
