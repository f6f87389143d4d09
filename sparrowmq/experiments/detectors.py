"""All failure detectors on the same beats: T_D against T_MR, and the two-stage rule of the assistant.

Owns: which detectors are tried with which settings, what is counted, the rows. Must not know: how beats come about, how
rows reach the screen.

A detector that is fast is wrong more often, so two are compared where they are wrong equally often: by the time from a
crash to the suspicion that stays, at the same T_MR. Crashes are laid at random moments over the whole run; beats sent
before a crash still arrive.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, NamedTuple

from sparrowmq.detection import NAMES, Detector, make
from sparrowmq.detection.bertier import Bertier
from sparrowmq.detection.phi_accrual import PhiAccrual
from sparrowmq.detection.qos import History
from sparrowmq.errors import UsageError
from sparrowmq.experiments.beats import SCENARIOS, Beat, Scenario, beats
from sparrowmq.settings import AssistantSettings

INTERVAL_S: Final = 0.1
SECONDS_MIN: Final = 60.0
CRASHES: Final = 10_000  # a run
WARM_UP_BEATS: Final = 100  # do not count
CANARY_STRETCH: Final = 1.000618
LAG_S: Final = 0.003  # of the assistant: what it has sent into the stream comes back after so long
MARGINS_MS: Final = (*range(0, 60, 10), *range(60, 280, 20), 300, 350)
PHI_WEIGHTS: Final = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)  # of Bertier's margin; published: 4
THRESHOLDS: Final = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 48.0)  # of phi; published: 8
RATES_PER_H: Final = (60.0, 6.0)  # at which detectors are compared
MISTAKES_MIN: Final = 10  # expected, for a comparison that means something

Row = dict[str, Any]
Watch = Callable[["Count"], AbstractContextManager[object]]


class Count:
    """How far a run is, in beats: what a bar reads whenever it is drawn."""

    def __init__(self, description: str, total: int) -> None:
        self.description = description
        self.total: int | None = total
        self.done = 0
        self.failed = 0


class Trial(NamedTuple):
    """One detector as it is tried: ``setting`` is "margin" (ms), "weight" or "threshold"."""

    detector: str
    setting: str
    value: float
    new: Callable[[], Detector]


def trials(names: Iterable[str], among_ms: float) -> list[Trial]:
    """Return what is tried of these detectors: with margins as the assistant gives them, ``among_ms`` among them.

    Those whose published form has no such margin are tried in that form as well.
    """
    tried: list[Trial] = []
    for name in names:
        tried += [_margin(name, value) for value in sorted({*MARGINS_MS, among_ms})]
        if name == "bertier":
            tried += [Trial(name, "weight", weight, _bertier(weight)) for weight in PHI_WEIGHTS]
        elif name == "phi-accrual":
            tried += [Trial(name, "threshold", threshold, _phi_accrual(threshold)) for threshold in THRESHOLDS]
    return tried


def _margin(name: str, value_ms: float) -> Trial:
    return Trial(name, "margin", float(value_ms), lambda: make(name, INTERVAL_S, value_ms * 1e-3))


def _bertier(weight: float) -> Callable[[], Detector]:
    return lambda: Bertier(INTERVAL_S, phi=weight)


def _phi_accrual(threshold: float) -> Callable[[], Detector]:
    return lambda: PhiAccrual(INTERVAL_S, threshold=threshold)


# -- one scenario


class Rule(NamedTuple):
    """The second stage: dead ``confirm_beats`` intervals after the suspicion, judged once a canary has come back.

    The canaries' interval is a little longer than asked, as that of a timer is, so that no beat keeps its place between
    two of them.
    """

    confirm_beats: float
    canary_s: float

    def judged_s(self, deadline_s: float) -> float:
        """Return when a node is judged that is silent beyond a moment: when the first canary after it was sent.

        The assistant widens its margins by twice its lag.
        """
        each_s = CANARY_STRETCH * self.canary_s
        return math.ceil((deadline_s + 2.0 * LAG_S) / each_s) * each_s

    def dead_s(self, deadline_s: float) -> float:
        """Return when it is judged dead, unless it is heard before."""
        return self.judged_s(deadline_s + self.confirm_beats * INTERVAL_S)


class _Watched:
    """One trial on the beats of one scenario."""

    def __init__(self, trial: Trial, rule: Rule) -> None:
        self.trial = trial
        self.detector = trial.new()
        self.begin(0.0)
        self._rule = rule
        self._detection_s = array("d")
        self._suspect_s = array("d")
        self._dead_s = array("d")

    def begin(self, at_s: float) -> None:
        """The warm-up is over."""
        self._history = History(at_s)
        self._suspected = 0  # these two: by the assistant, wrongly
        self._deaths = 0

    def mistaken(self, at_s: float) -> None:
        """A beat comes after the deadline."""
        deadline_s = self.detector.deadline_s
        self._history.suspect(deadline_s)
        self._history.trust(at_s)
        self._suspected += self._rule.judged_s(deadline_s) < at_s
        self._deaths += self._rule.dead_s(deadline_s) < at_s

    def crash(self, crash_s: float) -> None:
        """Note what would follow if nothing that is sent from now on arrived."""
        deadline_s = self.detector.deadline_s
        self._detection_s.append(max(0.0, deadline_s - crash_s))
        self._suspect_s.append(max(0.0, self._rule.judged_s(deadline_s) + LAG_S - crash_s))
        self._dead_s.append(max(0.0, self._rule.dead_s(deadline_s) + LAG_S - crash_s))

    def row(self, end_s: float) -> Row:
        """Return what has come out."""
        quality = self._history.quality(end_s)
        hours = quality.up_s / 3600.0
        known = quality.mistakes > 0
        return {
            "detector": self.trial.detector,
            "setting": self.trial.setting,
            "value": self.trial.value,
            "mistakes": quality.mistakes,
            "mistakes_per_h": round(quality.mistakes / hours, 4),
            "t_mr_s": round(quality.recurrence_s, 3) if known else None,
            "t_m_ms": round(quality.duration_s * 1e3, 3) if known else None,
            "p_a": round(quality.accuracy, 9),
            **_spread_ms("t_d", self._detection_s),
            "confirm_beats": self._rule.confirm_beats,
            "false_suspects": self._suspected,
            "false_suspects_per_h": round(self._suspected / hours, 4),
            **_spread_ms("suspect", self._suspect_s),
            "false_deaths": self._deaths,
            "false_deaths_per_h": round(self._deaths / hours, 4),
            **_spread_ms("dead", self._dead_s),
        }


def _spread_ms(name: str, times_s: array[float]) -> Row:
    ordered = sorted(times_s)
    p99_s = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    mean_s = math.fsum(ordered) / len(ordered)
    return {
        f"{name}_ms": round(mean_s * 1e3, 3),
        f"{name}_p99_ms": round(p99_s * 1e3, 3),
        f"{name}_max_ms": round(ordered[-1] * 1e3, 3),
    }


def measure(
    scenario: Scenario, tried: Sequence[Trial], seconds: float, seed: int, rule: Rule, count: Count | None = None
) -> list[Row]:
    """Return a row for each trial, all on the same beats: those of this scenario, ``seconds`` long, of this seed."""
    watched = [_Watched(trial, rule) for trial in tried]
    made = beats(scenario, random.Random(f"beats {scenario.name} {seed}"), INTERVAL_S, seconds)
    rng = random.Random(f"crashes {scenario.name} {seed}")
    end_s = begin_s = 0.0
    for number, beat in enumerate(made):
        if number == WARM_UP_BEATS:
            begin_s = beat.at_s
            each_s = (seconds - begin_s) / CRASHES
            crash_s = begin_s + each_s * rng.random()
            for one in watched:
                one.begin(begin_s)
        elif number > WARM_UP_BEATS:
            while crash_s < beat.sent_s:
                for one in watched:
                    one.crash(crash_s)
                crash_s += each_s * 2.0 * rng.random()
        _hear(watched, beat)
        end_s = beat.at_s
        if count is not None:
            count.done += 1
    head = {"scenario": scenario.name, "seconds": round(end_s - begin_s, 1), "seed": seed}
    return [{**head, **one.row(end_s)} for one in watched]


def _hear(watched: Sequence[_Watched], beat: Beat) -> None:
    sequence, at_s = beat.sequence, beat.at_s
    for one in watched:
        detector = one.detector
        if detector.deadline_s < at_s:
            one.mistaken(at_s)
        detector.beat(sequence, at_s)


def run(
    *,
    names: Sequence[str] = NAMES,
    scenarios: Sequence[str] = (),
    seconds: float = 3600.0,
    seed: int = 1,
    settings: AssistantSettings | None = None,
    watch: Watch = nullcontext,
) -> list[Row]:
    """Return the rows of these detectors in these scenarios (none: all). ``watch`` shows the count meanwhile.

    ``settings`` tell the second stage, and a margin that every detector is tried with. Raises UsageError for less than
    SECONDS_MIN.
    """
    if not SECONDS_MIN <= seconds < math.inf:
        raise UsageError(f"{seconds:g} s of beats: expected {SECONDS_MIN:g} at the least, the first ten do not count")
    settings = settings or AssistantSettings()
    wanted = [scenario for scenario in SCENARIOS if not scenarios or scenario.name in scenarios]
    tried = trials(names, margin_ms(settings))
    count = Count(f"{len(wanted)} scenarios", int(len(wanted) * seconds / INTERVAL_S))
    rule = Rule(settings.confirm_beats, settings.canary_interval_s)
    rows: list[Row] = []
    with watch(count):
        for scenario in wanted:
            rows += measure(scenario, tried, seconds, seed, rule, count)
    return rows


def margin_ms(settings: AssistantSettings) -> float:
    """Return the margin that the assistant gives its detectors here."""
    return round(settings.detection_beats * INTERVAL_S * 1e3, 6)


# -- comparisons


def needed_ms(curve: Sequence[Row], rate_per_h: float, measure: str = "t_d_ms") -> float | None:
    """Return the least T_D at which a detector's curve is wrong no more than ``rate_per_h`` times an hour.

    ``measure`` is "t_d_ms" (the mean) or "t_d_p99_ms". Between two points of the curve it goes with the logarithm of
    the rate. None where the curve does not come so far, or the run is too short to tell.
    """
    before: Row | None = None
    for row in sorted(curve, key=lambda row: float(row[measure])):
        hours = row["seconds"] / 3600.0
        if hours * rate_per_h < MISTAKES_MIN:
            return None
        if row["mistakes_per_h"] > rate_per_h:
            before = row
            continue
        need = float(row[measure])
        if before is None:
            return need
        from_ms = float(before[measure])
        high = math.log(before["mistakes_per_h"])
        low = math.log(max(row["mistakes_per_h"], 0.5 / hours))  # no mistake seen: half of one
        return from_ms + (need - from_ms) * (high - math.log(rate_per_h)) / (high - low)
    return None


def compared(rows: Sequence[Row]) -> list[Row]:
    """Return for each scenario and detector what it needs at RATES_PER_H, and how far that is from the fixed timeout.

    Columns: ``mean_60_ms`` and ``p99_60_ms`` are T_D at 60 mistakes an hour; each is followed by its ``_percent``.
    """
    curves: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        published = "" if row["setting"] == "margin" else f" ({row['setting']})"
        curves.setdefault((row["scenario"], row["detector"] + published), []).append(row)
    table: list[Row] = []
    for (scenario, name), curve in curves.items():
        record: Row = {"scenario": scenario, "detector": name}
        fixed = curves.get((scenario, "fixed"), [])
        for rate in RATES_PER_H:
            for column, measure in (("mean", "t_d_ms"), ("p99", "t_d_p99_ms")):
                need, base = needed_ms(curve, rate, measure), needed_ms(fixed, rate, measure)
                record[f"{column}_{rate:g}_ms"] = need
                record[f"{column}_{rate:g}_percent"] = 100.0 * (need / base - 1.0) if need and base else None
        table.append(record)
    return table


def two_stage(rows: Sequence[Row], settings: AssistantSettings) -> list[Row]:
    """Return the rows of every detector with the margin that the assistant gives it."""
    return [row for row in rows if row["setting"] == "margin" and row["value"] == margin_ms(settings)]
