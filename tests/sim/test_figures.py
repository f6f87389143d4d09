"""The figures: their set-ups, the paper's points, and the tables and plots that show them."""

from __future__ import annotations

import csv
import io
import math
import sys

import pytest
from msgspec.structs import replace

from sparrowmq.errors import UsageError
from sparrowmq.experiments import plot, tables
from sparrowmq.sim import figures
from sparrowmq.sim.setup import OMNISCIENT, PAPER_POLICIES, Setup, check
from sparrowmq.sim.workload import Job
from tests.support.points import row


def all_setups():
    return [
        *figures.fig3(figures.FIG3, PAPER_POLICIES, figures.FIG3_LOADS, None),
        *figures.ratio(figures.RATIO, ("late-binding",), figures.RATIO_LOADS, figures.RATIOS, None),
        *figures.cancel(figures.FIG3, figures.CANCEL_LOADS, None),
        *figures.hetero(figures.HETERO, ("late-binding",), figures.HETERO_LOADS, None),
    ]


def test_every_point_of_every_figure_can_be_run():
    setups = all_setups()
    assert len(setups) == 30 + 12 + 6 + 8
    assert len(set(setups)) == len(setups) - 3  # fig3 has late binding with cancellation as well
    for each in setups:
        check(each)


def test_fig3_is_the_cluster_of_the_paper():
    points = figures.fig3(figures.FIG3, PAPER_POLICIES, figures.FIG3_LOADS, None)
    assert {(point.workers, point.slots, point.probe_ratio, point.latency_s) for point in points} == {
        (10_000, 4, 2.0, 0.0005)
    }
    assert {point.load: point.jobs for point in points} == {
        0.3: 10_000, 0.5: 10_000, 0.7: 10_000, 0.8: 10_000, 0.9: 30_000, 0.95: 30_000,
    }  # fmt: skip
    assert {point.jobs for point in figures.fig3(figures.FIG3, PAPER_POLICIES, (0.9,), 50)} == {50}


def test_the_papers_medians_are_those_of_the_table():
    assert figures.FIG3_MEDIAN_MS["late-binding", 0.8] == 73.4
    assert figures.FIG3_MEDIAN_MS["batch", 0.9] == 192.0
    assert figures.FIG3_MEDIAN_MS[OMNISCIENT, 0.95] == 70.7
    assert len(figures.FIG3_MEDIAN_MS) == 2 + 4 * 6
    assert max(load for policy, load in figures.FIG3_MEDIAN_MS if policy == "random") == 0.5


def fig3_table(**changes: float):
    points = figures.fig3(figures.FIG3, ("random", "late-binding"), (0.3, 0.7, 0.8), 10)
    return tables.fig3([(point, row(point, median_ms=147.0, **changes)) for point in points])


def test_rows_begin_as_promised_and_have_the_paper_beside_them():
    table = fig3_table()
    for record in table.rows:
        assert tuple(record)[:7] == ("policy", "load", "jobs", "median_ms", "p95_ms", "p99_ms", "delay_p50_ms")
    first, _, at_8 = table.rows[0], table.rows[2], table.rows[5]
    assert (first["paper_ms"], first["deviation_percent"]) == (140.0, 5.0)
    assert (at_8["paper_ms"], at_8["deviation_percent"]) == (73.4, 100.27)
    shown = tables.for_people(table)
    assert [cells["paper_ms"].strip() for cells in shown] == ["140.0", ">350", "", "71.3", "71.0", "73.4"]
    assert len({len(cells["paper_ms"]) for cells in shown}) == 1
    assert table.note == ""


def test_another_cluster_than_the_papers_is_noted():
    small = replace(figures.FIG3, workers=100)
    table = tables.fig3([(point, row(point)) for point in figures.fig3(small, ("batch",), (0.3,), 10)])
    assert "10,000 workers x 4 slots" in table.note


def test_csv_has_every_column_and_nothing_where_there_is_no_number():
    table = fig3_table(p95_ms=math.nan)
    read = list(csv.DictReader(io.StringIO(tables.as_csv(table))))
    assert len(read) == 6
    assert (read[2]["paper_ms"], read[2]["p95_ms"], read[2]["median_ms"]) == ("", "", "147.0")
    assert {"workers", "slots", "seed", "messages_per_task"} <= set(read[0])


def test_ratio_compares_with_ratio_1_at_the_same_load():
    points = figures.ratio(figures.RATIO, ("late-binding",), (0.8, 0.9), (1.0, 3.0), 10)
    done = [
        (point, row(point, median_ms=median_ms)) for point, median_ms in zip(points, (200, 100, 600, 678), strict=True)
    ]
    rows = tables.ratio(done).rows
    assert [record["better_than_1"] for record in rows] == [1.0, 2.0, 1.0, 0.885]
    assert [record["paper_ms"] for record in rows] == [None, None, None, 678.0]
    assert tables.ratio(done[1:2]).rows[0]["better_than_1"] is None  # interrupted: there is nothing to compare with


