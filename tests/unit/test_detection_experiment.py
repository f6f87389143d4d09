"""sim detectors: the beats that are made up, what is counted of each detector, and the command."""

from __future__ import annotations

import json
import math
import random
from itertools import pairwise

import pytest
from click.testing import CliRunner

from sparrowmq import detection
from sparrowmq.cli import detectors as command, main as entry
from sparrowmq.core.judge import DEAD, Judge
from sparrowmq.errors import UsageError
from sparrowmq.experiments import beats as made, detectors as experiment
from sparrowmq.protocol import beats as wire
from sparrowmq.settings import AssistantSettings

ETA_S = experiment.INTERVAL_S
SCENARIOS = {scenario.name: scenario for scenario in made.SCENARIOS}
SECONDS = 600.0


def beats(name: str, seconds: float = SECONDS, seed: int = 1) -> list[made.Beat]:
    return list(made.beats(SCENARIOS[name], random.Random(seed), ETA_S, seconds))


# Beats.


@pytest.mark.parametrize("name", SCENARIOS)
def test_beats_are_in_order_and_the_same_for_the_same_seed(name: str) -> None:
    found = beats(name)
    assert found == beats(name)
    assert found != beats(name, seed=2)
    for before, after in pairwise(found):
        assert before.sequence < after.sequence
        assert before.sent_s < after.sent_s
        assert before.at_s <= after.at_s
    assert all(beat.sent_s < beat.at_s <= beat.sent_s + 1.0 for beat in found)
    assert found[-1].sent_s > SECONDS - 1.0


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "drift"])
def test_beats_keep_to_the_schedule_of_the_first(name: str) -> None:
    """A beat that is sent late, or stands for several, has the number of the last one that was due."""
    for beat in beats(name):
        assert beat.sequence * ETA_S <= beat.sent_s + 1e-9 < (beat.sequence + 1) * ETA_S + 1e-6


def test_a_timer_that_runs_from_when_it_woke_adds_lateness_up() -> None:
    found = beats("drift")
    assert [beat.sequence for beat in found] == list(range(len(found)))
    assert found[-1].sent_s > 1.03 * ETA_S * found[-1].sequence


def test_lost_beats_and_pauses_are_as_told() -> None:
    sent = SECONDS / ETA_S
    assert len(beats("normal")) == sent
    assert len(beats("loss")) == pytest.approx(0.99 * sent, abs=4.0 * math.sqrt(0.01 * sent))
    gaps = [after.sent_s - before.sent_s for before, after in pairwise(beats("pauses"))]
    assert max(gaps) <= ETA_S + 0.25
    assert sum(gap > 1.01 * ETA_S for gap in gaps) > SECONDS / 5.0 / 3.0
    stopped = [after.sent_s - before.sent_s for before, after in pairwise(beats("stopped"))]
    assert sum(gap > 0.2 for gap in stopped) == pytest.approx(SECONDS / 5.2, rel=0.4)


# What is counted.


def rows(names: list[str], scenarios: list[str], **given):
    return experiment.run(names=names, scenarios=scenarios, **{"seconds": SECONDS, **given})


def test_all_detectors_see_the_same_beats() -> None:
    """What is measured of one does not depend on which others are tried, or where."""
    alone = rows(["chen"], ["starved"], seconds=200.0)
    among = rows(list(detection.NAMES), ["loss", "starved"], seconds=200.0)
    assert alone == [row for row in among if (row["detector"], row["scenario"]) == ("chen", "starved")]
    assert alone == rows(["chen"], ["starved"], seconds=200.0)
    assert alone != rows(["chen"], ["starved"], seconds=200.0, seed=2)


@pytest.mark.parametrize("name", ["fixed", "chen"])
def test_a_wider_margin_is_wrong_less_often_and_later(name: str) -> None:
    curve = rows([name], ["all"])
    assert [row["value"] for row in curve] == sorted(row["value"] for row in curve)
    for before, after in pairwise(curve):
        assert after["mistakes"] <= before["mistakes"]
        assert after["t_d_ms"] > before["t_d_ms"]
        assert after["dead_ms"] >= after["suspect_ms"] > after["t_d_ms"]
    assert curve[0]["mistakes"] > 1000
    assert curve[0]["t_mr_s"] == pytest.approx(SECONDS / curve[0]["mistakes"], rel=0.03)


def test_detection_times_are_those_of_the_rule() -> None:
    """Regular beats: a crash comes half an interval after one on average, and the margin runs from the next."""
    (row,) = (row for row in rows(["fixed"], ["loss"]) if row["value"] == 200.0)
    delay_ms = 1.0
    lost_ms = 0.5  # a beat in a hundred: the crash is then up to an interval further from the last one
    assert row["t_d_ms"] == pytest.approx(50.0 + 200.0 + delay_ms - lost_ms, abs=2.0)
    assert 299.0 < row["t_d_p99_ms"] < 303.0
    assert row["suspect_ms"] == pytest.approx(row["t_d_ms"] + 25.0 + 9.0, abs=2.0)  # a canary each 50, and the lag
    assert row["dead_ms"] == pytest.approx(row["suspect_ms"] + 200.0, abs=2.0)


@pytest.mark.parametrize("scenario", ["normal", "lognormal"])
def test_chen_beats_the_fixed_timeout_of_the_same_mistake_rate_where_delays_vary(scenario: str) -> None:
    table = experiment.compared(rows(["fixed", "chen"], [scenario], seconds=3600.0))
    (chen,) = (row for row in table if row["detector"] == "chen")
    assert chen["p99_60_percent"] < -5.0
    assert chen["mean_60_percent"] < -5.0 or scenario == "lognormal"  # there it is 1 %: an hour is too short to tell


