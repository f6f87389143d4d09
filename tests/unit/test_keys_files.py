"""Key files: made once whatever happens, read only where they are safe, and every mistake named with its file."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from sparrowmq.errors import SecurityError, UsageError
from sparrowmq.security import keyring
from sparrowmq.security.keyring import load_credentials, load_trust, owner_in, redis_password, redis_user, stamp
from sparrowmq.security.making import Tree
from sparrowmq.security.redis_acl import users

ROLES = ("worker", "assistant", "client")
FILES = {
    "scheduler": {
        "server.key", "server.pub", "redis.password", "peers.toml", "revoked.txt", ".lock",
        "worker.secret", "assistant.secret", "client.secret",
    },
    "worker": {"server.pub", "worker.secret", "redis.password"},
    "assistant": {"server.pub", "assistant.secret", "redis.password"},
    "client": {"server.pub", "client.secret", "redis.password"},
    "redis": {"users.acl"},
}  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return complete(tmp_path / "keys")


def complete(root: Path) -> Tree:
    made = Tree(root)
    with made.changing():
        made.complete("sq:")
    return made


def contents(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def test_each_part_has_what_its_role_may_know_and_nobody_else_may_read_it(tree: Tree) -> None:
    assert {part.name: set(os.listdir(part)) for part in tree.root.iterdir()} == FILES
    for path in tree.root.rglob("*"):
        if path.name != ".lock":
            assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    secrets = {(tree.root / role / f"{role}.secret").read_text() for role in ROLES}
    passwords = {redis_password(tree.root, role) for role in ("scheduler", *ROLES)}
    assert (len(secrets), len(passwords)) == (3, 4), "no two roles share one"


def test_who_connects_is_known_to_the_schedulers(tree: Tree) -> None:
    trust = load_trust(tree.root)
    for role in ROLES:
        one, other = load_credentials(tree.root, role), load_credentials(str(tree.root), role)
        assert one.public_key != other.public_key, "each makes its own"
        assert one.server_key == trust.server_public
        assert trust.verify(one.public_key, role, "x", one.proof("x")) == ""


def test_what_is_there_is_kept_and_what_is_missing_is_made_again(tree: Tree) -> None:
    before = contents(tree.root)
    assert complete(tree.root).made == []
    assert contents(tree.root) == before
    lost = {
        "worker/server.pub",
        "worker/worker.secret",
        "scheduler/server.pub",
        "redis/users.acl",
        "scheduler/peers.toml",
    }
    for name in lost:
        (tree.root / name).unlink()
    made = complete(tree.root).made
    assert {str(file.relative_to(tree.root)) for file in made} == lost
    assert contents(tree.root) == before


@pytest.mark.parametrize("stop_after", range(1, 18))
def test_whenever_it_is_interrupted_the_next_run_completes_it(tmp_path: Path, stop_after: int) -> None:
    root = tmp_path / "keys"

    class Interrupted(Tree):
        def _write(self, file: Path, text: str) -> None:
            if len(self.made) == stop_after:
                raise KeyboardInterrupt
            super()._write(file, text)

    interrupted = Interrupted(root)
    with pytest.raises(KeyboardInterrupt), interrupted.changing():
        interrupted.complete("sq:")
    before = contents(root)
    made = complete(root).made
    assert contents(root) | before == contents(root), "nothing that was there is another"
    assert len(made) == 18 - stop_after
    load_trust(root)


def test_several_at_once_make_it_once(tmp_path: Path) -> None:
    trees = [Tree(tmp_path / "keys") for _ in range(8)]
    barrier = threading.Barrier(len(trees))

    def run(one: Tree) -> None:
        barrier.wait()
        with one.changing():
            one.complete("sq:")

    threads = [threading.Thread(target=run, args=(one,)) for one in trees]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(one.made) for one in trees) == [0] * 7 + [18]
    assert not [file for file in (tmp_path / "keys").rglob(".*") if file.name != ".lock"], "nothing is left behind"


def test_parts_that_are_mounted_one_by_one_are_filled_where_they_are(tmp_path: Path) -> None:
    root = tmp_path / "keys"
    for part in FILES:
        (root / part).mkdir(parents=True)
    root.chmod(0o500)
    try:
        complete(root)
        assert {part.name: set(os.listdir(part)) for part in root.iterdir()} == FILES
    finally:
        root.chmod(0o700)


def test_a_part_alone_is_not_made_into_another_cluster(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tree.root / "worker").rename(tmp_path / "part" / "worker")
    with pytest.raises(SecurityError, match="this is a part of a cluster's keys"):
        complete(tmp_path / "part")
    assert "worker.secret" in os.listdir(tmp_path / "part" / "worker")
    complete(tree.root)
    (tree.root / "worker" / "server.pub").write_text((complete(tmp_path / "b").root / "worker/server.pub").read_text())
    with pytest.raises(SecurityError, match=r"worker/server\.pub is not the public key of .*two clusters"):
        complete(tree.root)


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o644, 0o660, 0o666, 0o610, 0o601])
@pytest.mark.parametrize("file", ["server.key", "client.secret"])
def test_a_secret_that_is_open_to_others_is_refused_with_what_to_do(tree: Tree, file: str, mode: int) -> None:
    path = tree.root / "scheduler" / file
    path.chmod(mode)
    with pytest.raises(SecurityError) as caught:
        load_trust(tree.root)
    assert f"{path} has mode {mode:04o}" in str(caught.value)
    assert caught.value.hint == f"chmod 600 {path}"
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640])
def test_a_group_may_read_it(tree: Tree, mode: int) -> None:
    for name in ("worker.secret", "redis.password"):
        (tree.root / "worker" / name).chmod(mode)
    assert load_credentials(tree.root, "worker").secret
    assert redis_password(tree.root, "worker")


def test_links_are_followed_to_what_they_name(tree: Tree) -> None:
    """A mounted Kubernetes secret is a directory of links to files in a directory that is replaced as a whole."""
    place = tree.root / "scheduler"
    place.rename(tree.root / "..data")
    place.mkdir()
    for name in os.listdir(tree.root / "..data"):
        (place / name).symlink_to(Path("..") / "..data" / name)
    before, trust = stamp(tree.root), load_trust(tree.root)
    assert trust.secrets.keys() == set(ROLES)
    (tree.root / "..data" / "revoked.txt").write_text("# changed\n")
    assert stamp(tree.root) != before


def test_others_may_write_no_file_of_it(tree: Tree) -> None:
    (tree.root / "worker" / "server.pub").chmod(0o666)
    with pytest.raises(SecurityError, match=r"server\.pub has mode 0666: everybody can write it"):
        load_credentials(tree.root, "worker")


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("scheduler/server.key", b"short", "holds no key: expected 40 characters"),
        ("scheduler/server.key", b"#" * 40, "holds no key"),
        ("scheduler/server.key", b"x" * 5000, "larger than 4,096 bytes"),
        ("scheduler/worker.secret", b"", "holds no secret: expected one line of 32 printable"),
        ("scheduler/worker.secret", b"x" * 31, "holds no secret"),
        ("scheduler/worker.secret", b"x" * 16 + b"\n" + b"x" * 16, "holds no secret"),
        ("scheduler/worker.secret", b"\xff" * 40, "holds no secret"),
        ("scheduler/peers.toml", b"[[peer]\n", "is no list of keys"),
        ("scheduler/peers.toml", b"\xff", "is no list of keys"),
        ("scheduler/peers.toml", b"peer = 3\n", "is no list of keys"),
        ("scheduler/peers.toml", b'[[peer]]\nname = "a"\nrole = "client"\n', "is no list of keys"),
        ("scheduler/peers.toml", b'[[peer]]\nname = "a"\nrole = "client"\nkey = "x"\n', "peer a: its key is none"),
        ("scheduler/peers.toml", b'[[peer]]\nname = "a"\nrole = "king"\nkey = "x"\n', "'king' is none of worker"),
        ("scheduler/peers.toml", b'[[peer]]\nname = "a b"\nrole = "client"\nkey = "x"\n', "is no list of keys"),
        ("scheduler/revoked.txt", b"# fine\n\nnobody\n", r"revoked\.txt:3: 'nobody' is neither a key nor a name"),
    ],
)
def test_a_file_that_says_something_else_is_named(tree: Tree, file: str, text: bytes, reason: str) -> None:
    path = tree.root / file
    path.write_bytes(text)
    with pytest.raises(SecurityError, match=reason) as caught:
        load_trust(tree.root)
    assert str(path) in str(caught.value)


def test_what_is_missing_is_named_with_where_it_comes_from(tree: Tree) -> None:
    with pytest.raises(SecurityError, match="there are no keys for a scheduler") as caught:
        load_trust(tree.root / "absent")
    assert "sparrowmq keys new" in caught.value.hint
    with pytest.raises(SecurityError, match="no keys for a worker") as caught:
        load_credentials(tree.root / "worker", "worker")
    assert caught.value.hint == f"security.keys names the directory above worker/: use {tree.root}"
    (tree.root / "worker" / "worker.secret").unlink()
    with pytest.raises(SecurityError, match=r"worker/worker\.secret is missing"):
        load_credentials(tree.root, "worker")
    (tree.root / "worker" / "redis.password").unlink()
    assert redis_password(tree.root, "worker") is None
    (tree.root / "scheduler" / "worker.secret").unlink()
    assert set(load_trust(tree.root).secrets) == {"assistant", "client"}


def list_peer(tree: Tree, name: str, role: str = "client") -> Path:
    out = tree.root / "listed" / name
    with tree.changing():
        tree.list_peer(name, role, out, "sq:")
    return out


def test_a_listed_key_is_known_by_its_name_until_it_is_revoked(tree: Tree) -> None:
    out = list_peer(tree, "laptop")
    credentials, before = load_credentials(out, "client"), stamp(tree.root)
    assert credentials.secret == b""
    trust = load_trust(tree.root)
    assert trust.listed == {credentials.public_key: ("client", "laptop")}
    assert trust.verify(credentials.public_key, "client", "x", b"") == ""
    assert (redis_user(out, "client"), owner_in(out, "client")) == (f"client-{credentials.owner}", credentials.owner)
    assert redis_password(out, "client") != redis_password(tree.root, "client")
    assert tree.revoke_key("laptop") == [(credentials.public_key.decode(), "laptop")]
    assert tree.revoke_key("laptop") == []
    assert stamp(tree.root) != before
    assert "of laptop is revoked" in load_trust(tree.root).admits(credentials.public_key)
    list_peer(tree, "laptop")  # a new one by the same name, in the same place
    trust, renewed = load_trust(tree.root), load_credentials(out, "client")
    assert renewed.public_key != credentials.public_key
    assert (trust.admits(renewed.public_key), trust.admits(credentials.public_key) != "") == ("", True)


def listed_lines(tree: Tree) -> list[str]:
    lines = (tree.root / "redis" / "users.acl").read_text().splitlines()
    return [line for line in lines if line.startswith("user client-")]


def test_a_listed_client_has_a_redis_user_of_its_own_as_long_as_it_is_listed(tree: Tree) -> None:
    file = tree.root / "redis" / "users.acl"
    file.write_text(file.read_text() + "user backup on nopass ~* +@read\n")
    outs = {name: list_peer(tree, name) for name in ("laptop", "desk")}
    list_peer(tree, "node", "worker")
    users_of = {name: redis_user(out, "client") for name, out in outs.items()}
    passwords = {name: redis_password(out, "client") for name, out in outs.items()}
    assert len({*passwords.values(), redis_password(tree.root, "client")}) == 3
    assert [line.split()[1] for line in listed_lines(tree)] == list(users_of.values())
    for name, line in zip(outs, listed_lines(tree), strict=True):
        tag, digest = owner_in(outs[name], "client"), hashlib.sha256((passwords[name] or "").encode()).hexdigest()
        assert f" #{digest} " in line
        assert line.endswith(f"(-@all +hmget %R~sq:job:*.{tag}) (-@all +xread %R~sq:outcomes:*.{tag})")
        assert line.count("job:") == line.count("outcomes:") == 1
    assert complete(tree.root).made == [], "nothing is forgotten"
    assert redis_user(tree.root, "client") == "client"
    assert redis_user(tree.root / "listed" / "node", "worker") == "worker", "members of other roles are not told apart"

    before = listed_lines(tree)
    tree.revoke_key("laptop")
    assert listed_lines(tree) == before[1:]
    assert "user backup on" in file.read_text()
    list_peer(tree, "laptop")
    assert redis_user(outs["laptop"], "client") != users_of["laptop"]
    assert redis_password(outs["laptop"], "client") != passwords["laptop"], "who had the old one has none of the new"
    assert len(listed_lines(tree)) == 2
    (tree.root / "scheduler" / "revoked.txt").write_text("laptop\ndesk\n")  # by hand
    complete(tree.root)
    assert listed_lines(tree) == []


def test_users_of_listed_clients_follow_the_prefix_and_outlive_the_secret(tree: Tree) -> None:
    list_peer(tree, "laptop")
    before = listed_lines(tree)
    with tree.changing():
        tree.revoke_role("client", "sq:")
        assert listed_lines(tree) == before
        tree.complete("mine:")
    assert listed_lines(tree) == [line.replace("sq:", "mine:") for line in before]


def test_a_listed_key_is_not_put_where_the_roles_secret_lies(tree: Tree) -> None:
    before = contents(tree.root)
    with pytest.raises(UsageError, match="client holds the secret of all clients, and a listed key has none"):
        tree.list_peer("laptop", "client", tree.root, "sq:")
    assert contents(tree.root) == before


def test_where_there_are_no_redis_users_a_listed_client_gets_none(tree: Tree) -> None:
    (tree.root / "redis" / "users.acl").unlink()
    out = list_peer(tree, "laptop")
    tree.revoke_key("laptop")
    assert redis_password(out, "client") is None
    assert not (tree.root / "redis" / "users.acl").exists(), "in a file with these alone everybody may do everything"


def test_two_keys_of_one_fingerprint_are_not_listed(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be one owner."""
    list_peer(tree, "laptop")
    list_peer(tree, "desk")
    monkeypatch.setattr(keyring, "owner_tag", lambda key: "0" * 20)
    with pytest.raises(SecurityError, match=r"peer desk: its key, or another of fingerprint 0{20}, is listed twice"):
        load_trust(tree.root)


