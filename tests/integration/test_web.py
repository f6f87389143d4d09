"""`sparrowmq web` beside real clusters, over real HTTP: what is answered, refused, streamed, said of what is gone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sparrowmq.cli.main import main
from sparrowmq.client.client import Client
from sparrowmq.local import LocalCluster
from sparrowmq.settings import SecuritySettings
from tests.support.page import Page, serving
from tests.support.store import until

pytest.importorskip("starlette")
from sparrowmq.web import app, server

pytestmark = pytest.mark.timeout(120)
WAIT_S = 30.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A cluster that only works."""
    with LocalCluster(workers=2, slots=2) as made:
        yield made


@pytest.fixture(scope="module")
def page(cluster: LocalCluster) -> Iterator[Page]:
    with serving(cluster) as found:
        yield found


def schedulers_are(page: Page, state: str) -> Callable[[], bool]:
    return lambda: page.snapshot()["feed"]["schedulers"]["state"] == state


def store_is(page: Page, state: str) -> Callable[[], bool]:
    return lambda: page.snapshot()["feed"]["store"]["state"] == state


def all_alive(page: Page, number: int) -> Callable[[], bool]:
    return lambda: list(page.states().values()) == ["alive"] * number


# -- HTTP


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/icon.svg", "/snapshot.json", "/healthz", "/nothing"])
def test_every_answer_keeps_browsers_strict(page: Page, path: str) -> None:
    status, headers, _ = page.ask(path)
    assert status == (404 if path == "/nothing" else 200)
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["connection"] == "close"
    assert "access-control-allow-origin" not in headers
    assert "server" not in headers


def test_the_page_names_nothing_that_is_not_below_it(page: Page) -> None:
    for name in app.FILES:
        text = page.ask(f"/{name}")[2].decode()
        assert "https://" not in text
        assert text.replace("http://www.w3.org/2000/svg", "").count("http://") == 0
        assert 'src="/' not in text
        assert 'href="/' not in text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("path", ["/", "/events", "/snapshot.json", "/page.js"])
def test_nothing_can_be_done_here(page: Page, method: str, path: str) -> None:
    status, headers, body = page.ask(path, method)
    assert (status, headers["allow"]) == (405, "GET, HEAD")
    assert body == b"this page only shows: GET and HEAD"


@pytest.mark.parametrize("path", ["/", "/events", "/snapshot.json", "/healthz", "/page.css"])
def test_head_is_get_without_a_body(page: Page, path: str) -> None:
    status, _, body = page.ask(path, "HEAD")
    assert (status, body) == (200, b"")


@pytest.mark.parametrize(
    "path",
    ["/../view.py", "/static/page.js", "/%2e%2e/app.py", "/..%2fapp.py", "//etc/passwd", "/page.js/..", "/page.js%00",
     "/index.html/", "/\\..\\app.py"],
)  # fmt: skip
def test_there_are_no_other_files(page: Page, path: str) -> None:
    status, _, body = page.ask(path)
    assert status == 404
    assert b"import" not in body


def test_what_is_too_long_or_no_http_is_refused_and_ends_nothing(page: Page) -> None:
    assert page.ask("/?" + "x" * 8000)[0] == 200  # a query changes nothing
    for sent in (
        b"GET /?" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01" * 100,
        b"\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", page.port), timeout=10.0) as line:
            line.sendall(sent)
            assert line.recv(64).startswith((b"HTTP/1.1 400", b""))
    assert page.ask("/healthz")[2] == b'{"status":"ok"}'


@pytest.mark.parametrize(
    ("host", "status"), [("localhost", 200), ("127.0.0.1:1", 200), ("[::1]:5", 200), ("evil", 421)]
)
def test_no_other_sites_name_can_be_made_to_point_here(page: Page, host: str, status: int) -> None:
    assert page.ask("/snapshot.json", Host=host)[0] == status


def test_behind_a_proxy_it_answers_below_its_root_path(cluster: LocalCluster) -> None:
    with serving(cluster, "--root-path", "/cluster") as page:
        for path in ("/cluster/healthz", "/healthz", "/cluster/", "/cluster/page.js", "/page.js"):
            assert page.ask(path)[0] == 200
        status, headers, _ = page.ask("/cluster")
        assert (status, headers["location"]) == (308, "/cluster/")
        assert page.ask("/clusterevents")[0] == 404


def test_who_says_nothing_is_hung_up_on(page: Page) -> None:
    with socket.create_connection(("127.0.0.1", page.port), timeout=server.MUTE_S * 3) as line:
        line.sendall(b"GET / HT")
        assert line.recv(1) == b""


# -- the stream


def events(page: Page) -> Iterator[dict[str, Any]]:
    with urllib.request.urlopen(f"{page.address}events", timeout=20.0) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


