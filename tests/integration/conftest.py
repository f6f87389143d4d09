"""What several integration tests start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparrowmq.store.embedded import EmbeddedServer


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    embedded = EmbeddedServer(tmp_path_factory.mktemp("v"))
    embedded.launch()
    embedded.wait_ready()
    yield embedded
    embedded.stop()