def test_listing_again_changes_nothing_and_takes_no_name_from_another(tree: Tree, tmp_path: Path) -> None:
    out = list_peer(tree, "laptop")
    before = contents(tree.root)
    list_peer(tree, "laptop")
    assert contents(tree.root) == before
    with pytest.raises(UsageError, match="laptop is listed already, as client"):
        tree.list_peer("laptop", "client", tmp_path / "elsewhere", "sq:")
    with pytest.raises(UsageError, match="laptop is listed already, as client"):
        tree.list_peer("laptop", "worker", out, "sq:")
    with pytest.raises(UsageError, match=r"peer\.key is another's key"):
        tree.list_peer("desktop", "client", out, "sq:")
    (tree.root / "scheduler" / "peers.toml").unlink()  # as if it had been interrupted before it was listed
    list_peer(tree, "laptop")
    assert contents(tree.root) == before


def test_keys_are_revoked_by_themselves_by_hand_and_whatever_they_begin_with(tree: Tree) -> None:
    credentials = load_credentials(list_peer(tree, "laptop"), "client")
    unknown = b"# ".strip() + b"0" * 39
    revoked = tree.root / "scheduler" / "revoked.txt"
    revoked.write_text(f"# by hand\n{unknown.decode()}\nlaptop")  # no end of line
    assert load_trust(tree.root).revoked == {unknown, credentials.public_key}
    other = "-" + "0" * 39
    assert tree.revoke_key(other) == [(other, "")]
    assert load_trust(tree.root).revoked == {unknown, credentials.public_key, other.encode()}
    with pytest.raises(UsageError, match="'desktop' is no name in"):
        tree.revoke_key("desktop")


