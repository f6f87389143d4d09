"""Memory of our processes: what a payload used, the next one finds."""

from __future__ import annotations

import subprocess
import sys

import pytest

PAGES = 256  # of 1 MiB

COUNT = """
import pickle, resource, sys
from sparrowmq.runtime import memory
if sys.argv[1] == "keep":
    memory.keep_freed()
data = bytes(1 << 20)
pickle.dumps(data, 5)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    pickle.dumps(data, 5)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator of glibc")
def test_payloads_in_a_row_use_the_same_memory():
    run = subprocess.run([sys.executable, "-c", COUNT, "keep"], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 10 * PAGES  # of 100 payloads; without it 25,000
