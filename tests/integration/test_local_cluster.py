"""Local clusters of real processes: starting, killing, ending with their owner, and the commands that use them."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from sparrowmq.errors import ConfigError, Unavailable, UsageError
from sparrowmq.local import LocalCluster
from sparrowmq.runtime import directory, state
from sparrowmq.settings import SchedulerSettings, StoreSettings
from sparrowmq.store.embedded import EmbeddedServer
from sparrowmq.store.registry import Registry

pytestmark = pytest.mark.timeout(120)
ROOT = str(Path(__file__).resolve().parents[2])


def until(condition: Callable[[], object], timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.01)


def family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def held(path: Path) -> bool:
    """Whether some process has this directory of a cluster still."""
    with (path / directory.LOCK_NAME).open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=2, schedulers=2) as made:
        yield made


def test_it_is_ready_when_it_says_so(cluster):
    registry = Registry(StoreSettings(url=cluster.url))
    assert set(registry.workers()) == {member.id for member in cluster.workers}
    assert set(registry.schedulers()) == {member.id for member in cluster.schedulers}
    assert all(record.slots == 1 for record in registry.workers().values())


def test_members_are_real_processes_that_can_be_killed_and_added(cluster):
    before = cluster.workers
    killed = cluster.kill_worker(0)
    assert killed == before[0]
    assert not psutil.pid_exists(killed.pid) or psutil.Process(killed.pid).status() == psutil.STATUS_ZOMBIE
    added = cluster.add_worker()
    assert cluster.workers == [*before[1:], added]
    until(lambda: added.id in Registry(StoreSettings(url=cluster.url)).workers())


def test_a_killed_store_is_replaced_and_everyone_registers_again(cluster):
    before = cluster.store_pid
    cluster.kill_store()
    assert cluster.store_pid != before
    names = {member.id for member in cluster.schedulers}
    until(lambda: set(Registry(StoreSettings(url=cluster.url)).schedulers()) == names)


def test_an_index_that_is_none(cluster):
    with pytest.raises(IndexError, match="there is no worker 99: 2 run"):
        cluster.kill_worker(99)


def test_it_grows_and_shrinks(cluster):
    before = cluster.workers
    grown = cluster.scale(len(before) + 2)
    assert grown[: len(before)] == before
    assert len(grown) == len(before) + 2
    assert cluster.scale(len(grown)) == grown
    processes = [psutil.Process(member.pid) for member in grown[len(before) :]]
    assert cluster.scale(len(before)) == before == cluster.workers
    until(lambda: gone(processes))
    with pytest.raises(UsageError, match="workers: expected a number from 0 to 1,021, got -1"):
        cluster.scale(-1)


def test_a_member_that_is_ended_right_after_its_start_does_not_end_the_cluster():
    """Its signal came while it still had the launcher's handlers, which told the launcher to stop."""
    with LocalCluster(workers=1, assistants=0) as cluster:
        for _ in range(15):
            cluster.scale(3)
            assert len(cluster.scale(1)) == 1


def test_repr_says_what_runs(cluster):
    assert repr(cluster) == f"<LocalCluster: 2 workers x 1 slots, 2 schedulers, {cluster.url}>"
    assert repr(LocalCluster()) == "<LocalCluster: not running>"


def test_all_of_it_is_gone_after_close():
    cluster = LocalCluster(workers=2)
    cluster.start()
    processes, url = family(cluster.pid), cluster.url
    assert len(processes) >= 5
    cluster.close()
    until(lambda: gone(processes))
    assert not Path(url.removeprefix("unix://").partition("?")[0]).parent.exists()
    with pytest.raises(UsageError, match="not running"):
        _ = cluster.url
    cluster.start()
    assert len(cluster.workers) == 2
    cluster.close()


def test_a_running_task_gets_the_time_that_close_grants():
    from sparrowmq.client.client import Client

    with LocalCluster(workers=1) as cluster, Client(cluster) as client:
        job = client.sleep([0.8])
        until(lambda: job.status() and job.status()[0].launched)
        cluster.close(drain_s=10.0)
        assert job[0].result(5) is None


