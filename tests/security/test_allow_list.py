"""A worker with an allow-list, with real slots: what is not listed is refused, what is listed and preloaded runs."""

from __future__ import annotations

import os
from pathlib import Path

from sparrowmq.errors import RemoteError, TaskError
from sparrowmq.payload import plain
from sparrowmq.protocol import messages as m
from tests.support.node_monitor import Monitor, in_own_process, main, with_options

CALL = plain.dumps([[-3], {}])


def refused(answer: object, what: str) -> None:
    assert isinstance(answer, TaskError), answer
    assert not isinstance(answer, RemoteError)
    assert "refused by the setting worker.allow" in str(answer)
    assert what in str(answer)


@with_options(allow=["math:fabs", "builtins:abs"], preload=["os:getpid", "colorsys"])
def test_only_what_is_listed_runs(monitor: Monitor) -> None:
    pid = monitor.spawn()
    made = monitor.directory / "made"
    assert monitor.run(CALL, m.CALL, b"math:fabs") == 3.0
    refused(monitor.run(plain.dumps([[f"touch {made}"], {}]), m.CALL, b"os:system"), "'os:system'")
    refused(monitor.run(CALL, m.CALL, b"builtins:abs.__call__"), "'builtins:abs.__call__'")
    refused(monitor.command("touch", str(made)), "a command")
    refused(monitor.run(plain.dumps(1000.0), m.SLEEP), "a sleep")
    (pickled,) = monitor.outcomes(monitor.call(made.touch))
    refused(pickled, "a pickled function")
    assert not made.exists()
    assert monitor.run(CALL, m.CALL, b"builtins:abs") == 3
    assert monitor.pids == {0: pid}, "a refusal costs no process"


@with_options(allow=["builtins:abs"])
def test_a_job_whose_tasks_change_their_kind_gains_nothing(monitor: Monitor) -> None:
    """A slot keeps what runs a job's tasks: neither another kind nor another function under its id is let in."""
    monitor.spawn()
    made = monitor.directory / "made"
    command = plain.dumps({"argv": ["touch", str(made)]})

    def outcomes(*orders: tuple[int, bytes, bytes]) -> list[object]:
        seqs = [monitor.hand([payload], kind=kind, function=f, job="same")[0] for kind, f, payload in orders]
        monitor.until(lambda: all(seq in monitor.results for seq in seqs))
        return [monitor.outcome(seq, plain.loads) for seq in seqs]

    answers = outcomes((m.CALL, b"builtins:abs", CALL), (m.COMMAND, b"", command), (m.PYTHON, b"os:system", command))
    assert answers[0] == 3
    assert all(isinstance(answer, TaskError) for answer in answers[1:])
    assert not made.exists()


@in_own_process
def test_without_a_list_everything_runs(monitor: Monitor) -> None:
    monitor.spawn()
    assert monitor.run(plain.dumps([[], {}]), m.CALL, b"os:getpid") == monitor.pids[0]
    assert monitor.outcomes(monitor.call(os.getpid)) == [monitor.pids[0]]
    assert monitor.command("true")[0] == 0
    assert Path("/").is_dir()


if __name__ == "__main__":
    main()
