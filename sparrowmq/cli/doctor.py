"""doctor: look at everything that has to be right, say what is not, and what to do about it.

Owns: the command and its verdicts on the cluster. Must not know: what this machine alone tells (diagnosis.py).

Each check is ok, warn (it works, and may surprise) or fail (something does not work). Exit status: 1 if one failed.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from sparrowmq import __version__
from sparrowmq.cli import show
from sparrowmq.cli.base import START_HINT, Command, Ended, Globals, pass_globals
from sparrowmq.cli.diagnosis import FAIL, OK, WARN, Check, local_checks
from sparrowmq.errors import SparrowError, Unavailable

if TYPE_CHECKING:
    from sparrowmq.cli.ask import Answer
    from sparrowmq.config import Config
    from sparrowmq.protocol import messages as m
    from sparrowmq.security.credentials import Credentials
    from sparrowmq.settings import StoreSettings
    from sparrowmq.store.registry import SchedulerRecord, WorkerRecord

SKEW_S_MAX = 1.0
LATENCY_MS_MAX = 50.0
ANSWER_TIMEOUT_S = 2.0
PINGS = 5
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_SKEW_ADVICE = "synchronise the clocks (NTP): times in `job list` and `task show` are off by that; scheduling is not"


@click.command(cls=Command)
@pass_globals
def doctor(options: Globals) -> int:
    """Look for what is wrong on this machine and in the cluster, and say what to do.

    Works without a cluster, too. Exit status: 0 if nothing failed, 1 if something did.
    """
    checks = list(_all(options))
    rows = [check._asdict() for check in checks]

    def people() -> None:
        width = max(len(check.name) for check in checks)
        for check in checks:
            click.echo(f"{_mark(check.state)}  {check.name:{width}}  {check.message}")
            if check.hint:
                click.echo(f"{'':6}{'':{width}}  {check.hint}")

    show.emit(options, rows, people, quiet=lambda row: f"{row['state']} {row['name']}")
    failed = [check for check in checks if check.state == FAIL]
    if failed:
        said = f"{show.count(len(failed), 'check')} of {len(checks):,} failed"
        raise Ended(1, "unhealthy", said, hint=failed[0].hint or failed[0].message, said=True)
    return 0


def _mark(state: str) -> str:
    colour = {OK: "green", WARN: "yellow", FAIL: "red"}[state]
    return click.style(f"{state:4}", fg=colour) if show.wants_colour() else f"{state:4}"


def _all(options: Globals) -> Iterator[Check]:
    try:
        loaded: Config | None = options.load()
        problem = None
    except SparrowError as error:
        loaded, problem = None, error
    yield from local_checks(loaded)
    if loaded is None:
        assert problem is not None
        yield Check("configuration", FAIL, str(problem), problem.hint)
        return
    changed = sum(source != "default" for source in loaded.sources.values())
    yield Check("configuration", OK, f"{show.count(changed, 'setting')} not at the default")
    try:
        found = options.load_found()
        credentials = options.credentials(found)
    except Unavailable:
        yield Check("cluster", WARN, "no Redis URL is configured and no local cluster runs", START_HINT)
        return
    except SparrowError as error:
        yield Check("keys", FAIL, str(error), error.hint)
        return
    yield from _cluster(found.store, credentials)


def _cluster(store: StoreSettings, credentials: Credentials | None = None) -> Iterator[Check]:
    from sparrowmq.cli import ask
    from sparrowmq.store.registry import Registry

    try:
        yield from _redis(store)
        registry = Registry(store)
        try:
            schedulers, workers = registry.schedulers(), registry.workers()
        finally:
            registry.close()
    except SparrowError as error:
        yield Check("redis", FAIL, str(error), error.hint)
        return
    if not schedulers:
        yield Check(
            "schedulers", FAIL, "none is registered in this Redis",
            f"start one with `sparrowmq scheduler start`; is the prefix {store.prefix!r} (store.prefix) theirs?",
        )  # fmt: skip
    addresses = {name: record.address_clients for name, record in schedulers.items()}
    asked_unix_s = time.time()
    answers = ask.ask(addresses, "workers", timeout_s=ANSWER_TIMEOUT_S, credentials=credentials)
    for name in sorted(schedulers):
        yield _scheduler(schedulers[name], answers[name], asked_unix_s)
    yield from _workers(workers, [answer.status for answer in answers.values() if answer.status is not None])


def _redis(store: StoreSettings) -> Iterator[Check]:
    """Raises what keeps Redis from being used."""
    from sparrowmq.store.connection import connect, describe, explained

    client = connect(store)
    try:
        with explained(store):
            client.ping()
            trips: list[tuple[float, float]] = []  # duration of a trip, and by how much Redis' clock is ahead
            for _ in range(PINGS):
                begin_unix_s, begin = time.time(), time.monotonic()
                seconds, microseconds = client.time()
                took_s = time.monotonic() - begin
                trips.append((took_s, seconds + microseconds / 1e6 - (begin_unix_s + took_s / 2)))
        took_s, ahead_s = min(trips)
        latency_ms = took_s * 1e3
        slow = latency_ms > LATENCY_MS_MAX
        said = f"{describe(store.url)} answers in {show.milliseconds(latency_ms)}, {_redis_version(client, store)}"
        advice = "schedulers and workers are found slowly; tasks do not go through Redis" if slow else ""
        yield Check("redis", WARN if slow else OK, said, advice)
        yield _clock("redis clock", ahead_s)
    finally:
        client.close()


def _redis_version(client: Any, store: StoreSettings) -> str:
    from sparrowmq.store.connection import explained

    try:
        with explained(store):
            told: Mapping[str, Any] = client.info("server")
    except SparrowError:  # INFO is not among what this user may do
        return "version not told"
    if "valkey_version" in told:
        return f"valkey {told['valkey_version']}"
    return f"redis {told.get('redis_version', '(no version)')}"


def _clock(name: str, ahead_s: float) -> Check:
    apart = show.seconds(abs(ahead_s))
    if abs(ahead_s) <= SKEW_S_MAX:
        return Check(name, OK, f"{apart} {'ahead of' if ahead_s > 0 else 'behind'} ours")
    return Check(name, WARN, f"{apart} {'ahead of' if ahead_s > 0 else 'behind'} ours", _SKEW_ADVICE)


def _scheduler(record: SchedulerRecord, answer: Answer, asked_unix_s: float) -> Check:
    where = f"{record.host} pid {record.pid} at {record.address_clients}"
    name = record.id
    if answer.status is None:
        return Check(name, FAIL, f"{where} does not answer: {answer.why}", _reach_advice(record, answer))
    told = f"{where} answers in {show.milliseconds(answer.took_s * 1e3)}, {record.package}"
    status = answer.status
    if status.unix_s:
        ahead_s = status.unix_s - (asked_unix_s + answer.took_s / 2)
        told += f", clock {show.seconds(abs(ahead_s))} {'ahead' if ahead_s > 0 else 'behind'}"
        if abs(ahead_s) > SKEW_S_MAX + answer.took_s:
            return Check(name, WARN, told, _SKEW_ADVICE)
    if record.package != __version__:
        return Check(name, WARN, f"{told}, this is {__version__}", _upgrade(record.package))
    return Check(name, OK, told)


def _reach_advice(record: SchedulerRecord, answer: Answer) -> str:
    if answer.code == "version":
        return "upgrade the older side"
    if answer.code:
        return f"it refused this client ({answer.code})"
    loopback = any(text in record.address_clients for text in ("://127.", "://localhost", "://[::1]", "ipc://"))
    if loopback and record.host != socket.gethostname():
        return "it is on another machine and told its loopback address: set scheduler.bind_* and advertise_host there"
    return "has it just ended (its record expires in seconds)? else look at its log, and for a firewall on that port"


def _upgrade(package: str) -> str:
    return f"let both be one version: here `pip install sparrowmq=={package}`, or upgrade the other side"


def _workers(records: Mapping[str, WorkerRecord], statuses: Sequence[m.Status]) -> Iterator[Check]:
    seen = {worker.id: worker for status in statuses for worker in status.workers}
    names = sorted(records.keys() | seen.keys())
    if not names:
        yield Check("workers", WARN, "none is there", "start some with `sparrowmq worker start`")
    for name in names:
        record, worker = records.get(name), seen.get(name)
        known = record or worker
        assert known is not None
        told = (
            f"{known.host} pid {known.pid}, {show.count(known.slots, 'slot')}, {known.package}, Python {known.python}"
        )
        if worker is None:
            yield Check(
                name, FAIL, f"{told}: registered, and no scheduler that answers knows it",
                "can it reach the schedulers' addresses for workers? Its log tells",
            )  # fmt: skip
        elif worker.state != "alive":
            yield Check(name, WARN, f"{told}: {worker.state}", "")
        elif known.python != PYTHON:
            advice = (
                f"functions that are pickled here (Python {PYTHON}) do not run there; module:function and commands do"
            )
            yield Check(name, WARN, told, advice)
        elif known.package != __version__:
            yield Check(name, WARN, f"{told}, this is {__version__}", _upgrade(known.package))
        else:
            yield Check(name, OK, told)
