"""Assistants as processes, beside real workers and schedulers: who is suspected, declared dead and back, who leads."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from click.testing import CliRunner

from sparrowmq.cli.main import root
from sparrowmq.client.client import Client
from sparrowmq.local import LocalCluster, Member
from sparrowmq.settings import AssistantSettings, StoreSettings
from sparrowmq.store import lease
from sparrowmq.store.registry import Registry
from tests.support.store import until

pytestmark = pytest.mark.timeout(120)
SLOWLY = AssistantSettings(confirm_beats=15.0)  # suspicion lasts long enough to be looked at


def call(cluster: LocalCluster, *words: str) -> str:
    done = CliRunner().invoke(root, ["--redis", cluster.url, *words], standalone_mode=False, catch_exceptions=False)
    return done.output


def shown(cluster: LocalCluster) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(call(cluster, "assistant", "show", "-o", "json"))
    return rows


def nodes(cluster: LocalCluster) -> list[dict[str, Any]]:
    """The nodes as the leader sees them."""
    rows = shown(cluster)
    return rows[0].get("nodes", []) if rows else []


def states(cluster: LocalCluster) -> dict[str, str]:
    return {node["id"]: node["state"] for node in nodes(cluster)}


def listed(cluster: LocalCluster) -> dict[str, str]:
    """The state column of `worker list`."""
    return {row["id"]: row["state"] for row in json.loads(call(cluster, "worker", "list", "-o", "json"))}


def leader(cluster: LocalCluster) -> str:
    """The id of the assistant that holds the lease, "" if none does."""
    return lease.leader(StoreSettings(url=cluster.url))[0].partition(":")[0]


@contextmanager
def frozen(member: Member) -> Iterator[None]:
    os.kill(member.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(member.pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=2, schedulers=2, assistant=SLOWLY) as made:
        names = {member.id for member in (*made.workers, *made.schedulers)}
        until(lambda: states(made) == dict.fromkeys(names, "alive"), 15.0)
        yield made


def test_everybody_is_named_alive(cluster):
    (row,) = shown(cluster)
    (member,) = cluster.assistants
    assert (row["id"], row["pid"], row["leads"], row["detector"]) == (member.id, member.pid, True, "chen")
    until(lambda: shown(cluster)[0]["schedulers"] == sorted(scheduler.id for scheduler in cluster.schedulers))
    table = call(cluster, "assistant", "show")
    assert f"{member.id}  " in table
    assert "leads (term " in table
    assert "4 alive" in table
    for other in (*cluster.workers, *cluster.schedulers):
        assert other.id in table
    assert "2 nodes more" not in table
    assert "... and 3 nodes more (--top)" in call(cluster, "assistant", "show", "--top", "1")
    assert call(cluster, "assistant", "show", "-o", "quiet") == f"{member.id}\n"


def test_a_stopped_worker_is_suspected_then_dead_and_comes_back(cluster):
    victim = cluster.workers[0]
    with frozen(victim):
        until(lambda: states(cluster)[victim.id] == "suspect")
        assert listed(cluster)[victim.id] == "suspect"
        until(lambda: states(cluster)[victim.id] == "dead")
        until(lambda: listed(cluster).get(victim.id) != "suspect")
    until(lambda: states(cluster)[victim.id] == "alive")
    until(lambda: listed(cluster).get(victim.id) == "alive")
    until(lambda: shown(cluster)[0]["refuted"] == 1)
    assert shown(cluster)[0]["deaths"] == 1


def test_a_frozen_scheduler_is_marked_in_the_registry_until_it_goes_on(cluster):
    registry, victim = Registry(StoreSettings(url=cluster.url)), cluster.schedulers[1]
    deaths = shown(cluster)[0]["deaths"]
    with frozen(victim):
        until(lambda: "no beat for" in registry.schedulers()[victim.id].dead)
        assert registry.schedulers()[cluster.schedulers[0].id].dead == ""
    until(lambda: registry.schedulers()[victim.id].dead == "")
    until(lambda: shown(cluster)[0]["refuted"] == deaths + 1)
    assert states(cluster)[victim.id] == "alive"
    with Client(cluster) as client:
        assert client.gather(client.map(abs, range(-20, 0)), 30.0) == list(range(20, 0, -1))


def test_a_store_that_is_killed_is_no_death(cluster):
    deaths = shown(cluster)[0]["deaths"]
    heard = {node["id"]: node["beats"] for node in shown(cluster)[0]["nodes"]}
    cluster.kill_store()
    until(lambda: {node["id"] for node in nodes(cluster) if node["beats"] > heard[node["id"]] + 10} == heard.keys())
    until(lambda: leader(cluster) == cluster.assistants[0].id)
    (row,) = shown(cluster)
    assert (row["deaths"], {node["state"] for node in row["nodes"]}) == (deaths, {"alive"})


def test_who_leaves_in_order_is_not_declared_dead(cluster):
    deaths = shown(cluster)[0]["deaths"]
    added = cluster.add_worker()
    until(lambda: states(cluster).get(added.id) == "alive")
    cluster.scale(2)
    until(lambda: added.id not in states(cluster))
    assert shown(cluster)[0]["deaths"] == deaths


# Several of them.


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_next_one_leads_within_a_second(number):
    with LocalCluster(workers=1, assistants=2) as cluster, Client(cluster) as client:
        until(lambda: leader(cluster))
        names = [member.id for member in cluster.assistants]
        first = names.index(leader(cluster))
        (other,) = set(names) - {names[first]}
        began = time.monotonic()
        cluster.kill_assistant(first, number)
        until(lambda: leader(cluster) == other)
        assert time.monotonic() - began < 1.0
        until(lambda: shown(cluster)[0]["id"] == other and shown(cluster)[0]["schedulers"])
        assert client.submit(abs, -1).result(10.0) == 1
        added = cluster.add_assistant()
        until(lambda: [row["id"] for row in shown(cluster) if "nodes" in row and not row["leads"]][-1:] == [added.id])


def test_a_leader_that_was_frozen_does_not_lead_any_more():
    with LocalCluster(workers=1, assistants=2) as cluster:
        until(lambda: leader(cluster))
        (first,) = [member for member in cluster.assistants if member.id == leader(cluster)]
        (other,) = set(cluster.assistants) - {first}
        with frozen(first):
            until(lambda: leader(cluster) == other.id)
        until(lambda: {row["id"]: row.get("term", 0) for row in shown(cluster)}[first.id] == 0)
        (row,) = [row for row in shown(cluster) if row["leads"]]
        assert row["id"] == other.id
        assert row["term"] > 0
        assert [row["deaths"] for row in shown(cluster)] == [0, 0]


def test_a_cluster_without_an_assistant():
    with LocalCluster(workers=1, assistants=0) as cluster, Client(cluster) as client:
        assert client.submit(abs, -1).result(10.0) == 1
        assert shown(cluster) == []
        assert call(cluster, "assistant", "show").startswith("no assistant runs")
        assert cluster.assistants == []


def test_an_assistant_that_fails_is_replaced():
    with LocalCluster(workers=0, restart=True) as cluster:
        killed = cluster.kill_assistant()
        until(lambda: cluster.assistants)
        assert killed not in cluster.assistants
        until(lambda: leader(cluster) == cluster.assistants[0].id)


def test_a_report_that_is_none_does_not_hide_the_others(cluster):
    registry = Registry(StoreSettings(url=cluster.url))
    (member,) = cluster.assistants
    written: Callable[[], object] = lambda: registry.tell(member.id, b"{")  # noqa: E731
    until(lambda: (written(), "nodes" not in shown(cluster)[0])[1])
    (row,) = shown(cluster)
    assert row["id"] == member.id
    until(lambda: "nodes" in shown(cluster)[0])
