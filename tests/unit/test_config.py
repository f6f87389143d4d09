"""Settings: precedence, sources, the documented defaults, and errors that name what is wrong and where."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, strategies as st

from sparrowmq import config
from sparrowmq.config import Config, load
from sparrowmq.errors import ConfigError, UsageError
from sparrowmq.settings import SchedulerSettings, SecuritySettings
from sparrowmq.store import target

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
    assert docker.security == SecuritySettings(keys="/keys")
    assert docker.store.url == "redis://redis:6379/0"


def test_the_file_for_open_networks_says_keys_and_loads():
    secure = load(ROOT / "config" / "secure.toml")
    assert secure.security.keys
    assert not secure.security.insecure
    assert secure.scheduler.bind_workers == "tcp://0.0.0.0:7701"
    assert secure.store.url.startswith("rediss://")


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


def test_any_setting_from_a_file_that_a_variable_names(tmp_path):
    (tmp_path / "slots").write_text(" 7\n")
    (tmp_path / "password").write_text("hunter2\n")
    loaded = load(
        None,
        {
            "SPARROWMQ_WORKER_SLOTS_FILE": str(tmp_path / "slots"),
            "SPARROWMQ_STORE_PASSWORD_FILE": str(tmp_path / "password"),
            "SPARROWMQ_STORE_USERNAME_FILE": "",
            "SPARROWMQ_STORE_TLS_CA_FILE": "/ca",
            "SPARROWMQ_HEALTH_FILE": "/run/alive",
        },
    )
    assert (loaded.worker.slots, loaded.store.password, loaded.store.tls_ca_file) == (7, "hunter2", "/ca")
    assert loaded.health.file == "/run/alive"
    assert loaded.sources["worker.slots"] == f"environment variable SPARROWMQ_WORKER_SLOTS_FILE: {tmp_path}/slots"
    assert load(None, {"SPARROWMQ_WORKER_SLOTS_FILE": str(tmp_path / "slots")}, {"worker.slots": 2}).worker.slots == 2


def test_no_setting_is_called_as_another_ones_file():
    names = set(config.keys())
    assert not [key for key in names if f"{key}_file" in names]


@pytest.mark.parametrize(
    ("content", "environ", "reason"),
    [
        (b"7", {"SPARROWMQ_WORKER_SLOTS": "3"}, "worker.slots is given twice: by environment variable .*_SLOTS and by"),
        (None, {}, "SPARROWMQ_WORKER_SLOTS_FILE: .*/f cannot be read: No such file"),
        (b"\xff", {}, "SPARROWMQ_WORKER_SLOTS_FILE: .*/f is not UTF-8"),
        (b"many", {}, "SPARROWMQ_WORKER_SLOTS_FILE: .*/f: worker.slots: expected int.*'many'"),
        (b" " * (config.FILE_BYTES_MAX + 1), {}, "is larger than"),
    ],
)
def test_a_file_of_a_setting_that_cannot_be_used_is_named(tmp_path, content, environ, reason):
    if content is not None:
        (tmp_path / "f").write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        load(None, {"SPARROWMQ_WORKER_SLOTS_FILE": str(tmp_path / "f"), **environ})


def test_a_misspelt_variable_of_a_file_is_an_error():
    with pytest.raises(ConfigError, match="there is no such setting") as caught:
        load(None, {"SPARROWMQ_STORE_PASWORD_FILE": "/x"})
    assert caught.value.hint == "did you mean SPARROWMQ_STORE_PASSWORD_FILE?"


def test_bad_environment_value_and_flag():
    with pytest.raises(ConfigError, match=r"SPARROWMQ_WORKER_SLOTS: worker\.slots: expected int.*'many'"):
        load(None, {"SPARROWMQ_WORKER_SLOTS": "many"})
    with pytest.raises(ConfigError, match=r"flag: there is no setting worker\.slotz"):
        load(None, {}, {"worker.slotz": 1})


@pytest.mark.parametrize("key", sorted(config.HIDDEN))
def test_a_password_is_never_shown(key):
    with pytest.raises(ConfigError) as caught:
        load(None, {}, {key: 5.5})
    assert "(not shown)" in str(caught.value)
    loaded = load(None, {}, {key: "redis://bob:hunter2@h/0" if key == "store.url" else "hunter2"})
    assert config.shown(loaded, key) in ("redis://bob@h/0", "(not shown)")
    assert config.shown(Config(), key) == ""
    assert config.shown(loaded, "worker.slots") == 0


def test_every_key_that_may_hold_a_password_is_hidden():
    assert {key for key in config.keys() if "password" in key} <= config.HIDDEN  # noqa: SIM118


@pytest.mark.parametrize("key", ["store.username", "store.password"])
@pytest.mark.parametrize("url", ["redis://bob:hunter2@h", "redis://:hunter2@h", "redis+sentinel://bob@h/s"])
def test_credentials_are_given_once(key, url):
    with pytest.raises(
        ConfigError, match=f"flag: {key} is set, and store.url .* has a user or password, too"
    ) as caught:
        load(None, {"SPARROWMQ_STORE_URL": url}, {key: "hunter3"})
    assert "hunter" not in f"{caught.value} {caught.value.hint}"
    assert load(None, {"SPARROWMQ_STORE_URL": "redis://h"}, {key: "hunter3"}).store.url == "redis://h"


@pytest.mark.parametrize(
    "address", ["tcp://0.0.0.0:7701", "tcp://*:0", "tcp://[::]:1", "tcp://eth0:1", "tcp://10.1.2.3:7", "tcp://a.org:7"]
)
@pytest.mark.parametrize("key", ["bind_workers", "bind_clients"])
def test_binding_beyond_loopback_must_be_said(address, key):
    with pytest.raises(ConfigError, match=f"scheduler.{key}") as caught:
        load(None, {}, {f"scheduler.{key}": address})
    for way in ("`sparrowmq keys new`", "security.keys", "--insecure"):
        assert way in caught.value.hint
    assert load(None, {}, {f"scheduler.{key}": address, "security.insecure": True}).security.insecure
    assert load(None, {}, {f"scheduler.{key}": address, "security.keys": "/keys"}).security.keys == "/keys"
    assert load(None, {}, {f"scheduler.{key}": address}, exposed=False).security == SecuritySettings()


def test_keys_and_insecure_contradict_each_other():
    with pytest.raises(ConfigError, match=r"security\.keys = /keys and security\.insecure = true contradict") as caught:
        load(None, {"SPARROWMQ_SECURITY_KEYS": "/keys"}, {"security.insecure": True})
    assert "leave out --insecure" in caught.value.hint


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
    for url in ("redis://h", "redis://u:p@h:1/2", "rediss://h/0?ssl_cert_reqs=none", "unix:///tmp/s?db=0"):
        assert config.bad_store_url(url) == ""


@pytest.mark.parametrize(
    ("url", "sentinels", "service", "plain"),
    [
        ("redis+sentinel://a/main", (("a", 26379),), "main", "redis://sentinels/"),
        (
            "rediss+sentinel://u:p%2F@a:1,[::1]:2/main/3?x=y",
            (("a", 1), ("::1", 2)),
            "main",
            "rediss://u:p%2F@sentinels/3?x=y",
        ),
        ("redis+sentinel://:p@a,b:5/my%20set/0", (("a", 26379), ("b", 5)), "my set", "redis://:p@sentinels/0"),
    ],
)
def test_sentinels_are_understood(url, sentinels, service, plain):
    parsed = target.parse(url)
    assert (parsed.sentinels, parsed.service, parsed.plain) == (sentinels, service, plain)
    assert parsed.tls == url.startswith("rediss")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis+sentinel://a:1,b:2", "there is no name of a service"),
        ("redis+sentinel://a:1,b:x/main", "a port is a number"),
        ("redis+sentinel://a,,b/main", "there is no host"),
        ("redis+sentinel:///main", "there is no host"),
        ("redis+sentinel://a/main/x", "'x' is no database number"),
        ("redis+sentinel://" + ",".join("a" * 33) + "/main", "more than 32 sentinels"),
        ("redis+cluster://a", "redis+cluster://a is not a Redis URL"),
        ("redis://h:70000", "out of range"),
        ("unix://", "there is no path to a socket"),
    ],
)
def test_what_is_wrong_with_a_url_is_said(url, reason):
    assert reason in config.bad_store_url(url)


@given(password=st.text(alphabet="hunter2:/@?#%[] ", min_size=12), scheme=st.sampled_from(["redis", "redis+sentinel"]))
def test_no_part_of_a_password_is_shown_however_it_is_written(password, scheme):
    secret = f"S3CRET{password}S3CRET"
    url = f"{scheme}://bob:{secret}@h:6379/main"
    assert "S3CRET" not in config.bad_store_url(url) + target.describe(url)
    assert "S3CRET" not in config.bad_store_url(secret + "@h") + target.describe(secret + "@h")


@pytest.mark.parametrize(
    "url", ["redis://bob:hunter2@h:x/1", "bob:hunter2@h", "http://bob:hunter2@h", "redis://:hunter2@"]
)
def test_what_is_wrong_with_a_url_never_shows_its_password(url):
    said = config.bad_store_url(url)
    assert said
    assert "hunter2" not in said
