"""worker.preload as file, environment and flag write it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparrowmq.config import load
from sparrowmq.errors import ConfigError


def test_a_list_in_the_file_and_commas_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('[worker]\npreload = ["numpy", "mine:warm_up"]\n')
    assert load(file).worker.preload == ["numpy", "mine:warm_up"]
    variable = {"SPARROWMQ_WORKER_PRELOAD": "numpy, mine.models:load.all"}
    assert load(file, variable).worker.preload == ["numpy", "mine.models:load.all"]
    assert load(file, variable, {"worker.preload": ["os"]}).worker.preload == ["os"]
    assert load(file, {"SPARROWMQ_WORKER_PRELOAD": ""}).worker.preload == ["numpy", "mine:warm_up"]


@pytest.mark.parametrize("text", ["a b", "a:b:c", "a;b", "os.system('x')"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"SPARROWMQ_WORKER_PRELOAD: worker\.preload"):
        load(None, {"SPARROWMQ_WORKER_PRELOAD": text})
