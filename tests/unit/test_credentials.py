"""Proofs of enrolment: good for one key, role, id and cluster, and for nothing else."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from sparrowmq.security.credentials import PROOF_BYTES, Credentials, Trust, fingerprint, owner_tag
from sparrowmq.security.pairs import looks_like_key, new_pair, public_of

SERVER, SERVER_SECRET = new_pair()
MINE, MY_SECRET = new_pair()
LISTED, _ = new_pair()
REVOKED, _ = new_pair()
SECRETS = {"worker": b"w" * 32, "client": b"c" * 32}
TRUST = Trust(
    SERVER, SERVER_SECRET, SECRETS, {LISTED: ("client", "laptop"), REVOKED: ("client", "lost")}, frozenset({REVOKED})
)
ENROLS = Credentials("worker", SERVER, MINE, MY_SECRET, SECRETS["worker"])
TEXTS = st.text(max_size=40)


def test_who_knows_the_secret_of_the_role_is_let_in():
    proof = ENROLS.proof("worker-1")
    assert len(proof) == PROOF_BYTES
    assert TRUST.verify(MINE, "worker", "worker-1", proof) == ""
    assert TRUST.admits(MINE) == "", "who that is comes later"


@pytest.mark.parametrize(
    ("key", "role", "id", "proof", "reason"),
    [
        (MINE, "worker", "worker-2", ENROLS.proof("worker-1"), "proof of enrolment as worker is false"),
        (MINE, "client", "worker-1", ENROLS.proof("worker-1"), "proof of enrolment as client is false"),
        (LISTED, "worker", "worker-1", ENROLS.proof("worker-1"), "of laptop is listed as client, not as worker"),
        (new_pair()[0], "worker", "worker-1", ENROLS.proof("worker-1"), "is false"),
        (MINE, "worker", "worker-1", b"", "is not listed, and no proof"),
        (MINE, "worker", "worker-1", ENROLS.proof("worker-1")[:-1], "is false"),
        (MINE, "worker", "worker-1", ENROLS.proof("worker-1") + b"\0", "is false"),
        (MINE, "assistant", "a", b"x" * 32, "nobody can enrol as assistant"),
        (MINE, "scheduler", "s", b"x" * 32, "nobody can enrol as 'scheduler'"),
        (MINE, "", "s", b"x" * 32, "nobody can enrol as ''"),
        (REVOKED, "client", "c", b"", "of lost is revoked"),
        (LISTED, "client", "c", b"x" * 32, "of laptop is listed: it sends no proof of enrolment"),
    ],
)
def test_anything_else_is_refused_with_the_reason(key, role, id, proof, reason):
    assert reason in TRUST.verify(key, role, id, proof)


def test_a_proof_is_no_good_at_another_cluster_or_with_a_new_secret():
    proof = ENROLS.proof("worker-1")
    elsewhere = replace(TRUST, server_public=new_pair()[0])
    renewed = replace(TRUST, secrets={"worker": b"n" * 32})
    for trust in (elsewhere, renewed):
        assert "is false" in trust.verify(MINE, "worker", "worker-1", proof)


def test_a_revoked_key_stays_out_even_with_a_good_proof():
    trust = replace(TRUST, revoked=frozenset({MINE}))
    assert "is revoked" in trust.admits(MINE)
    assert "is revoked" in trust.verify(MINE, "worker", "worker-1", ENROLS.proof("worker-1"))


def test_a_listed_key_needs_no_proof_and_makes_none():
    assert TRUST.verify(LISTED, "client", "anything", b"") == ""
    assert replace(ENROLS, secret=b"").proof("worker-1") == b""


def test_both_ends_agree_on_whose_the_jobs_of_a_key_are():
    listed, enrols = replace(ENROLS, public_key=LISTED, secret=b""), replace(ENROLS, role="client")
    assert listed.owner == TRUST.owner(LISTED) == owner_tag(LISTED) == fingerprint(LISTED)
    assert enrols.owner == TRUST.owner(MINE) == ""
    both = replace(enrols, public_key=LISTED, secret=SECRETS["client"])  # to itself enrolled, and listed
    assert TRUST.verify(LISTED, "client", "c", both.proof("c")), "it is not let in"


def test_a_tag_is_what_redis_and_ids_make_of_it():
    assert re.fullmatch("[0-9a-f]{20}", owner_tag(LISTED)), "no dot, and nothing that means something in a pattern"


@given(one=st.tuples(TEXTS, TEXTS), other=st.tuples(TEXTS, TEXTS))
def test_no_two_claims_share_a_proof(one, other):
    proofs = [replace(ENROLS, role=role).proof(id) for role, id in (one, other)]
    assert (proofs[0] == proofs[1]) == (one == other)


@given(role=st.sampled_from(["worker", "client"]), id=st.text(), proof=st.binary(max_size=64))
def test_nothing_that_is_said_gets_in_by_chance_or_raises(role, id, proof):
    assert TRUST.verify(MINE, role, id, proof)


@given(id=st.text(alphabet=st.characters(exclude_categories=())))
def test_every_id_can_be_proven(id):
    assert TRUST.verify(MINE, "worker", id, ENROLS.proof(id)) == ""


def test_neither_shows_a_secret():
    for shown in (repr(ENROLS), repr(TRUST)):
        assert not any(secret.decode() in shown for secret in (MY_SECRET, SERVER_SECRET, *SECRETS.values()))
    assert fingerprint(MINE) in repr(ENROLS)


def test_pairs_are_keys():
    assert public_of(MY_SECRET) == MINE
    assert looks_like_key(MINE)
    for text in (b"", MINE[:-1], MINE + b"0", b" " * 40, b'"' * 40):
        assert not looks_like_key(text)
        with pytest.raises(ValueError, match="40"):
            public_of(text)
