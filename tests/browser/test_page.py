"""The live page in a real browser: what people see of a cluster that works, fails and heals, and what harms nobody."""

from __future__ import annotations

import itertools
import os
import signal
import time

import msgspec
import pytest

from sparrowmq.client.client import Client
from sparrowmq.local import LocalCluster
from sparrowmq.protocol import messages as m
from sparrowmq.web.view import View
from tests.browser.conftest import Screen
from tests.support.page import serving, showing
from tests.support.web import beat, job, node, reading, row, status

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
FIGURE = "([label, text]) => [...document.querySelectorAll('#figures div')].some(one => one.innerText.startsWith(label) && one.innerText.includes(text))"  # noqa: E501
TILES = "([state, number]) => document.querySelectorAll(`.tile.${state}`).length === number"
# Whatever sticks out of the window, covers its neighbour, or is cut off where nothing scrolls.
OUTSIDE = """() => {
  const edge = (element) => element.getBoundingClientRect();
  const all = (selector) => [...document.querySelectorAll(selector)].filter((one) => edge(one).width);
  const out = all("header *, section, h2").filter((one) => {
    const box = edge(one);
    return box.right > innerWidth + 1 || box.bottom > innerHeight + 1 || box.left < -1 || box.top < -1;
  });
  const figures = all(".brand, #figures div");
  const close = figures.filter((one, index) => index && edge(one).left < edge(figures[index - 1]).right + 4);
  const wide = all("#figures div:not(.flexible), .brand").filter((one) => one.scrollWidth > one.clientWidth + 1);
  const cut = all(".tile, .card, .job, h2").filter((one) => one.scrollHeight > one.clientHeight + 1);
  const steps = all(".card .steps div").filter((one) => one.scrollWidth > one.clientWidth + 1);
  const page = document.documentElement.scrollHeight > innerHeight ? ["the page scrolls"] : [];
  const found = [...out, ...close, ...wide, ...cut, ...steps];
  return found.map((one) => `${one.className || one.tagName}: ${one.innerText}`).concat(page);
}"""


def test_a_cluster_at_work_is_seen(screen: Screen) -> None:
    with (
        LocalCluster(workers=4, slots=2) as cluster,
        serving(cluster) as served,
        Client(cluster) as client,
        screen.at(served.address),
    ):
        screen.until(TILES, ["alive", 4])
        assert sorted(screen.texts(".tile .name")) == sorted(
            member.id.removeprefix("worker-") for member in cluster.workers
        )
        job_at_work = client.sleep([0.02] * 100, name="thumbnails")
        screen.until("() => document.querySelector('.job .sum')?.innerText.startsWith('100 of 100 done')")
        client.gather(job_at_work, 30.0)
        assert screen.texts(".job .name") == ["thumbnails late-binding"]
        assert "succeeded 100 · failed 0 · incomplete 0" in screen.texts(".job .ledger")[0]
        screen.until(FIGURE, ["tasks done", "100"])
        screen.until(FIGURE, ["jobs running", "1 done"])
        assert screen.page.locator("#banner").is_hidden()
        assert {url.removeprefix(served.address) for url in screen.asked} >= {"", "page.js", "page.css", "events"}


def test_a_killed_worker_turns_black_and_has_a_card(screen: Screen) -> None:
    with (
        LocalCluster(workers=3, restart=True) as cluster,
        serving(cluster) as served,
        Client(cluster) as client,
        screen.at(served.address),
    ):
        screen.until(TILES, ["alive", 3])
        running = client.sleep([0.05] * 200, name="work")
        screen.until(FIGURE, ["workers", "3 alive"])
        screen.until("() => document.querySelectorAll('.slot.busy').length === 3")
        gone = cluster.kill_worker(0)
        screen.until(TILES, ["dead", 1])
        assert screen.texts(".tile.dead .name") == [gone.id.removeprefix("worker-")]
        screen.until("() => document.querySelector('.card')?.innerText.includes('1 of 1 lost tasks re-placed')")
        (text,) = screen.texts(".card")
        assert "its connection was lost" in text
        screen.until("() => !document.querySelector('.card').innerText.includes('not known')")
        screen.until(TILES, ["alive", 3])  # the one that took its place has joined
        client.gather(running, 60.0)
        screen.until("() => document.querySelector('.job .ledger').innerText.includes('incomplete 0')")


