"""A cluster with keys, of real processes over TCP, that the tests here attack."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparrowmq.client.client import Client
from sparrowmq.local import LocalCluster
from sparrowmq.security import keyring
from sparrowmq.security.making import Tree
from sparrowmq.settings import SchedulerSettings, SecuritySettings, StoreSettings
from sparrowmq.store.registry import Registry, SchedulerRecord
from tests.support.attackers import Honest, Peer
from tests.support.scheduler import hello


@pytest.fixture(scope="package")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = Tree(tmp_path_factory.mktemp("keys") / "keys")
    with tree.changing():
        tree.complete("sq:")
    return tree.root


@pytest.fixture(scope="package")
def cluster(keys: Path) -> Iterator[LocalCluster]:
    tcp = SchedulerSettings(bind_workers="tcp://127.0.0.1:*", bind_clients="tcp://127.0.0.1:*")
    with LocalCluster(workers=2, scheduler=tcp, security=SecuritySettings(keys=str(keys))) as made:
        yield made


@pytest.fixture(scope="package")
def target(cluster: LocalCluster) -> SchedulerRecord:
    """Where the scheduler listens."""
    registry = Registry(StoreSettings(url=cluster.url))
    [record] = registry.schedulers().values()
    registry.close()
    return record


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as made:
        yield made


@pytest.fixture
def honest(client: Client) -> Iterator[Honest]:
    """Somebody who works while the test attacks, and must not notice."""
    with Honest(client).at_work() as at_work:
        yield at_work


@pytest.fixture
def witness(target: SchedulerRecord, keys: Path) -> Iterator[Peer]:
    """A client in order, by whom the scheduler's counters can be asked for."""
    with Peer(target.address_clients, keyring.load_credentials(keys, "client")) as peer:
        peer.introduce(hello("client", f"witness-{uuid.uuid4().hex}"))  # an id is its key's, and keys are new each time
        yield peer
