"""Commands: how many processes a second one `Client.run_commands` starts and collects.

Owns: the measurement. Must not know: the command line.
"""

from __future__ import annotations

import time
from typing import Any, Final

from sparrowmq.bench import figures, report, target
from sparrowmq.client.client import Client

_WARM_UP_TASKS: Final = 100
_TASK_S_MAX: Final = 0.1


def run(
    *,
    tasks: int = 2000,
    argv: tuple[str, ...] = ("true",),
    workers: int = 2,
    slots: int = 1,
    runs: int = 5,
    url: str = "",
) -> dict[str, Any]:
    """Run ``argv`` ``tasks`` times, ``runs`` times over; ``commands_per_s`` is the median. Output is collected.

    On a cluster of its own, or on the one registered in the Redis at ``url``. Raises CommandFailed.
    """
    with target.opened(url, workers=workers, slots=slots) as cluster, Client(cluster) as client:
        _once(client, argv, min(tasks, _WARM_UP_TASKS))
        rates = [round(tasks / _once(client, argv, tasks), 1) for _ in range(runs)]
    measured = {"tasks": tasks, "argv": list(argv), "commands_per_s": figures.median(rates), "runs": rates}
    return report.result("commands", measured, cluster)


def _once(client: Client, argv: tuple[str, ...], tasks: int) -> float:
    began = time.perf_counter()
    client.gather(client.run_commands(argv, n=tasks), timeout_s=target.patience_s(tasks * _TASK_S_MAX))
    return time.perf_counter() - began