def test_a_frozen_worker_turns_amber_then_black_and_rejoins(screen: Screen) -> None:
    with LocalCluster(workers=2) as cluster, serving(cluster) as served, screen.at(served.address):
        screen.until(TILES, ["alive", 2])
        cluster.kill_worker(0, signal.SIGSTOP)
        screen.until("() => document.querySelector('.tile .bar i.over')")
        screen.until(TILES, ["dead", 1])
        cluster.kill_worker(0, signal.SIGCONT)
        screen.until(TILES, ["rejoined", 1])
        assert "rejoined" in screen.texts(".card .outcome")[0]


def test_when_the_server_says_nothing_the_page_says_so(screen: Screen) -> None:
    with LocalCluster(workers=1) as cluster, serving(cluster) as served, screen.at(served.address):
        screen.until(TILES, ["alive", 1])
        os.kill(served.process.pid, signal.SIGSTOP)
        screen.until("() => document.querySelector('#banner').innerText.startsWith('Stale: no data from')")
        assert screen.page.locator("body.stale").count() == 1
        os.kill(served.process.pid, signal.SIGCONT)
        screen.page.locator("#banner").wait_for(state="hidden")
        screen.forgiven = True
        served.process.kill()
        screen.until("() => document.querySelector('#banner').innerText.startsWith('Stale: no data from')")
        with serving(cluster, listen=f"127.0.0.1:{served.port}"):
            screen.page.locator("#banner").wait_for(state="hidden")


def test_when_the_cluster_says_nothing_the_page_says_so(screen: Screen) -> None:
    with LocalCluster(workers=1) as cluster, serving(cluster) as served, screen.at(served.address):
        screen.until(TILES, ["alive", 1])
        os.kill(cluster.store_pid, signal.SIGSTOP)
        screen.until("() => document.querySelector('#banner.partly')?.innerText.startsWith('Redis tells nothing')")
        os.kill(cluster.store_pid, signal.SIGCONT)
        screen.page.locator("#banner").wait_for(state="hidden")
        cluster.kill_scheduler()
        screen.until("() => document.querySelector('#banner').innerText.startsWith('Stale')")
        cluster.add_scheduler()
        screen.page.locator("#banner").wait_for(state="hidden")


def test_below_a_proxys_path_it_is_the_same_page(screen: Screen) -> None:
    with (
        LocalCluster(workers=1) as cluster,
        serving(cluster, "--root-path", "/deep/down") as served,
        screen.at(f"{served.address}deep/down/"),
    ):
        screen.until(TILES, ["alive", 1])
        assert all(url.startswith(f"{served.address}deep/down/") for url in screen.asked)


def test_a_jobs_name_is_a_text_and_nothing_else(screen: Screen) -> None:
    with (
        LocalCluster(workers=1) as cluster,
        serving(cluster) as served,
        Client(cluster) as client,
        screen.at(served.address),
    ):
        client.gather(client.sleep([0.0], name=EVIL), 30.0)
        screen.until("() => document.querySelector('.job .sum')?.innerText.startsWith('1 of 1 done')")
        assert screen.texts(".job .name") == [f"{EVIL} late-binding"]
        assert screen.page.title() == "sparrowmq · this machine"


def evil_view(now: float) -> View:
    """A cluster in which everything that has a name has an evil one, and has died."""
    view = View(EVIL, EVIL)
    worker = f"worker-{EVIL}"
    names = {"leader": f"assistant-{EVIL}"}
    held = job(EVIL, name=EVIL, policy=EVIL, launched=4, unplaced=6)
    alive = row(worker)
    view.read(now - 2, reading(status(alive, held=[held], scheduler=EVIL), nodes=[node(worker)], at_s=now, **names))
    again = msgspec.structs.replace(held, relaunches=1)
    dead = node(worker, "dead", heard_unix_s=now - 2, suspicions=1, suspected_unix_s=now - 1.7)
    view.read(now - 1, reading(status(held=[again], scheduler=EVIL), nodes=[dead], at_s=now, **names))
    lost = m.Event(now - 1.9, "lost", 1, worker, EVIL)
    view.told(now - 1, EVIL, [m.TaskStatus(EVIL, 0, "launched", 1, EVIL, 0, [lost])])
    view.failed(now, EVIL)
    view.heard(now, [beat(worker, 0.5)])
    return view


