"""The swarm finds what was planted: each bug within 300 seeds, stopping at the first that fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sparrowmq.sim.swarm.drawing import draw
from sparrowmq.sim.swarm.play import Play
from tests.support.planted import BUGS, NEEDS

SEEDS = range(300)  # most are found by the first ten, some by about one in a hundred


@pytest.mark.heavy
@pytest.mark.timeout(360)
@pytest.mark.parametrize("name", BUGS)
def test_the_swarm_finds_a_planted_bug(name: str, record_property: Callable[[str, object], None]) -> None:
    for seed in SEEDS:
        scenario = draw(seed)
        if name in NEEDS and not getattr(scenario, NEEDS[name]):
            continue
        with BUGS[name]():
            verdict = Play(scenario).run()
        if verdict.failure:
            record_property("seed", seed)
            record_property("found_by", verdict.found_by)
            return
    pytest.fail(f"none of {len(SEEDS)} seeds finds that a machine {name.replace('_', ' ')}")
