"""Set-ups: what can be run, what is refused and how it is said, the TOML form."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from msgspec.structs import replace

from sparrowmq.errors import UsageError
from sparrowmq.limits import TASKS_PER_JOB_MAX
from sparrowmq.placement import POLICIES as PLACED
from sparrowmq.sim import figures, setup
from sparrowmq.sim.setup import Setup, check, make, policy_name, rate_jobs_per_s, read
from sparrowmq.sim.workload import Workload


def test_the_policies_are_those_of_the_runtime_and_the_central_queue():
    assert set(setup.POLICIES) == {*PLACED, setup.OMNISCIENT}


@pytest.mark.parametrize("policy", setup.POLICIES)
def test_defaults_can_be_run_with_every_policy(policy):
    check(Setup(policy=policy))


def test_a_rate_keeps_the_slots_as_busy_as_asked():
    assert rate_jobs_per_s(figures.FIG3) == pytest.approx(0.8 * 40_000 / (100 * 0.1))


def test_every_number_has_a_range():
    numbers = {field for field, kind in setup.FIELDS.items() if kind in (int, float)}
    assert numbers == set(setup._RANGES)


REFUSED = [
    (Setup(policy="fifo"), ["unknown policy 'fifo'", "late-binding", "omniscient"]),
    (Setup(policy="BATCH"), ["policy: expected 'batch', got 'BATCH'"]),
    (Setup(load=0.0), ["load: expected a number above 0 and up to 10, got 0.0"]),
    (Setup(load=math.nan), ["load: expected a number above 0", "got nan"]),
    (Setup(load=math.inf), ["load: expected a number above 0", "got inf"]),
    (Setup(load=1.0), ["load: at 1 more work comes than 4,000 slots do"]),
    (Setup(workers=20_001), ["workers: expected a whole number from 1 to 20,000, got 20001"]),
    (Setup(workers=0), ["workers: expected a whole number from 1"]),
    (Setup(workers=2.5), ["workers: expected a whole number", "got 2.5"]),
    (Setup(workers=True), ["workers: expected a whole number", "got True"]),
    (Setup(workers=20_000, slots=100), ["20,000 workers x 100 slots are 2,000,000 slots; the limit is 1,000,000"]),
    (Setup(jobs=0), ["jobs: expected a whole number from 1 to 10,000,000, got 0"]),
    (Setup(probe_ratio=0.5), ["probe_ratio: expected a number from 1 to 100, got 0.5"]),
    (Setup(eager="yes"), ["eager: expected true or false, got 'yes'"]),
    (Setup(latency_law="normal"), ["latency_law: expected one of constant, uniform, lognormal, got 'normal'"]),
    (Setup(horizon_s=0.4), ["horizon_s: expected more than the warm-up of 0.5 s, got 0.4"]),
    (Setup(load=5.0, workers=10_000, horizon_s=60.0), ["horizon_s: after 60 s", "the limit is 100,000"]),
    (Setup(workload=Workload(tasks=TASKS_PER_JOB_MAX + 1)), ["workload.tasks: expected a whole number", "100,000"]),
    (Setup(workload=Workload(long_share=0.5)), ["workload.long_share: 0.5 means nothing"]),
    (Setup(workload=Workload(duration_s=1e-5, tasks=1), workers=10_000), ["warm_up_s", "come before they count"]),
    (Setup(scheduler_cost_s=0.001), ["scheduler_cost_s: 0.001 s a message", "never catches up"]),
    (Setup(worker_cost_s=0.1), ["worker_cost_s: 0.1 s a message"]),
]


@pytest.mark.parametrize(("bad", "parts"), REFUSED, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_impossible_set_ups_are_refused(bad, parts):
    with pytest.raises(UsageError) as caught:
        check(bad)
    for part in parts:
        assert part in str(caught.value)


def test_what_is_impossible_alone_may_be_possible_together():
    check(Setup(load=1.2, horizon_s=5.0))
    check(Setup(scheduler_cost_s=0.001, schedulers=100))
    check(Setup(load=3.0, scheduler_cost_s=1.0), drawn=False)  # of a trace, load and workload do not count


def test_a_refusal_uses_the_name_that_people_know():
    with pytest.raises(UsageError, match=r"^--job-count: expected"):
        check(Setup(jobs=-1), {"jobs": "--job-count"})
    with pytest.raises(UsageError) as caught:
        check(Setup(load=2.0), {"horizon_s": "--horizon"})
    assert "--horizon" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "name"),
    [("BATCH+LATE_BINDING", "late-binding"), ("choose_two", "per-task"), ("Omniscient", "omniscient")],
)
def test_policies_are_known_by_their_other_names(text, name):
    assert policy_name(text) == name


@pytest.mark.parametrize(("text", "near"), [("omnicient", "omniscient"), ("late-bindng", "late-binding")])
def test_a_misspelt_policy_names_the_nearest(text, near):
    with pytest.raises(UsageError) as caught:
        policy_name(text)
    assert caught.value.hint == f"Did you mean {near!r}?"


def test_toml_becomes_a_set_up():
    text = 'policy = "BATCH"\nload = 1\nhorizon_s = 5.0\n[workload]\ntasks = 10\narrivals = "deterministic"\n'
    made = make(read(text, "x.toml"))
    assert made == Setup(policy="batch", load=1.0, horizon_s=5.0, workload=Workload(tasks=10, arrivals="deterministic"))
    assert type(made.load) is float  # or the same set-up would have two digests
    check(made)
    assert make(read("", "empty.toml")) == Setup()


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("load 3", "x.toml is not TOML", ""),
        ("lod = 0.5", "x.toml: there is no field lod", "did you mean load?"),
        ("[workload]\ntask = 3", "x.toml: there is no field workload.task", "did you mean workload.tasks?"),
        ("[cluster]\nworkers = 3", "x.toml: there is no field cluster", ""),
        ("workload = 3", "x.toml: there is no field workload", ""),
        ("load = 'high'", "x.toml: load: expected a number above 0 and up to 10, got 'high'", ""),
        ("slots = 4.0", "x.toml: slots: expected a whole number from 1 to 4,096, got 4.0", ""),
        ("policy = 'bach'", "x.toml: policy: unknown policy 'bach'", "Did you mean 'batch'?"),
        ("policy = 3", "x.toml: policy: expected a text, got 3", ""),
        ("warm_up_s = nan", "x.toml: warm_up_s: expected a number from 0", ""),
        ("[workload]\nduration_law = 'pareto'", "x.toml: workload.duration_law: expected one of constant,", ""),
    ],
)
def test_bad_toml_names_file_field_and_what_is_expected(text, said, hint):
    with pytest.raises(UsageError) as caught:
        read(text, "x.toml")
    assert str(caught.value).startswith(said)
    assert hint in caught.value.hint


def test_texts_of_a_trace_header_are_read_as_fields():
    assert setup.parse({"workers": "8", "probe_ratio": "2", "policy": "BATCH"}, "t") == {
        "workers": 8, "probe_ratio": 2.0, "policy": "batch",
    }  # fmt: skip
    with pytest.raises(UsageError, match=r"^t: workers: expected a whole number from 1 to 20,000, got '8.5'"):
        setup.parse({"workers": "8.5"}, "t")


def test_a_value_is_found_by_its_field():
    made = Setup(load=0.25, workload=Workload(tasks=7))
    assert (setup.value_of(made, "load"), setup.value_of(made, "workload.tasks")) == (0.25, 7)
    assert make({field: setup.value_of(made, field) for field in setup.FIELDS}) == made
    assert replace(made) == made


def test_the_documented_file_holds_the_defaults():
    page = Path(__file__).resolve().parents[2] / "docs" / "simulator.md"
    values = read(page.read_text().partition("```toml\n")[2].partition("```")[0], "docs")
    assert list(values) == list(setup.FIELDS)
    assert make(values) == Setup()


@pytest.mark.parametrize("text", ["jobs = 1" + "0" * 400, "jobs = 1" + "0" * 5000, "x = " + "[" * 3000, "load = nan"])
def test_no_file_gives_anything_but_a_usage_error(text):
    with pytest.raises(UsageError, match=r"^setup\.toml"):
        read(text, "setup.toml")


def test_a_command_without_a_horizon_does_not_tell_of_one():
    with pytest.raises(UsageError) as caught:
        check(Setup(load=1.2), {"load": "--loads"})
    assert caught.value.hint == "stay below 1"