def test_whatever_has_an_evil_name_does_no_harm(screen: Screen) -> None:
    now = time.time()
    snapshot = evil_view(now).snapshot(now + 5.0)
    snapshot["tiles"]["rows"][0]["state"] = f'dead" onmouseover="document.title=1 {EVIL}'
    with showing(lambda: msgspec.json.encode(snapshot)) as address, screen.at(address):
        screen.until("() => document.querySelectorAll('.card').length === 1")
        screen.page.locator("#banner").wait_for(state="visible")
        screen.page.mouse.move(200, 200)
        seen = screen.page.inner_text("body")
        assert seen.count("<img src=x onerror=") >= 8
        assert screen.page.locator("main img, main script, [onmouseover], [onerror]").count() == 0
        assert screen.page.title() == f"sparrowmq · {EVIL}"


def crowd(workers: int, jobs: int, now: float) -> View:
    """A large cluster, with deaths, long names and large figures."""
    view = View("redis.cluster.example:6379", "10.20.30")
    ids = [f"worker-{number:08x}" for number in range(workers)]
    held = [
        job(f"j{number:03}", name=f"a job with quite a long name, number {number}", tasks=1_000_000, launched=20_000,
            counts=[700_000, 12, 0, 0, 0], unplaced=279_988, probes=2_000_000, cancels=123_456, no_ops=23_456,
            queueing_p50_ms=12_345.6, queueing_p99_ms=123_456.7)
        for number in range(jobs)
    ]  # fmt: skip
    counters = {"jobs": 123_456, "jobs_now": 1234, "outcomes": 123_456_789, "unplaced_now": 12_345_678}
    for step in range(3):
        nodes = [node(id, "dead" if step and index < 14 else "alive", suspicions=1, suspected_unix_s=now + 0.3)
                 for index, id in enumerate(ids)]  # fmt: skip
        rows = [row(id, slots=64) for id in ids[14 if step else 0 :]]
        one = status(
            *rows, held=held, scheduler="scheduler-1", **(counters | {"outcomes": 123_456_789 + step * 90_000})
        )
        view.read(now + step / 2, reading(one, nodes=nodes, at_s=now, leader="assistant-0123456789abcdef"))
    view.heard(now + 1.0, [beat(id, age / 10, 10 - age) for age in range(9, -1, -1) for id in ids[14:]])
    return view


@pytest.mark.parametrize(("width", "height"), [(1920, 1080), (1280, 800), (3840, 2160)])
@pytest.mark.parametrize(("workers", "jobs"), [(0, 0), (20, 3), (60, 12), (500, 12)])
def test_all_of_it_is_on_one_screen(screen: Screen, width: int, height: int, workers: int, jobs: int) -> None:
    now = time.time()
    snapshot = msgspec.json.encode(crowd(workers, jobs, now).snapshot(now + 1.1))
    screen.page.set_viewport_size({"width": width, "height": height})
    with showing(lambda: snapshot) as address, screen.at(address):
        screen.until("(number) => document.querySelectorAll('.tile').length === number", min(workers, 200))
        screen.until("() => document.querySelectorAll('#figures div').length === 8")
        assert screen.page.evaluate(OUTSIDE) == []
        assert len(screen.texts(".card")) == (12 if workers else 0)


def test_a_narrow_window_scrolls_and_loses_nothing(screen: Screen) -> None:
    now = time.time()
    snapshot = msgspec.json.encode(crowd(20, 3, now).snapshot(now + 1.1))
    screen.page.set_viewport_size({"width": 800, "height": 900})
    with showing(lambda: snapshot) as address, screen.at(address):
        screen.until("() => document.querySelectorAll('.tile').length === 20")
        assert screen.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_hours_of_snapshots_do_not_fill_the_browser(screen: Screen) -> None:
    """Rows that go take their elements with them: names change all the time, the number of elements does not."""
    now = time.time()
    numbers = itertools.count()

    def frame() -> bytes:
        view = crowd(20, 3, now)
        snapshot = view.snapshot(now + 1.1)
        turn = next(numbers)
        for rows, key in ((snapshot["tiles"]["rows"], "id"), (snapshot["jobs"], "id"), (snapshot["incidents"], "n")):
            for one in rows:
                one[key] = f"{one[key]}-{turn}"
        return msgspec.json.encode(snapshot)

    with showing(frame) as address, screen.at(address):
        screen.until("() => document.querySelectorAll('.tile').length === 20")
        before = screen.page.evaluate("() => document.getElementsByTagName('*').length")
        screen.until("(turn) => document.querySelector('.tile .name').innerText.endsWith(turn)", "-12")
        assert screen.page.evaluate("() => document.getElementsByTagName('*').length") == before