def test_chen_is_no_worse_where_jitter_loss_and_pauses_come_together() -> None:
    table = experiment.compared(rows(["fixed", "chen"], ["all"], seconds=7200.0))
    (chen,) = (row for row in table if row["detector"] == "chen")
    assert chen["mean_60_percent"] < 0.0
    assert chen["mean_6_percent"] < 0.0
    assert chen["p99_60_percent"] < -3.0


def test_the_default_never_buries_a_worker_that_stops_for_200_ms_and_a_frozen_one_in_time() -> None:
    default = AssistantSettings().detector
    found = experiment.two_stage(rows([default], ["stopped", "starved"], seconds=3600.0), AssistantSettings())
    assert [row["scenario"] for row in found] == ["starved", "stopped"]
    for row in found:
        assert row["false_deaths"] == 0
        assert row["dead_p99_ms"] < 580.0


@pytest.mark.parametrize("crash", range(20))
def test_the_second_stage_is_that_of_the_assistant(crash: int) -> None:
    """The same beats, the same canaries and a silence: the assistant's own judge says dead at the same moment."""
    settings = AssistantSettings()
    rule = experiment.Rule(settings.confirm_beats, settings.canary_interval_s)
    found = beats("starved", 30.0, seed=crash)[: 200 + crash]
    judge = Judge(settings)
    each_s = experiment.CANARY_STRETCH * settings.canary_interval_s
    detector = detection.make(settings.detector, ETA_S, settings.detection_beats * ETA_S)
    arrivals, dead_s = iter(found), None
    beat = next(arrivals, None)
    for canary in range(1, 1000):
        while beat is not None and beat.at_s <= canary * each_s:
            judge.beat(beat.at_s, wire.Beat("worker", "w", 1, beat.sequence, 100))
            detector.beat(beat.sequence, beat.at_s)
            beat = next(arrivals, None)
        if any(node.state == DEAD for node in judge.judge(canary * each_s, experiment.LAG_S)):
            dead_s = canary * each_s
            break
    assert beat is None
    assert dead_s == pytest.approx(rule.dead_s(detector.deadline_s), abs=each_s)


def test_rates_between_two_points_of_a_curve() -> None:
    def point(t_d_ms: float, mistakes_per_h: float, seconds: float = 36_000.0) -> dict:
        return {"t_d_ms": t_d_ms, "mistakes_per_h": mistakes_per_h, "seconds": seconds}

    curve = [point(300.0, 0.0), point(100.0, 600.0), point(200.0, 6.0)]
    assert experiment.needed_ms(curve, 60.0) == pytest.approx(150.0)
    assert experiment.needed_ms(curve, 6.0) == pytest.approx(200.0)
    assert experiment.needed_ms(curve, 1000.0) == pytest.approx(100.0)
    assert 200.0 < experiment.needed_ms(curve, 1.0) < 300.0
    assert experiment.needed_ms(curve[1:], 1.0) is None  # it does not come so far
    assert experiment.needed_ms([point(100.0, 0.0, 60.0)], 60.0) is None  # one mistake expected: too short to tell


def test_too_few_beats_are_refused() -> None:
    with pytest.raises(UsageError, match="60"):
        experiment.run(seconds=20.0)
    assert command.SECONDS_MIN == experiment.SECONDS_MIN


# The command.


def call(*words: str) -> tuple[int, str, str]:
    with CliRunner().isolation() as (stdout, stderr, _):
        status = entry.main(["sim", "detectors", *words])
        return status, stdout.getvalue().decode(), stderr.getvalue().decode()


def test_rows_for_machines() -> None:
    asked = "--seconds 100 --detectors chen,fixed --scenarios loss --detection-beats 1.55 --confirm-beats 0 --seed 7"
    status, said, errors = call(*asked.split(), "-o", "json")
    assert (status, errors) == (0, "")
    found = json.loads(said)
    assert {row["detector"] for row in found} == {"chen", "fixed"}
    assert {(row["scenario"], row["seed"], row["confirm_beats"]) for row in found} == {("loss", 7, 0.0)}
    assert 155.0 in {row["value"] for row in found}
    assert max(row["false_deaths"] for row in found) > 0
    for row in found:
        assert {"t_d_ms", "t_mr_s", "t_m_ms", "p_a", "mistakes_per_h", "false_deaths", "dead_p99_ms"} <= row.keys()
        assert row["dead_ms"] == row["suspect_ms"]
        assert row["false_deaths"] == row["false_suspects"] <= row["mistakes"]
        assert (row["t_mr_s"] is None) == (row["mistakes"] == 0)


def test_tables_for_people() -> None:
    status, said, _ = call("--seconds", "700", "--scenarios", "starved")
    assert status == 0
    first, _, second = said.partition("\nSuspect 2 intervals after a beat was due, dead 2 later")
    assert first.splitlines()[2].split()[:2] == ["scenario", "detector"]
    for name in detection.NAMES:
        assert f"starved   {name}" in first
        assert f"starved   {name}" in second
    assert "bertier (weight)" in first
    assert "-" in first.split()  # 6 an hour cannot be told from 700 s


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--detectors", "chen,gossip"), "'gossip' is none of them: expected fixed, chen"),
        (("--scenarios", "storm"), "'storm' is none of them: expected normal"),
        (("--seconds", "1"), "expected 60 to"),
        (("--seed", "-1"), "--seed"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(words: tuple[str, ...], told: str) -> None:
    status, said, errors = call(*words)
    assert (status, said) == (2, "")
    assert told in errors