def test_snapshots_come_by_themselves(cluster: LocalCluster, page: Page) -> None:
    with Client(cluster) as client:
        job = client.sleep([0.02] * 40, name="forty")
        for snapshot in events(page):
            ended = [row for row in snapshot["jobs"] if row["name"] == "forty" and row["state"] == "done"]
            if ended:
                break
        client.gather(job, WAIT_S)
    assert (ended[0]["succeeded"], ended[0]["balanced"], ended[0]["failed"]) == (40, True, 0)
    assert snapshot["header"]["tasks_done"] >= 40
    assert snapshot["header"]["leader"]
    assert [row["suspect_after_ms"] > 100 for row in snapshot["tiles"]["rows"]] == [True, True]
    assert all(len(row["beats_ms"]) > 3 for row in snapshot["strip"]["rows"])


def test_listeners_are_bounded_and_one_that_takes_nothing_holds_up_nobody(page: Page) -> None:
    mute = []
    try:
        for _ in range(app.LISTENERS_MAX):
            line = socket.create_connection(("127.0.0.1", page.port), timeout=10.0)
            mute.append(line)
            line.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert line.recv(15) == b"HTTP/1.1 200 OK"
        status, headers, _ = page.ask("/events")
        assert (status, headers["retry-after"]) == (503, "5")
        assert page.ask("/snapshot.json")[0] == 200
    finally:
        for line in mute:
            line.close()
    until(lambda: page.ask("/events", "HEAD")[0] == 200, WAIT_S)


# -- what happens to the cluster


def test_a_killed_worker_is_dead_and_its_card_has_the_moments() -> None:
    with LocalCluster(workers=3, restart=True) as cluster, serving(cluster) as page, Client(cluster) as client:
        until(all_alive(page, 3), WAIT_S)
        job = client.sleep([0.05] * 200)
        until(lambda: page.snapshot()["header"]["tasks_done"] > 5, WAIT_S)
        gone = cluster.kill_worker(1)
        until(lambda: page.states().get(gone.id) == "dead", WAIT_S)
        until(lambda: page.snapshot()["incidents"][0]["tasks_again"] == 1, WAIT_S)
        (card,) = page.snapshot()["incidents"]
        moments = [card[f"{name}_unix_s"] for name in ("silent", "given_up", "suspected", "declared")]
        assert card["worker"] == gone.id
        assert moments[0] < moments[2] < moments[3]
        assert moments[1] <= card["last_again_unix_s"] < moments[0] + 5.0
        assert (card["tasks_lost"], card["tasks_ended"], card["why"]) == (1, 0, "its connection was lost")
        client.gather(job, WAIT_S)
        until(lambda: sorted(page.states().values()) == ["alive", "alive", "alive", "dead"], WAIT_S)


def test_a_frozen_worker_is_suspect_then_dead_and_rejoins() -> None:
    with LocalCluster(workers=2) as cluster, serving(cluster) as page:
        until(all_alive(page, 2), WAIT_S)
        frozen = cluster.kill_worker(0, signal.SIGSTOP)
        until(lambda: page.states()[frozen.id] == "dead", WAIT_S)
        cluster.kill_worker(0, signal.SIGCONT)
        until(lambda: any(row["rejoined"] for row in page.snapshot()["tiles"]["rows"]), WAIT_S)
        (card,) = page.snapshot()["incidents"]
        assert (card["worker"], card["tasks_lost"]) == (frozen.id, 0)
        assert card["suspected_unix_s"] < card["declared_unix_s"] < card["rejoined_unix_s"]


def test_when_the_only_scheduler_restarts_the_data_are_stale_then_live() -> None:
    with LocalCluster(workers=1) as cluster, serving(cluster) as page:
        until(all_alive(page, 1), WAIT_S)
        cluster.kill_scheduler()
        until(schedulers_are(page, "stale"), WAIT_S)
        assert "scheduler" in page.snapshot()["feed"]["schedulers"]["why"]
        cluster.add_scheduler()
        until(schedulers_are(page, "live"), WAIT_S)
        until(all_alive(page, 1), WAIT_S)
        assert "schedulers answer again" in [event["text"] for event in page.snapshot()["events"]]


def test_when_the_store_is_gone_schedulers_go_on_and_it_comes_back() -> None:
    with LocalCluster(workers=1) as cluster, serving(cluster) as page:
        until(all_alive(page, 1), WAIT_S)
        os.kill(cluster.store_pid, signal.SIGSTOP)
        try:
            until(store_is(page, "stale"), WAIT_S)
            assert "Redis" in page.snapshot()["feed"]["store"]["why"]
            assert page.states() != {}
        finally:
            os.kill(cluster.store_pid, signal.SIGCONT)
        until(store_is(page, "live"), WAIT_S)
        cluster.kill_store()
        until(lambda: store_is(page, "live")() and schedulers_are(page, "live")() and all_alive(page, 1)(), WAIT_S)


def test_a_cluster_that_is_not_there_is_said_and_ends_nothing() -> None:
    with LocalCluster(workers=0, assistants=0) as cluster, serving(cluster) as page:
        cluster.close()
        until(lambda: page.snapshot()["feed"]["schedulers"]["why"] != "", WAIT_S)
        assert page.ask("/")[0] == 200
        page.process.send_signal(signal.SIGTERM)
        assert page.process.wait(WAIT_S) == 0


