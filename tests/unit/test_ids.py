"""Ids: what they look like, and whose a job is by its id."""

from __future__ import annotations

import random

import pytest

from sparrowmq import ids

OWNER = "3176fa75940fa6a6ed17"


def test_an_id_sorts_by_time_and_bears_its_owner() -> None:
    plain = [ids.job_id(unix_ms, random.Random(unix_ms)) for unix_ms in (1, 2, 1_700_000_000_000)]
    assert plain == sorted(plain)
    assert {len(id) for id in plain} == {ids.JOB_CHARS}
    assert {ids.owner_of(id) for id in plain} == {""}
    tagged = [ids.job_id(unix_ms, random.Random(unix_ms), OWNER) for unix_ms in (1, 2, 1_700_000_000_000)]
    assert tagged == [f"{id}.{OWNER}" for id in plain]
    assert {ids.owner_of(id) for id in tagged} == {OWNER}


@pytest.mark.parametrize(
    ("id", "owner"),
    [("", ""), ("j", ""), ("j.", ""), (".x", "x"), ("j.x", "x"), ("j.x.y", "y"), ("j.x.", ""), (f"*.{OWNER}", OWNER)],
)
def test_the_owner_stands_after_the_last_dot(id: str, owner: str) -> None:
    assert ids.owner_of(id) == owner
    if owner:
        assert id.endswith(f".{owner}"), "what Redis' patterns go by"