@pytest.mark.parametrize("victim", ["owner", "launcher"])
def test_nothing_outlives_a_killed_owner_or_launcher(victim, tmp_path_factory):
    code = (
        "import sys,time\nfrom sparrowmq.local import LocalCluster\nc=LocalCluster(workers=2)\nc.start()\n"
        "print(c.pid,flush=True)\ntime.sleep(60)"
    )
    environ = {**os.environ, "PYTHONPATH": ROOT, "TMPDIR": str(tmp_path_factory.mktemp("t"))}
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environ)
    assert owner.stdout is not None
    launcher = int(owner.stdout.readline())
    processes = family(launcher)
    os.kill(owner.pid if victim == "owner" else launcher, signal.SIGKILL)
    until(lambda: gone(processes))
    owner.kill()
    owner.wait()


def test_a_store_that_is_not_there_is_said_in_time():
    cluster = LocalCluster(workers=1, redis_url="redis://bob:hunter2@127.0.0.1:1/0")
    with pytest.raises(Unavailable, match=r"redis://bob@127\.0\.0\.1:1/0") as caught:
        cluster.start()
    assert "hunter2" not in str(caught.value)
    assert cluster.pid == 0


def test_a_given_redis_is_used(tmp_path_factory):
    server = EmbeddedServer(tmp_path_factory.mktemp("v"))
    server.launch()
    server.wait_ready()
    try:
        with LocalCluster(workers=1, redis_url=server.url) as cluster:
            assert (cluster.url, cluster.store_pid) == (server.url, 0)
            assert len(Registry(StoreSettings(url=server.url)).workers()) == 1
            with pytest.raises(UsageError, match="no Valkey server of its own"):
                cluster.kill_store()
        until(lambda: not Registry(StoreSettings(url=server.url)).schedulers())
    finally:
        server.stop()


@pytest.mark.parametrize("counts", [{"workers": -1}, {"schedulers": 0}, {"slots": 5000}])
def test_impossible_counts(counts):
    with pytest.raises(UsageError, match=next(iter(counts))):
        LocalCluster(**counts)


def test_binding_beyond_loopback_must_be_said():
    with pytest.raises(ConfigError, match="bind_clients"):
        LocalCluster(scheduler=SchedulerSettings(bind_clients="tcp://0.0.0.0:0"))


def test_who_fails_is_replaced_where_that_is_asked_for_and_who_ends_in_order_is_not():
    with LocalCluster(workers=2, schedulers=2, restart=True) as cluster:
        drained = cluster.kill_worker(1, signal.SIGTERM)
        until(lambda: drained not in cluster.workers)
        withdrawn = cluster.kill_scheduler(1, signal.SIGTERM)
        until(lambda: withdrawn not in cluster.schedulers)
        killed = cluster.kill_worker(0)
        until(lambda: cluster.workers)  # whatever was to come back before it has
        assert len(cluster.workers) == len(cluster.schedulers) == 1
        assert killed not in cluster.workers
        assert cluster.scale(0) == []


def test_a_worker_that_takes_too_long_to_end_is_killed_and_stays_away():
    with LocalCluster(workers=1, restart=True) as cluster:
        (worker,) = cluster.workers
        os.kill(worker.pid, signal.SIGSTOP)  # it cannot even take the signal
        assert cluster.scale(0, drain_s=0.0) == []
        replacement = cluster.add_worker()
        cluster.kill_worker(0)
        until(lambda: cluster.workers)
        assert [member.id for member in cluster.workers] not in ([worker.id], [replacement.id])


def test_a_cluster_whose_launcher_is_gone_says_so():
    with LocalCluster(workers=1) as cluster:
        os.kill(cluster.pid, signal.SIGKILL)
        assert cluster.wait(15.0)
        assert (cluster.workers, cluster.schedulers) == ([], [])
        assert repr(cluster) == "<LocalCluster: not running>"
        with pytest.raises(Unavailable, match=r"launcher is gone|has ended meanwhile"):
            cluster.add_worker()
        with pytest.raises(IndexError, match="there is no worker 0: 0 run"):
            cluster.kill_worker()


# What a killed cluster leaves.


@pytest.fixture
def temporary(tmp_path_factory, monkeypatch) -> Path:
    """A temporary directory of the test's own, for this process and those that it starts."""
    path = tmp_path_factory.mktemp("t")
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield path
    tempfile.tempdir = None


