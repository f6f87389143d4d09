"""`sparrowmq keys`: what it prints, that it never prints a secret, and mistakes."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from sparrowmq.cli.main import main
from sparrowmq.security.keyring import load_credentials, load_trust

MADE = 18


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("SPARROWMQ_SECURITY_KEYS", "SPARROWMQ_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], here: Path):
    def _run(*words: str) -> tuple[int, str]:
        status = main(["keys", *words])
        out, err = capsys.readouterr()
        said = out + err
        for file in here.rglob("*"):
            if file.is_file() and file.suffix in (".secret", ".password", ".key"):
                assert file.read_text().strip() not in said, file
        return status, said

    return _run


def test_new_makes_a_cluster_once_and_says_what(run, here):
    status, said = run("new")
    assert status == 0
    assert f"keys: made {MADE} files" in said
    assert "keys/scheduler/server.key" in said
    assert "set SPARROWMQ_SECURITY_KEYS to the directory above it" in said
    assert run("new") == (0, "keys: complete, nothing was made\n")
    (here / "keys" / "worker" / "server.pub").unlink()
    status, said = run("new", "--dir", "keys", "-o", "json")
    assert json.loads(said)["made"] == ["keys/worker/server.pub"]


def test_the_directory_is_where_it_was_said(run, here, monkeypatch):
    assert run("new", "./there")[0] == 0
    assert load_trust("there")
    monkeypatch.setenv("SPARROWMQ_SECURITY_KEYS", str(here / "configured"))
    assert run("new", "-o", "quiet") == (0, f"{here}/configured\n")
    assert run("list", "-o", "quiet")[0] == 0
    assert run("new", "--dir", "given")[0] == 0
    assert sorted(path.name for path in here.iterdir()) == ["configured", "given", "there"]


def test_keys_can_be_made_for_what_may_not_start_without(run, here):
    (here / "my.toml").write_text("[scheduler]\nbind_workers = 'tcp://0.0.0.0:7701'\n[store]\nprefix = 'mine:'\n")
    assert main(["config", "check", "my.toml"]) == 4
    assert run("new", "-c", "my.toml")[0] == 0
    assert "~mine:worker:*" in (here / "keys" / "redis" / "users.acl").read_text()


def test_a_listed_key_is_handed_out_listed_and_revoked(run, here):
    run("new")
    status, said = run("new", "laptop", "--role", "client")
    assert (status, "laptop is listed as client. Hand out this directory" in said) == (0, True)
    assert "Its jobs are its own. Have Redis read users.acl again (ACL LOAD)." in said
    assert run("new", "laptop", "--role", "client") == (0, "keys/listed/laptop: complete, nothing was made\n")
    key = load_credentials("keys/listed/laptop", "client").public_key
    assert stat.S_IMODE((here / "keys" / "listed" / "laptop" / "client" / "peer.key").stat().st_mode) == 0o600
    rows = {row["id"]: row for row in json.loads(run("list", "-o", "json")[1])}
    assert (rows["laptop"]["state"], rows["laptop"]["key"]) == ("ok", key.decode())
    assert [row["kind"] for row in rows.values()] == ["server", "secret", "secret", "secret", "listed"]
    status, said = run("revoke", "laptop")
    assert (status, "laptop is revoked: key" in said) == (0, True)
    assert "Its Redis user is removed. Have Redis read users.acl again (ACL LOAD)." in said
    assert load_trust("keys").admits(key)
    assert run("revoke", "laptop") == (0, "laptop was revoked before\n")
    assert "revoked" in run("list")[1]
    other = "0" * 40
    assert json.loads(run("revoke", other, "-o", "json")[1])[0]["key"] == other
    status, said = run("new", "desk", "--role", "worker", "--out", "usb")
    assert (status, "ACL LOAD" in said) == (0, False), "it goes by the user of all workers"
    assert load_credentials("usb", "worker").secret == b""


def test_a_role_is_revoked(run):
    run("new")
    before = load_credentials("keys", "client")
    status, said = run("revoke", "client")
    assert (status, "a new secret and a new Redis password" in said, "ACL LOAD" in said) == (0, True, True)
    assert "beside a listed key" not in said, "a listed client has one of its own"
    assert "beside a listed key" in run("revoke", "worker")[1]
    assert load_trust("keys").verify(before.public_key, "client", "c", before.proof("c"))


@pytest.mark.parametrize(
    ("words", "status", "reason", "hint"),
    [
        (["new", "laptop"], 2, "what may laptop be? --role is missing", "sparrowmq keys new --dir laptop"),
        (["new", "--role", "client"], 2, "a name is missing", "sparrowmq keys new NAME --role client"),
        (["new", "--out", "x"], 2, "a name is missing", "--role"),
        (["new", "a b", "--role", "client"], 2, "'a b' is no name for a key", "letters"),
        (["new", "worker", "--role", "client"], 2, "'worker' is no name for a key", "none of the roles"),
        (["new", "x", "--role", "king"], 2, "'king' is not one of", ""),
        (["new", "x", "--role", "client", "--dir", "absent"], 4, "there are no keys for a scheduler", "keys new"),
        (["list", "--dir", "absent"], 4, "there are no keys for a scheduler", "keys new"),
        (["revoke", "x", "--dir", "absent"], 4, "there are no keys for a scheduler", "keys new"),
        (["revoke", "nobody"], 2, "'nobody' is no name", "keys list"),
        (["revoke", "scheduler"], 2, "nothing less than new keys for all", "keys new --dir"),
        (["revoke"], 2, "Missing argument", ""),
    ],
)
def test_mistakes_are_explained_and_change_nothing(run, here, words, status, reason, hint):
    run("new")
    before = {file: file.read_bytes() for file in here.rglob("*") if file.is_file()}
    found, said = run(*words)
    assert (found, reason in said, hint in said) == (status, True, True), said
    assert {file: file.read_bytes() for file in here.rglob("*") if file.is_file()} == before


def test_a_mistake_in_the_files_stops_every_command(run, here):
    run("new")
    (here / "keys" / "scheduler" / "client.secret").chmod(0o644)
    for words in (["new", "x", "--role", "client"], ["list"], ["revoke", "client"], ["new"]):
        status, said = run(*words)
        assert (status, "chmod 600 keys/scheduler/client.secret" in said) == (4, True), said
    status, said = run("list", "-o", "json")
    assert json.loads(said)["code"] == "security"