def test_a_role_is_revoked_by_new_secrets(tree: Tree) -> None:
    old, password = load_credentials(tree.root, "worker"), redis_password(tree.root, "worker")
    other, acl = load_credentials(tree.root, "client"), (tree.root / "redis" / "users.acl").read_text()
    with tree.changing():
        tree.revoke_role("worker", "sq:")
    trust, new = load_trust(tree.root), load_credentials(tree.root, "worker")
    assert "is false" in trust.verify(old.public_key, "worker", "w", old.proof("w"))
    assert trust.verify(new.public_key, "worker", "w", new.proof("w")) == ""
    assert trust.verify(other.public_key, "client", "c", other.proof("c")) == ""
    assert redis_password(tree.root, "worker") != password
    changed = [
        line.split()[1] for line in (tree.root / "redis" / "users.acl").read_text().splitlines() if line not in acl
    ]
    assert changed == ["worker"]


def test_the_acl_file_keeps_users_of_others_and_no_password(tree: Tree) -> None:
    file = tree.root / "redis" / "users.acl"
    text = file.read_text() + "user backup on nopass ~* +@read\n"
    file.write_text(text)
    assert complete(tree.root).made == []
    assert file.read_text() == text
    assert not any((redis_password(tree.root, role) or "?") in text for role in ("scheduler", *ROLES))
    for prefix in ("sq *", "a(b", "x" * 65, "a\n"):
        with pytest.raises(SecurityError, match="cannot stand in an ACL file"):
            users(prefix, {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_who_may_not_is_told_so(tree: Tree) -> None:
    (tree.root / "worker" / "worker.secret").chmod(0)
    refusal = f"cannot be read by user {os.geteuid()}: Permission denied"
    with pytest.raises(SecurityError, match=refusal) as caught:
        load_credentials(tree.root, "worker")
    assert caught.value.hint.startswith("chown")
    (tree.root / "scheduler").chmod(0o500)
    with pytest.raises(SecurityError, match="cannot be written by user"), tree.changing():
        tree.revoke_key("0" * 40)


def test_a_name_is_never_a_key() -> None:
    for name in ("laptop", "a", "A.b-c_9", "x" * 32):
        assert keyring.is_name(name)
    for name in ("", "x" * 33, "-a", "a b", "a/b", "é", "a\n", 'a"'):
        assert not keyring.is_name(name)