def test_only_directories_that_nobody_has_any_more_are_removed(temporary):
    used, held = directory.create()
    left, let_go = directory.create()
    (left / "sockets").mkdir()
    os.close(let_go)
    other = temporary / "sparrowmq-notes"  # somebody's own, which happens to be called so
    other.mkdir()
    (temporary / "sparrowmq-link").symlink_to(other)
    assert stat.S_IMODE(used.stat().st_mode) == 0o700
    inherited = os.dup(held)
    os.close(held)
    assert directory.sweep() == [left]
    assert {path.name for path in temporary.iterdir()} == {used.name, other.name, "sparrowmq-link"}
    os.close(inherited)
    assert directory.sweep() == [used]


def test_the_next_cluster_removes_what_a_killed_one_left(temporary):
    code = "import sys; from sparrowmq.local import LocalCluster; LocalCluster(workers=1).start(); sys.stdin.read()"
    environ = {**os.environ, "PYTHONPATH": ROOT}
    with LocalCluster(workers=0) as other:
        (kept,) = temporary.iterdir()
        owner = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, env=environ)
        until(lambda: len(family(owner.pid)) >= 5)
        processes = family(owner.pid)
        for process in processes[:2]:  # the owner and the launcher, at once: none of them can remove anything
            process.send_signal(signal.SIGSTOP)
        for process in processes[:2]:
            process.kill()
        owner.communicate()
        (left,) = set(temporary.iterdir()) - {kept}
        until(lambda: not held(left))  # whoever was being forked while the family was counted holds it, too
        with LocalCluster(workers=0) as following:
            assert len(list(temporary.iterdir())) == 2
            assert kept.exists()
            assert not left.exists()
            assert following.url != other.url
    assert list(temporary.iterdir()) == []


# The state file.


def test_a_stale_or_foreign_state_file_is_no_cluster(tmp_path):
    path = tmp_path / "s" / "cluster.json"
    assert state.read(path) is None
    own = state.ClusterState("unix:///x", os.getpid(), state.create_time(os.getpid()), time.time(), 1, 1)
    state.write(path, own)
    assert state.read(path) == own
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="running already"):
        state.write(path, own)
    recycled = msgspec.structs.replace(own, create_time_unix_s=own.create_time_unix_s - 100)
    path.write_bytes(msgspec.json.encode(recycled))
    assert state.read(path) is None
    state.write(path, own)
    assert state.sweep(path) is False
    path.write_text("{")
    assert state.read(path) is None
    assert state.sweep(path) is True
    assert state.sweep(path) is False
    path.symlink_to(tmp_path / "nowhere")
    state.write(path, own)
    assert [entry.name for entry in path.parent.iterdir()] == ["cluster.json"]


# The commands.


@pytest.fixture(scope="module")
def environ(tmp_path_factory) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SPARROWMQ_")}
    return {**clean, "PYTHONPATH": ROOT, "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state"))}


@pytest.fixture(scope="module")
def sparrowmq(environ) -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sparrowmq.cli.main", *words]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)

    return call


@pytest.fixture(scope="module")
def detached(sparrowmq) -> Iterator[dict[str, object]]:
    result = sparrowmq("up", "--detach", "--workers", "2", "-o", "json")
    assert result.returncode == 0, result.stderr
    yield json.loads(result.stdout)
    assert sparrowmq("down").stdout == "stopped\n"
    assert sparrowmq("down").stdout == "no local cluster runs\n"


def test_it_has_an_assistant_that_hears_everybody(detached, sparrowmq):
    (assistant,) = detached["assistants"]
    names = {row["id"] for row in (*detached["workers"], *detached["schedulers"])}

    def heard() -> set[str]:
        (row,) = json.loads(sparrowmq("assistant", "show", "-o", "json").stdout)
        assert row["id"] == assistant["id"]
        return {node["id"] for node in row.get("nodes", []) if node["state"] == "alive"}

    until(lambda: heard() == names)


def test_a_second_cluster_is_refused(detached, sparrowmq):
    again = sparrowmq("up", "--detach")
    assert again.returncode == 2
    assert "running already" in again.stderr


def test_status_and_worker_list_find_the_cluster(detached, sparrowmq):
    def found() -> dict[str, list[dict[str, object]]]:
        return json.loads(sparrowmq("status", "-o", "json").stdout)

    until(lambda: {row["id"] for row in found()["workers"]} == {row["id"] for row in detached["workers"]})
    assert {row["id"] for row in found()["schedulers"]} == {row["id"] for row in detached["schedulers"]}
    assert len(json.loads(sparrowmq("-o", "json", "worker", "list").stdout)) == 2
    assert "alive" in sparrowmq("worker", "list").stdout