def test_cancellation_is_compared_with_its_absence():
    points = figures.cancel(figures.FIG3, (0.8, 0.95), 10)
    values = [(100.0, 4.0), (94.0, 4.08), (200.0, 4.0), (150.0, 5.0)]
    done = [
        (point, row(point, median_ms=median_ms, messages_per_task=messages))
        for point, (median_ms, messages) in zip(points, values, strict=True)
    ]
    rows = tables.cancel(done).rows
    assert [record["median_change_percent"] for record in rows] == [None, -6.0, None, -25.0]
    assert [record["messages_change_percent"] for record in rows] == [None, 2.0, None, 25.0]


def test_hetero_shows_short_jobs_against_one_of_their_tasks():
    points = figures.hetero(figures.HETERO, ("late-binding",), (0.8,), 10)
    assert {(p.slots, p.workload.long_share, p.workload.long_duration_s): p.warm_up_s for p in points}[
        4, 0.5, 100.0
    ] == 500
    rows = tables.hetero([(point, row(point)) for point in points]).rows
    assert {record["above_ideal_percent"] for record in rows} == {10.0}
    assert sorted(record["paper_p95_ms"] for record in rows if record["paper_p95_ms"]) == [666.0, 2466.0, 6278.0]


def test_a_replay_stands_beside_its_recording_and_the_central_queue():
    batch, ideal = Setup(policy="batch"), Setup(policy=OMNISCIENT)
    meta = {"response_p50_ms": "120.5", "response_p95_ms": "much", "workers": "4"}
    done = [(batch, row(batch, median_ms=130.0)), (ideal, row(ideal, median_ms=100.0))]
    (record,) = tables.replay(done, load=0.4, meta=meta).rows
    assert (record["policy"], record["load"], record["median_ms"]) == ("batch", 0.4, 130.0)
    assert (record["recorded_median_ms"], record["recorded_p95_ms"]) == (120.5, None)
    assert record["omniscient_median_ms"] == 100.0
    (alone,) = tables.replay(done[:1], load=None, meta={}).rows
    assert (alone["omniscient_median_ms"], alone["load"]) == (None, None)


def test_a_traces_load_is_its_work_over_its_time():
    trace = [Job(1.0, [0.5, 0.5]), Job(3.0, [1.0])]
    assert tables.asked_load(trace, 4) == 0.25
    assert tables.asked_load(trace[:1], 4) is None


# Plots.


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_a_plot_is_of_the_kind_that_its_name_says(tmp_path, suffix, magic):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"fig3{suffix}"
    plot.check(path)
    plot.draw(plot.fig3(fig3_table().rows), path)
    assert path.read_bytes().startswith(magic)


def test_a_png_has_1200_by_800_pixels(tmp_path):
    pytest.importorskip("matplotlib")
    plot.draw(plot.fig3(fig3_table().rows), tmp_path / "x.png")
    header = (tmp_path / "x.png").read_bytes()[16:24]
    assert (int.from_bytes(header[:4]), int.from_bytes(header[4:])) == (1200, 800)


def test_charts_have_a_line_a_policy_and_the_papers_points():
    chart = plot.fig3(fig3_table().rows)
    assert [series.label for series in chart.series] == ["random", "late-binding"]
    assert chart.series[0].points == [(0.3, 147.0), (0.7, 147.0), (0.8, 147.0)]
    assert chart.series[0].paper == [(0.3, 140.0)]
    assert chart.log_y


def test_one_load_is_drawn_over_the_policies():
    rows = tables.run([(point, row(point)) for point in (Setup(policy="batch"), Setup(policy="random"))]).rows
    chart = plot.run(rows)
    assert [series.label for series in chart.series] == ["median", "p95", "p99"]
    assert [x for x, _ in chart.series[0].points] == ["batch", "random"]


def test_hetero_and_replay_are_drawn_over_names(tmp_path):
    pytest.importorskip("matplotlib")
    points = figures.hetero(figures.HETERO, ("late-binding",), (0.8,), 10)
    chart = plot.hetero(tables.hetero([(point, row(point)) for point in points]).rows)
    assert len({x for x, _ in chart.series[0].points}) == 8
    assert len(chart.series[0].paper) == 3
    plot.draw(chart, tmp_path / "hetero.png")
    batch = Setup(policy="batch")
    replayed = tables.replay([(batch, row(batch))], load=0.5, meta={"response_p99_ms": "9"})
    chart = plot.replay(replayed.rows)
    assert [series.label for series in chart.series] == ["batch, simulated", "recorded"]


def test_another_suffix_is_refused():
    with pytest.raises(UsageError, match=r"--plot x\.pdf: expected a file that ends in \.png or \.svg"):
        plot.check(plot.Path("x.pdf"))


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match="matplotlib, which is not installed") as caught:
        plot.check(plot.Path("x.png"))
    assert caught.value.hint == "pip install 'sparrowmq[figures]'"
