"""Settings: precedence, sources, the documented defaults, and errors that name what is wrong and where."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest

from sparrowmq import config
from sparrowmq.config import Config, load
from sparrowmq.errors import ConfigError, UsageError
from sparrowmq.settings import SchedulerSettings, SecuritySettings

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ROOT / "config" / "default.toml"


@pytest.fixture
def write(tmp_path: Path):
    def _write(text: str) -> Path:
        path = tmp_path / "my.toml"
        path.write_text(text)
        return path

    return _write


def flatten(table: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in table.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def test_default_toml_lists_every_key_in_order_with_its_default():
    document = flatten(tomllib.loads(DEFAULT.read_text()))
    defaults = msgspec.to_builtins(Config())
    defaults.pop("sources")
    assert document == flatten(defaults)
    assert list(document) == list(config.keys())


def test_every_key_of_default_toml_is_explained():
    explained = False
    for line in DEFAULT.read_text().splitlines():
        if not line or line.startswith("["):
            explained = False
        elif line.startswith("#"):
            explained = True
        else:
            assert explained, line


def test_shipped_files_load():
    assert msgspec.structs.replace(load(DEFAULT), sources={}) == Config()
    docker = load(ROOT / "config" / "docker.toml")
    assert docker.security.insecure
    assert docker.store.url == "redis://redis:6379/0"


def test_flag_beats_environment_beats_file_beats_default(write):
    path = write("[worker]\nslots = 2\nwindow_s = 1\ndrain_timeout_s = 3\n")
    loaded = load(
        path,
        {"SPARROWMQ_WORKER_SLOTS": "3", "SPARROWMQ_WORKER_WINDOW_S": "0.5", "PATH": "/bin"},
        {"worker.slots": 4, "worker.request_timeout_s": None},
    )
    assert (loaded.worker.slots, loaded.worker.window_s, loaded.worker.drain_timeout_s) == (4, 0.5, 3.0)
    assert loaded.worker.request_timeout_s == 1.0
    assert loaded.sources["worker.slots"] == "flag"
    assert loaded.sources["worker.window_s"] == "environment variable SPARROWMQ_WORKER_WINDOW_S"
    assert loaded.sources["worker.drain_timeout_s"] == f"{path}:4"
    assert loaded.sources["worker.request_timeout_s"] == "default"


def test_nested_key_from_file_and_environment(write):
    path = write("[scheduler.limits]\njobs = 5\n")
    loaded = load(path, {"SPARROWMQ_SCHEDULER_LIMITS_TASKS": "7", "SPARROWMQ_SECURITY_INSECURE": "true"})
    assert (loaded.scheduler.limits.jobs, loaded.scheduler.limits.tasks) == (5, 7)
    assert loaded.security.insecure is True


def test_file_named_by_the_environment(write):
    path = write("[log]\nlevel = 'debug'\n")
    assert load(None, {"SPARROWMQ_CONFIG": str(path)}).log.level == "debug"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[worker]\nslot = 2\n", ["my.toml:2", "worker.slot", "did you mean worker.slots?"]),
        ("[wroker]\nslots = 2\n", ["my.toml:1", "wroker", "did you mean worker?"]),
        ("slots = 2\n", ["my.toml:1", "no setting slots"]),
        ("worker = 2\n", ["my.toml:1", "worker is a table"]),
        ("[worker]\n\nslots = 'two'\n", ["my.toml:3", "worker.slots", "expected int, got str", "'two'"]),
        ("[worker]\nslots = -1\n", ["my.toml:2", "worker.slots", ">= 0", "-1"]),
        ("[worker]\nslots = true\n", ["worker.slots", "expected int, got bool"]),
        ("[worker]\nrequest_timeout_s = 0\n", ["worker.request_timeout_s", "> 0"]),
        ("[worker]\nrequest_timeout_s = nan\n", ["worker.request_timeout_s"]),
        ("[log]\nlevel = 'loud'\n", ["log.level", "'loud'"]),
        ("[scheduler]\nbind_clients = 'http://x'\n", ["scheduler.bind_clients"]),
        ("[worker\n", ["my.toml", "not TOML", "line 1"]),
        ("[worker.slots]\nx = 1\n", ["worker.slots", "expected int"]),
    ],
)
def test_bad_file_is_named_by_file_line_and_key(write, text, expected):
    with pytest.raises(ConfigError) as caught:
        load(write(text))
    said = f"{caught.value} {caught.value.hint}"
    for part in expected:
        assert part in said
    assert caught.value.exit_code == 4


def test_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*absent\.toml: No such file"):
        load(tmp_path / "absent.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(binary)
    huge = tmp_path / "huge.toml"
    huge.write_bytes(b"#" * (config.FILE_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load(huge)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SPARROWMQ_WORKER_SLOT", "SPARROWMQ_WORKER_SLOTS"),
        ("SPARROWMQ_WROKER_SLOTS", "SPARROWMQ_WORKER_SLOTS"),
        ("SPARROWMQ_STORE_URI", "SPARROWMQ_STORE_URL"),
    ],
)
def test_misspelt_environment_variable(name, nearest):
    with pytest.raises(ConfigError, match=name) as caught:
        load(None, {name: "1"})
    assert caught.value.hint == f"did you mean {nearest}?"


def test_foreign_and_empty_variables_are_left_alone():
    loaded = load(
        None,
        {
            "SPARROWMQ_JOB": "j",
            "SPARROWMQ_TASK": "1",
            "SPARROWMQ_WORKER_SERVICE_HOST": "10.0.0.1",
            "SPARROWMQ_WORKER_PORT_7701_TCP_ADDR": "10.0.0.1",
            "SPARROWMQ_QUUX_DIR": "x",
            "SPARROWMQ_WORKER_SLOTS": "",
        },
    )
    assert set(loaded.sources.values()) == {"default"}


def test_bad_environment_value_and_flag():
    with pytest.raises(ConfigError, match=r"SPARROWMQ_WORKER_SLOTS: worker\.slots: expected int.*'many'"):
        load(None, {"SPARROWMQ_WORKER_SLOTS": "many"})
    with pytest.raises(ConfigError, match=r"flag: there is no setting worker\.slotz"):
        load(None, {}, {"worker.slotz": 1})


def test_a_password_is_never_shown():
    with pytest.raises(ConfigError) as caught:
        load(None, {}, {"store.url": 5.5})
    assert "(not shown)" in str(caught.value)


@pytest.mark.parametrize(
    "address", ["tcp://0.0.0.0:7701", "tcp://*:0", "tcp://[::]:1", "tcp://eth0:1", "tcp://10.1.2.3:7", "tcp://a.org:7"]
)
@pytest.mark.parametrize("key", ["bind_workers", "bind_clients"])
def test_binding_beyond_loopback_must_be_said(address, key):
    with pytest.raises(ConfigError, match=f"scheduler.{key}") as caught:
        load(None, {}, {f"scheduler.{key}": address})
    assert "--insecure" in caught.value.hint
    assert load(None, {}, {f"scheduler.{key}": address, "security.insecure": True}).security.insecure


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:0", "tcp://127.3.2.1:0", "tcp://[::1]:9", "tcp://localhost:*", "ipc:///tmp/x"]
)
def test_loopback_needs_no_word(address):
    config.check_exposure(SchedulerSettings(bind_workers=address, bind_clients=address), SecuritySettings())


def test_durations_may_have_units(write):
    loaded = load(
        write("[worker]\ndrain_timeout_s = '2m'\n[client]\nconnect_timeout_s = 3\n"),
        {"SPARROWMQ_WORKER_WINDOW_S": "20ms"},
        {"scheduler.drain_timeout_s": "1.5h"},
    )
    assert (loaded.worker.drain_timeout_s, loaded.worker.window_s) == (120.0, 0.02)
    assert (loaded.scheduler.drain_timeout_s, loaded.client.connect_timeout_s) == (5400.0, 3.0)
    for text in ("soon", "-1s", "1e5", "inf"):
        with pytest.raises(ConfigError, match=rf"my\.toml:2: worker\.window_s: '{text}' is no duration"):
            load(write(f"[worker]\nwindow_s = '{text}'\n"))
    with pytest.raises(ConfigError, match=r"worker\.window_s.*<= 86400"):
        load(write("[worker]\nwindow_s = '25h'\n"))


def test_an_address_is_explained_by_an_example(write):
    with pytest.raises(ConfigError, match=r"expected an address such as tcp://127\.0\.0\.1:7701") as caught:
        load(write("[scheduler]\nbind_workers = '0.0.0.0'\n"))
    assert "regex" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "longer", "shorter"),
    [
        ("[worker]\nsilent_after_s = 1\n", "worker.silent_after_s = 1", "worker.ping_interval_s = 1"),
        ("[scheduler]\nping_interval_s = 20\n", "scheduler.silent_after_s = 10", "scheduler.ping_interval_s = 20"),
        ("[client]\nsilent_after_s = '500ms'\n", "client.silent_after_s = 0.5", "client.ping_interval_s = 1"),
        ("[store]\nttl_s = 1\n", "store.ttl_s = 1", "store.refresh_interval_s = 2"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_with_both_values(write, text, longer, shorter):
    with pytest.raises(ConfigError, match=f"{longer} must be greater than {shorter}") as caught:
        load(write(text))
    assert "my.toml:2" in str(caught.value)


def test_a_redis_url_is_checked_where_it_is_said(write):
    with pytest.raises(UsageError, match="--redis: foo is not a Redis URL"):
        load(None, {}, {"store.url": "foo"})
    with pytest.raises(ConfigError, match=r"my\.toml:2: store\.url: foo is not a Redis URL"):
        load(write("[store]\nurl = 'foo'\n"))
    with pytest.raises(ConfigError, match=r"SPARROWMQ_STORE_URL: store\.url"):
        load(None, {"SPARROWMQ_STORE_URL": "redis://bob:hunter2@h:0/1"})
    for url in ("redis://h", "redis://u:p@h:1/2", "rediss://h/0?ssl_cert_reqs=none", "unix:///tmp/s?db=0", ""):
        assert config.bad_store_url(url) == "" or not url


@pytest.mark.parametrize(
    "url", ["redis://bob:hunter2@h:x/1", "bob:hunter2@h", "http://bob:hunter2@h", "redis://:hunter2@"]
)
def test_what_is_wrong_with_a_url_never_shows_its_password(url):
    said = config.bad_store_url(url)
    assert said
    assert "hunter2" not in said
