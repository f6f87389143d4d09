"""What a future costs: a map of a million tasks holds a million of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import tracemalloc
from sparrowmq.client.future import Batch
from sparrowmq.payload import python
from sparrowmq.protocol import messages as m

N = 20_000
early = Batch("early", m.PYTHON, 100, None)  # before any of them has an outcome
tracemalloc.start()
batch = Batch("job", m.PYTHON, N, None)
futures = batch.futures
batch.settle(range(N), bytes(N), [python.dump_result(None)] * N)
assert all(future.result() is None for future in futures)
print(tracemalloc.get_traced_memory()[0] / N)
"""


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="the layout of objects is another one")
def test_a_future_has_no_dictionary_of_its_own() -> None:
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 260.0
