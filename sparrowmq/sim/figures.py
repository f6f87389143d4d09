"""Which set-ups make which figure, and what the Sparrow paper says of them.

Owns: clusters, loads and workloads of the figures; the paper's points. Must not know: how a set-up is run or drawn.

All of the paper's figures are from Ousterhout, Wendell, Zaharia, Stoica: "Sparrow: Distributed, Low Latency
Scheduling", SOSP 2013; which one stands with each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from sparrowmq.sim.setup import OMNISCIENT, Setup
from sparrowmq.sim.workload import Workload

JOBS: Final = 10_000
HIGH_LOAD: Final = 0.9
HIGH_LOAD_JOBS: Final = 30_000  # queues change slowly there

# Fig 3: 10,000 four-core machines, Poisson arrivals, 100 tasks a job, one exponential duration for all
# tasks of a job, 0.5 ms one way, d = 2. Cancellation comes later in the paper (section 3.6), as an improvement on this.
FIG3: Final = Setup(
    workers=10_000,
    slots=4,
    probe_ratio=2.0,
    cancellation=False,
    latency_s=0.0005,
    workload=Workload(arrivals="poisson", tasks=100, duration_s=0.1, duration_law="exponential-job"),
)
FIG3_LOADS: Final = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
FIG3_MEDIAN_MS: Final[Mapping[tuple[str, float], float]] = {  # read from the vectors of the figure
    (policy, load): median_ms
    for policy, medians_ms in {
        "random": (140.0, 246.0),
        "per-task": (71.5, 80.0, 150.0, 184.0, 240.0, 282.0),
        "batch": (70.5, 72.0, 90.0, 134.0, 192.0, 239.0),
        "late-binding": (71.3, 71.0, 71.0, 73.4, 92.5, 118.0),
        OMNISCIENT: (69.8, 69.5, 69.6, 70.0, 70.4, 70.7),
    }.items()
    for load, median_ms in zip(FIG3_LOADS, medians_ms, strict=False)
}
FIG3_ABOVE_MS: Final[Mapping[tuple[str, float], float]] = {("random", 0.7): 350.0}  # it leaves the figure there

# "Probe ratio", Fig 14: 110 machines with 8 slots, 10 schedulers, jobs of 10 tasks of 100 ms. The paper measured a real
# cluster; the CPU time of a message stands for what its nodes had to do beside the tasks.
RATIO: Final = Setup(
    workers=110,
    slots=8,
    schedulers=10,
    scheduler_cost_s=0.00009,
    worker_cost_s=0.001,
    workload=Workload(arrivals="poisson", tasks=10, duration_s=0.1, duration_law="constant"),
)
RATIO_LOADS: Final = (0.8, 0.9)
RATIOS: Final = (1.0, 1.1, 1.2, 1.5, 2.0, 3.0)
RATIO_MEDIAN_MS: Final[Mapping[tuple[float, float], float]] = {(0.9, 3.0): 678.0}  # (load, ratio): the one in print
RATIO_SAYS: Final = (
    "the paper (Fig 14): at load 0.9 ratio 1.1 has more than 2.5 times better a median than 1, and 3 is worse than 2; "
    "at 0.8 ratio 1.1 has 1.4 times that of 2"
)

# Section 3.6: cancellation on the cluster of Fig 3.
CANCEL_LOADS: Final = (0.8, 0.9, 0.95)
CANCEL_SAYS: Final = (
    "the paper (section 3.6): at load 0.95 cancellation takes 6 % off the median, for 2 % more messages"
)

# "Heterogeneous durations": short jobs of 10 tasks of 100 ms, long ones of 10 s or 100 s, 80 % load, 4 or 16
# slots. The number of machines is that of Fig 3. Tails depend on it: on 100 machines a few long jobs more or less fill
# the cluster for a while.
HETERO: Final = Setup(
    workers=10_000,
    workload=Workload(arrivals="poisson", tasks=10, duration_s=0.1, duration_law="bimodal"),
)
HETERO_LOADS: Final = (0.8,)
HETERO_SLOTS: Final = (4, 16)
HETERO_LONG_S: Final = (10.0, 100.0)
HETERO_SHARES: Final = (0.1, 0.5)
HETERO_WARM_UP: Final = 5.0  # in long tasks: until then the first ones have hardly ended
HETERO_P95_MS: Final[Mapping[tuple[int, float, float], float]] = {  # (slots, share, long duration): of short jobs
    (4, 0.5, 10.0): 666.0,
    (4, 0.1, 100.0): 2466.0,
    (4, 0.5, 100.0): 6278.0,
}
# Load hints (not in the paper): jobs of 20 tasks on 1,000 workers with 4 slots, a seventh of Fig 3's tasks a second.
# Messages take as long as there; beats and hints take the way over the store and the assistant besides.
HINTS: Final = Setup(
    workers=1_000,
    slots=4,
    workload=Workload(arrivals="poisson", tasks=20, duration_s=0.1, duration_law="exponential-job"),
)
HINTS_LOADS: Final = (0.9,)
HINTS_BEATS_S: Final = (0.01, 0.05, 0.1, 0.2)
HINTS_SCHEDULERS: Final = (1, 10)
HINTS_JOBS: Final = 10_000
HINTS_SAYS: Final = (
    "beats_ms 0: no assistant; times_better: how many times shorter the median delay is than late binding's"
)

HETERO_SAYS: Final = "the paper: with 16 slots and 50 % long jobs, short ones are within 11 % of ideal"


def jobs_at(load: float) -> int:
    """Return how many jobs a point counts, unless it is told."""
    return HIGH_LOAD_JOBS if load >= HIGH_LOAD else JOBS


def fig3(base: Setup, policies: Sequence[str], loads: Sequence[float], jobs: int | None) -> list[Setup]:
    """Return the points of Fig 3: response times over load. ``base`` is FIG3, or what differs from it."""
    return [
        replace(base, policy=policy, load=load, jobs=jobs or jobs_at(load)) for policy in policies for load in loads
    ]


def ratio(
    base: Setup, policies: Sequence[str], loads: Sequence[float], ratios: Sequence[float], jobs: int | None
) -> list[Setup]:
    """Return the points of Fig 14: response times over the probe ratio."""
    return [
        replace(base, policy=policy, load=load, probe_ratio=probe_ratio, jobs=jobs or JOBS)
        for policy in policies
        for load in loads
        for probe_ratio in ratios
    ]


def cancel(base: Setup, loads: Sequence[float], jobs: int | None) -> list[Setup]:
    """Return late binding without and with cancellation at each load."""
    return [
        replace(base, policy="late-binding", load=load, cancellation=cancellation, jobs=jobs or jobs_at(load))
        for load in loads
        for cancellation in (False, True)
    ]


def hetero(
    base: Setup,
    policies: Sequence[str],
    loads: Sequence[float],
    jobs: int | None,
    *,
    slots: Sequence[int] = HETERO_SLOTS,
    long_s: Sequence[float] = HETERO_LONG_S,
    shares: Sequence[float] = HETERO_SHARES,
) -> list[Setup]:
    """Return the points of the heterogeneous workload: each number of slots, duration and share of long jobs."""
    return [
        replace(
            base,
            policy=policy,
            load=load,
            slots=each,
            jobs=jobs or JOBS,
            warm_up_s=HETERO_WARM_UP * duration_s,
            workload=replace(base.workload, long_share=share, long_duration_s=duration_s),
        )
        for policy in policies
        for load in loads
        for each in slots
        for duration_s in long_s
        for share in shares
    ]


def hints(
    base: Setup,
    loads: Sequence[float],
    jobs: int | None,
    *,
    beats_s: Sequence[float] = HINTS_BEATS_S,
    schedulers: Sequence[int] = HINTS_SCHEDULERS,
) -> list[Setup]:
    """Return late binding, then "assisted" without an assistant and with each interval of beats."""
    return [
        replace(base, policy=policy, load=load, schedulers=many, beats_s=interval_s, jobs=jobs or HINTS_JOBS)
        for many in schedulers
        for load in loads
        for policy, interval_s in [("late-binding", 0.0), *(("assisted", s) for s in dict.fromkeys((0.0, *beats_s)))]
    ]
