"""What the swarm holds a machine against says no more than the guarantees do."""

from __future__ import annotations

import pytest

from sparrowmq.core import effects as fx
from sparrowmq.core.node_monitor import NodeMonitor
from sparrowmq.core.watch import Watch
from sparrowmq.protocol import messages as m
from sparrowmq.settings import WorkerSettings


def start(seq: int, epoch: int) -> fx.StartTasks:
    return fx.StartTasks(0, seq, "a", epoch, m.JobSpec(), b"", [b""], [7], [1])


@pytest.mark.parametrize(("epoch", "lost", "may"), [(0, True, False), (2, False, False), (2, True, True)])
def test_an_attempt_may_start_twice_only_in_an_epoch_that_was_given_twice(epoch: int, lost: bool, may: bool) -> None:
    """Which a store that has lost a durable job does; its first epoch it does not give."""
    monitor = NodeMonitor(id="w1", incarnation=1, slots=1, settings=WorkerSettings())
    watch = Watch(monitor, lambda job: lost and job == "a")
    watch.step(1.0, [start(1, epoch)])
    if may:
        watch.step(2.0, [start(2, epoch)])
    else:
        with pytest.raises(AssertionError, match="attempt 1 of task 7 of a starts twice"):
            watch.step(2.0, [start(2, epoch)])
