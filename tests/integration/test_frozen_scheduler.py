"""A scheduler that is frozen keeps its connections; the assistant finds it, and its clients leave it."""

from __future__ import annotations

import os
import signal
import time

import pytest

from sparrowmq import Client, LocalCluster
from sparrowmq.settings import ClientSettings

pytestmark = pytest.mark.timeout(60)


def test_clients_leave_a_frozen_scheduler_and_it_does_no_harm_when_it_thaws() -> None:
    with LocalCluster(workers=2, schedulers=2, assistants=1) as cluster, Client(cluster) as client:
        job = client.sleep([1.0, 1.0, 0.1])
        home = ""
        while not home:  # the time limit of the test bounds this
            found = [status.scheduler for status in client.query("jobs") if job.id in {row.id for row in status.jobs}]
            home = found[0] if found else ""
        pids = {member.id: member.pid for member in cluster.schedulers}
        os.kill(pids[home], signal.SIGSTOP)
        try:
            frozen_at = time.monotonic()
            assert client.submit("math:sqrt", 16.0).result(10) == 4.0
            moved_after_s = time.monotonic() - frozen_at
            client.gather(job.futures, 20)
        finally:
            os.kill(pids[home], signal.SIGCONT)
        assert moved_after_s < ClientSettings().silent_after_s - 1.0  # what it takes without an assistant
        assert client.submit("math:sqrt", 25.0).result(10) == 5.0
