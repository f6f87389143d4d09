"""What the README says to type does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(120)
def test_the_python_example_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(example)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["42", "4.0", "b'hello\\n'"]


@pytest.mark.timeout(180)
def test_the_guide_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python[^\n]*\n(.*?)```", (ROOT / "docs" / "guide.md").read_text(), re.DOTALL)
    script = tmp_path / "guide.py"
    script.write_text("\n".join([*blocks, "client.close()", "cluster.close()", "print('to the end')"]))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=150)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["to the end"]), done.stderr