def test_commands_run_and_their_output_comes_in_order(detached, sparrowmq):
    result = sparrowmq("run", "-n", "5", "--name", "greet", "--", "sh", "-c", "echo $SPARROWMQ_TASK")
    assert result.returncode == 0, result.stderr
    *lines, last = result.stdout.splitlines()
    assert lines == ["0", "1", "2", "3", "4"]
    for part in ("5/5", "response", "queueing p50", "probe", "no-op", "cancel"):
        assert part in last
    listed = json.loads(sparrowmq("job", "list", "-o", "json").stdout)
    assert [row for row in listed if row["name"] == "greet"][0]["succeeded"] == 5  # noqa: RUF015
    identity = last.split()[1]
    assert json.loads(sparrowmq("job", "show", identity[:15], "-o", "json").stdout)["id"] == identity


def test_calls_print_what_they_return(detached, sparrowmq):
    result = sparrowmq("run", "--call", "math:sqrt", "--args", "[9]", "--args", "[16]", "-o", "json")
    assert [row["value"] for row in json.loads(result.stdout)["results"]] == [3.0, 4.0]


def test_exit_statuses_of_run(detached, sparrowmq):
    failed = sparrowmq("run", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (failed.returncode, failed.stdout.splitlines()[0]) == (1, "out")
    assert "err\n" in failed.stderr
    assert "task 0 failed" in failed.stderr
    late = sparrowmq("run", "--timeout", "0.2", "--", "sleep", "30")
    assert late.returncode == 124, late.stderr
    given_up = sparrowmq("run", "--wait", "0.2", "--", "sleep", "30")
    assert given_up.returncode == 124, given_up.stderr
    assert sparrowmq("run", "--policy", "lifo", "--", "true").returncode == 2
    assert sparrowmq("job", "show", "nosuchjob").returncode == 2


def test_an_interrupted_run_ends_its_job(detached, environ, sparrowmq):
    command = [sys.executable, "-m", "sparrowmq.cli.main", "run", "--name", "long", "--", "sleep", "30"]
    process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)

    def rows() -> list[dict[str, object]]:
        return [row for row in json.loads(sparrowmq("job", "list", "-o", "json").stdout) if row["name"] == "long"]

    until(lambda: any(row["launched"] for row in rows()))
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert process.stderr is not None
    assert process.stderr.read().splitlines()[-1].startswith("error: interrupted")
    until(lambda: all(row["state"] in ("done", "cancelled") for row in rows()))


def test_up_in_the_foreground_ends_at_ctrl_c(environ, tmp_path):
    command = [sys.executable, "-m", "sparrowmq.cli.main", "up", "--workers", "1", "-o", "json"]
    own = {**environ, "XDG_STATE_HOME": str(tmp_path)}
    process = subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    processes = family(ready["pid"])
    assert (tmp_path / "sparrowmq" / "cluster.json").exists()
    process.send_signal(signal.SIGINT)
    _, logged = process.communicate(timeout=30)
    assert process.returncode == 0
    assert '"event"' in logged
    until(lambda: gone(processes))
    assert not (tmp_path / "sparrowmq" / "cluster.json").exists()


def test_down_after_the_launcher_was_killed_leaves_nothing(environ, sparrowmq, tmp_path, temporary):
    own = {**environ, "XDG_STATE_HOME": str(tmp_path), "TMPDIR": str(temporary)}
    command = [sys.executable, "-m", "sparrowmq.cli.main"]

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *words], env=own, capture_output=True, text=True, timeout=60)

    ready = json.loads(call("up", "--detach", "--workers", "1", "-o", "json").stdout)
    processes = family(ready["pid"])
    processes[0].kill()
    until(lambda: gone(processes))
    assert (tmp_path / "sparrowmq" / "cluster.json").exists()
    assert len(list(temporary.iterdir())) == 1
    assert call("down").stdout == "no local cluster runs\n"
    assert not (tmp_path / "sparrowmq" / "cluster.json").exists()
    assert list(temporary.iterdir()) == []