def test_it_ends_in_order_though_somebody_listens(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = tmp_path / "alive"
    monkeypatch.setenv("SPARROWMQ_HEALTH_FILE", str(alive))
    with serving(cluster) as page:
        stream = events(page)
        next(stream)
        until(alive.exists, WAIT_S)
        page.process.send_signal(signal.SIGTERM)
        list(stream)  # it ends, and without an error
        assert page.process.wait(WAIT_S) == 0
        assert page.process.stderr is not None
        assert page.process.stderr.read() == ""
        assert not alive.exists()


def test_with_keys_the_page_reads_as_a_client_does(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    assert main(["keys", "new", "--dir", str(keys), "-o", "quiet"]) == 0
    with LocalCluster(workers=1, security=SecuritySettings(keys=str(keys))) as cluster, serving(cluster) as page:
        until(all_alive(page, 1), WAIT_S)
        assert len(page.snapshot()["strip"]["rows"][0]["beats_ms"]) > 0


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def test_with_nobody_looking_nothing_is_read(cluster: LocalCluster) -> None:
    with serving(cluster) as page:
        assert page.ask("/healthz")[0] == 200
        before = threads(page.process.pid)
        until(all_alive(page, 2), WAIT_S)
        assert threads(page.process.pid) > before
        until(lambda: threads(page.process.pid) == before, WAIT_S)
        until(all_alive(page, 2), WAIT_S)


# -- the command


def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sparrowmq.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60.0, env=os.environ | environ)


def test_beyond_loopback_it_takes_keys_or_a_word(cluster: LocalCluster) -> None:
    refused = run("--redis", cluster.url, "web", "--listen", "0.0.0.0:0")
    assert refused.returncode == 4
    assert "can be reached from other machines" in refused.stderr
    assert "--insecure" in refused.stderr
    with serving(cluster, "--insecure", listen="0.0.0.0:0") as page:
        assert page.ask("/healthz", Host="cluster.example")[0] == 200


def test_a_port_that_is_taken_is_an_error_and_no_traceback(cluster: LocalCluster, page: Page) -> None:
    refused = run("--redis", cluster.url, "web", "--listen", f"127.0.0.1:{page.port}")
    assert refused.returncode == 3
    assert refused.stderr.startswith(f"error: --listen 127.0.0.1:{page.port}: Address already in use")


def test_without_the_extra_it_says_what_to_install(cluster: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "starlette.py").write_text("raise ModuleNotFoundError('no', name='starlette')\n")
    refused = run("--redis", cluster.url, "web", "--listen", "127.0.0.1:0", PYTHONPATH=str(tmp_path))
    assert refused.returncode == 2
    assert "pip install 'sparrowmq[web]'" in refused.stderr
    assert "Traceback" not in refused.stderr


# -- up


@pytest.fixture
def state(tmp_path: Path) -> Iterator[dict[str, str]]:
    environ = {"XDG_STATE_HOME": str(tmp_path / "state")}
    yield environ
    assert run("down", **environ).returncode == 0


def test_up_has_a_page_that_starts_when_it_is_looked_at_and_ends_with_it(state: dict[str, str]) -> None:
    told = json.loads(run("-o", "json", "up", "--detach", "--workers", "1", **state).stdout)
    port = int(told["page"].rpartition(":")[2])
    assert healthy(port)
    assert run("down", **state).returncode == 0
    until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) != 0, WAIT_S)


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=WAIT_S) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_a_page_that_is_killed_is_there_again(state: dict[str, str]) -> None:
    told = json.loads(run("-o", "json", "up", "--detach", "--workers", "0", "--assistants", "0", **state).stdout)
    port = int(told["page"].rpartition(":")[2])
    assert healthy(port)
    (page,) = [child for child in psutil.Process(told["pid"]).children() if "--fd" in child.cmdline()]
    page.kill()
    until(lambda: healthy(port), WAIT_S)


def test_up_takes_the_next_free_port_and_none_where_none_is_wanted(state: dict[str, str]) -> None:
    try:
        holder = socket.create_server(("127.0.0.1", 8787))
    except OSError:  # somebody else has it: as good
        holder = socket.socket()
    with holder:
        found = run("up", "--detach", "--workers", "0", "--assistants", "0", **state).stdout
        assert "page http://127.0.0.1:87" in found
        assert "page http://127.0.0.1:8787 " not in found
    assert run("down", **state).returncode == 0
    assert "page " not in run("up", "--detach", "--workers", "0", "--assistants", "0", "--no-page", **state).stdout


def test_up_without_the_extra_has_no_page(state: dict[str, str], tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    hook = """
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "uvicorn" else found(name, *more)
"""
    (hidden / "sitecustomize.py").write_text(hook)
    made = run("up", "--detach", "--workers", "0", "--assistants", "0", PYTHONPATH=str(hidden), **state)
    assert made.returncode == 0
    assert "page " not in made.stdout
