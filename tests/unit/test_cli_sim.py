"""sim on the command line: options, refusals before the run, what is printed and saved, interruption."""

from __future__ import annotations

import csv
import json
import re
import sys

import pytest
from click.testing import CliRunner

from sparrowmq.cli import main as entry
from sparrowmq.cli.sim import sim
from sparrowmq.experiments import sweep
from sparrowmq.sim import figures, setup
from tests.support import points

ASKED: list[setup.Setup] = []


@pytest.fixture(autouse=True)
def stand_in(monkeypatch, tmp_path):
    """Points are made up; results are kept in a directory of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    ASKED.clear()
    real = sweep.run

    def run(setups, **given):
        ASKED[:] = setups
        return real(setups, **{**given, "run_point": points.quick})

    monkeypatch.setattr(sweep, "run", run)


def call(*words: str) -> tuple[int, str, str]:
    """Call main in this process; return its status and what it printed on each stream."""
    with CliRunner().isolation() as (stdout, stderr, _):
        status = entry.main(["sim", *words])
        return status, stdout.getvalue().decode(), stderr.getvalue().decode()


def rows(*words: str) -> list[dict]:
    status, stdout, stderr = call(*words, "-o", "json")
    assert (status, stderr) == (0, "")
    return json.loads(stdout)


@pytest.mark.parametrize("words", [(), *[(name,) for name in (*sim.commands,)]], ids=" ".join)
def test_every_command_explains_itself(words):
    status, said, _ = call(*words, "--help")
    assert status == 0
    assert f"Usage: sparrowmq {' '.join(('sim', *words))}" in said


def test_all_commands_are_there():
    assert set(sim.commands) == {"fig3", "ratio", "cancel", "hetero", "hints", "run", "replay", "swarm", "detectors"}


@pytest.mark.parametrize(
    ("command", "option", "values"),
    [
        ("fig3", "loads", figures.FIG3_LOADS),
        ("ratio", "loads", figures.RATIO_LOADS),
        ("ratio", "ratios", figures.RATIOS),
        ("cancel", "loads", figures.CANCEL_LOADS),
        ("hetero", "loads", figures.HETERO_LOADS),
        ("hetero", "slots", figures.HETERO_SLOTS),
        ("hetero", "long_durations", figures.HETERO_LONG_S),
        ("hetero", "long_shares", figures.HETERO_SHARES),
        ("hints", "loads", figures.HINTS_LOADS),
        ("hints", "beats_s", figures.HINTS_BEATS_S),
        ("hints", "schedulers", figures.HINTS_SCHEDULERS),
        ("run", "loads", (setup.Setup().load,)),
    ],
)
def test_help_tells_the_real_defaults(command, option, values):
    (found,) = (parameter for parameter in sim.commands[command].params if parameter.name == option)
    told = re.search(r"\[default: (.*)\]", found.help)
    assert tuple(float(text) for text in told[1].split(",")) == values


# What is run.


def test_fig3_prints_rows_with_the_papers_points():
    found = rows("fig3", "--policies", "late-binding,OMNISCIENT", "--loads", ".3,.8", "--job-count", "20")
    assert [(row["policy"], row["load"], row["jobs"]) for row in found] == [
        ("late-binding", 0.3, 20), ("late-binding", 0.8, 20), ("omniscient", 0.3, 20), ("omniscient", 0.8, 20),
    ]  # fmt: skip
    assert list(found[0])[:7] == ["policy", "load", "jobs", "median_ms", "p95_ms", "p99_ms", "delay_p50_ms"]
    assert found[1]["paper_ms"] == 73.4
    assert {each.workers for each in ASKED} == {10_000}


def test_a_table_for_people():
    status, stdout, stderr = call("fig3", "--policies", "random", "--loads", ".7,.8", "--workers", "50")
    assert (status, stderr) == (0, "")
    assert ">350" in stdout
    assert "deviation percent" in stdout
    assert "the paper's points are those of 10,000 workers x 4 slots" in stdout
    again = call("fig3", "--policies", "random", "--loads", ".7,.8", "--workers", "50")
    assert again[1] == stdout
    assert again[2] == "2 of 2 points kept from an earlier run; --no-cache runs all anew\n"


def test_no_cache_keeps_nothing_and_takes_nothing(tmp_path):
    for _ in range(2):
        assert call("cancel", "--loads", ".8", "--no-cache")[2] == ""
    assert not (tmp_path / "cache").exists()


def test_each_figure_asks_for_its_points():
    rows("ratio", "--loads", ".9", "--ratios", "1,1.1", "--worker-cost", "0.1ms", "--job-count", "5")
    assert [(each.probe_ratio, each.worker_cost_s, each.workers) for each in ASKED] == [
        (1.0, 1e-4, 110),
        (1.1, 1e-4, 110),
    ]
    rows("cancel", "--loads", ".95", "--workers", "100")
    assert [(each.cancellation, each.workers, each.jobs) for each in ASKED] == [
        (False, 100, 30_000),
        (True, 100, 30_000),
    ]
    rows("hetero", "--slots", "4", "--long-durations", "10s", "--long-shares", ".1,.5", "--seed", "7")
    assert [(each.slots, each.workload.long_share, each.warm_up_s, each.seed) for each in ASKED] == [
        (4, 0.1, 50.0, 7), (4, 0.5, 50.0, 7),
    ]  # fmt: skip
    rows("hints", "--beats", "100ms", "--schedulers", "10", "--loads", ".8", "--tasks", "1", "--eager")
    assert [(each.policy, each.beats_s) for each in ASKED] == [
        ("late-binding", 0.0), ("assisted", 0.0), ("assisted", 0.1),
    ]  # fmt: skip
    assert {(each.schedulers, each.load, each.eager, each.workload.tasks) for each in ASKED} == {(10, 0.8, True, 1)}


def test_run_takes_any_field():
    flags = {
        "policies": "batch", "loads": "0.5", "workers": "30", "slots": "2", "schedulers": "3", "job-count": "9",
        "probe-ratio": "1.5", "seed": "4", "warm-up": "2s", "horizon": "1m", "latency": "1ms", "latency-law": "uniform",
        "scheduler-cost": "0.01ms", "worker-cost": "0.02ms", "arrivals": "deterministic", "tasks": "7",
        "tasks-law": "exponential", "duration": "50ms", "duration-law": "bimodal", "long-share": "0.2",
        "long-duration": "3s", "beats": "50ms",
    }  # fmt: skip
    words = [word for flag, value in flags.items() for word in (f"--{flag}", value)]
    rows("run", *words, "--no-cancellation", "--eager")
    (made,) = ASKED
    default = setup.Setup()
    same = [field for field in setup.FIELDS if setup.value_of(made, field) == setup.value_of(default, field)]
    assert same == []
    assert (made.horizon_s, made.latency_s, made.workload.duration_s, made.seed) == (60.0, 0.001, 0.05, 4)


def test_lists_make_a_grid_and_flags_win_over_the_file(tmp_path):
    (tmp_path / "x.toml").write_text("workers = 40\nload = 0.2\nseed = 9\njobs = 3\n[workload]\ntasks = 5\n")
    rows("run", "--file", "x.toml", "--workers", "50")
    assert [setup.make({"workers": 50, "load": 0.2, "seed": 9, "jobs": 3, "workload.tasks": 5})] == ASKED
    rows("run", "--file", "x.toml", "--policies", "batch,random,batch", "--loads", ".3,.4", "--seed", "1")
    assert [(each.policy, each.load, each.seed) for each in ASKED] == [
        ("batch", 0.3, 1), ("batch", 0.4, 1), ("random", 0.3, 1), ("random", 0.4, 1),
    ]  # fmt: skip


TRACE = """# sparrowmq trace 1
# workers: 6
# slots: 2
# schedulers: 3
# policy: batch
# response_p50_ms: 120.5
0.0 2 0.1 0.1 0.1
1.0 1 0.6 0.6
2.0 2 0.1 0.1 0.1
"""


def test_replay_runs_on_the_recorded_cluster(tmp_path):
    (tmp_path / "t.trace").write_text(TRACE)
    (row,) = rows("replay", "t.trace")
    assert [(each.policy, each.workers, each.slots, each.schedulers) for each in ASKED] == [
        ("batch", 6, 2, 3), ("omniscient", 6, 2, 3),
    ]  # fmt: skip
    assert (row["jobs"], row["recorded_median_ms"], row["recorded"]["policy"]) == (3, 120.5, "batch")
    assert row["load"] == pytest.approx(1.0 / 24)
    assert row["omniscient_median_ms"] == row["median_ms"]


def test_replay_runs_on_another_cluster(tmp_path):
    (tmp_path / "t.trace").write_text(TRACE)
    found = rows("replay", "t.trace", "--workers", "60", "--policies", "random,late-binding", "--job-count", "2")
    assert [(row["policy"], row["workers"], row["slots"], row["jobs"]) for row in found] == [
        ("random", 60, 2, 2), ("late-binding", 60, 2, 2),
    ]  # fmt: skip


# What is saved.


def test_csv_and_plot_are_saved(tmp_path):
    pytest.importorskip("matplotlib")
    rows("fig3", "--loads", ".3", "--csv", "out.csv", "--plot", "out.svg")
    with (tmp_path / "out.csv").open() as file:
        assert [row["policy"] for row in csv.DictReader(file)] == list(setup.PAPER_POLICIES)
    assert (tmp_path / "out.svg").read_text().startswith("<?xml")


# Refusals.

BAD = [
    (["fig3", "--loads", ".3,high"], ["'--loads'", "expected a number above 0 and up to 10, got 'high'"]),
    (["fig3", "--loads", ".3,,.5"], ["'--loads'", "separated by commas", "empty"]),
    (["fig3", "--loads", ",".join(["0.5"] * 101)], ["101 values; expected 100 at the most"]),
    (["fig3", "--loads", ".8,1"], ["--loads: at 1 more work comes than 40,000 slots do", "below 1"]),
    (["fig3", "--policies", "batch,omnicient"], ["'--policies'", "unknown policy 'omnicient'", "'omniscient'"]),
    (["fig3", "--job-count", "0"], ["'--job-count'", "expected a whole number from 1 to 10,000,000, got 0"]),
    (["fig3", "--job-count", "x"], ["expected a whole number from 1 to 10,000,000, got 'x'"]),
    (["fig3", "--workers", "20001"], ["'--workers'", "from 1 to 20,000, got 20001"]),
    (["fig3", "--processes", "0"], ["0 is out of range: expected 1 to 256"]),
    (["fig3", "--csv", "no/such/x.csv"], ["--csv no/such/x.csv: there is no directory no/such"]),
    (["fig3", "--csv", "."], ["expected a file, and this is a directory"]),
    (["fig3", "--plot", "x.pdf"], ["--plot x.pdf: expected a file that ends in .png or .svg"]),
    (["ratio", "--ratios", "0.5"], ["'--ratios'", "expected a number from 1 to 100, got 0.5"]),
    (["ratio", "--scheduler-cost", "1s"], ["--scheduler-cost: 1 s a message", "never catches up"]),
    (["ratio", "--scheduler-cost", "fast"], ["'--scheduler-cost'", "expected a number from 0 to 10, got 'fast'"]),
    (["run", "--load", "1.5"], ["--loads: at 1.5 more work comes", "--horizon"]),
    (["run", "--load", "1.5", "--horizon", "0.1"], ["--horizon: expected more than the warm-up"]),
    (["run", "--tasks", "100001"], ["from 1 to 100,000, got 100001"]),
    (["run", "--long-share", ".5"], ["--long-share: 0.5 means nothing"]),
    (["run", "--latency-law", "normal"], ["expected one of constant, uniform, lognormal, got 'normal'"]),
    (["run", "--file", "none.toml"], ["--file none.toml: No such file"]),
    (["run", "--file", "bad.toml"], ["bad.toml: slots: expected a whole number from 1 to 4,096, got 'many'"]),
    (["run", "--file", "full.toml"], ["full.toml: load: at 1.2 more work comes", "--horizon"]),
    (["replay", "none.trace"], ["none.trace: No such file"]),
    (["replay", "broken.trace"], ["broken.trace, line 2:"]),
    (["replay", "bare.trace"], ["bare.trace does not say how many workers", "--workers"]),
    (["replay", "bare.trace", "--workers", "4"], ["does not say how many slots"]),
    (["replay", "odd.trace"], ["odd.trace: workers: expected a whole number from 1 to 20,000, got 'six'"]),
]


@pytest.mark.parametrize(("words", "parts"), BAD, ids=lambda value: " ".join(value)[:60])
def test_impossible_set_ups_are_refused_before_the_run(words, parts, tmp_path):
    (tmp_path / "bad.toml").write_text("slots = 'many'")
    (tmp_path / "full.toml").write_text("load = 1.2")
    (tmp_path / "broken.trace").write_text("0 1 0.1 0.1\n1 2 0.1 0.1\n")
    (tmp_path / "bare.trace").write_text("0 1 0.1 0.1\n")
    (tmp_path / "odd.trace").write_text("# sparrowmq trace 1\n# workers: six\n# slots: 2\n0 1 0.1 0.1\n")
    status, stdout, stderr = call(*words)
    assert (status, stdout, ASKED) == (2, "", [])
    assert stderr.startswith("error: ")
    assert len(stderr.splitlines()) <= 2
    for part in parts:
        assert part in stderr


def test_without_matplotlib_nothing_is_run(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, _, stderr = call("fig3", "--plot", "x.png")
    assert (status, ASKED) == (2, [])
    assert "hint: pip install 'sparrowmq[figures]'" in stderr


# Points that are missing.


def reported(monkeypatch, **changes) -> None:
    """Have the sweep return rows for all points but the last."""

    def run(setups, **given):
        found = [points.row(each) for each in setups]
        return sweep.Report([*found[:-1], None], **changes)

    monkeypatch.setattr(sweep, "run", run)


def test_ctrl_c_prints_what_is_finished_and_says_that_it_can_go_on(monkeypatch, tmp_path):
    reported(monkeypatch, interrupted=True)
    words = ("cancel", "--loads", ".8,.9", "--csv", "x.csv")
    status, stdout, stderr = call(*words)
    assert status == 130
    assert len(stdout.strip().splitlines()) == 1 + 3 + 2
    assert "error: interrupted; 3 of 4 points are finished\nhint: the same command goes on from there\n" in stderr
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 4
    status, stdout, stderr = call(*words, "-o", "json")
    assert (status, len(json.loads(stdout)), json.loads(stderr)["code"]) == (130, 3, "interrupted")
    assert "nothing is kept" in call(*words, "--no-cache")[2]


def test_a_point_that_failed_is_named(monkeypatch):
    reported(monkeypatch, failures={3: "killed by signal 9 (SIGKILL)"})
    status, stdout, stderr = call("cancel", "--loads", ".8,.9", "--workers", "100")
    assert (status, len(stdout.strip().splitlines())) == (1, 6)
    said = "late-binding at load 0.9, 100 workers x 4 slots: killed by signal 9 (SIGKILL)"
    assert stderr == f"error: 1 of 4 points failed: {said}\n"


def test_quiet_prints_medians():
    assert call("run", "--load", ".5", "--workers", "10", "-o", "quiet")[1] == "510.0\n"
