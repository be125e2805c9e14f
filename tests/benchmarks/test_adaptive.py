"""Adaptive scaling on made-up queues and workloads, which Hypothesis finds: what must hold whatever comes."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given, settings, strategies as st

from benchmarks.mix import read_mix
from benchmarks.oracle import clairvoyant, fixed, least
from benchmarks.policies import Dask, Ours, work
from benchmarks.queue_world import Burst, EndlessError, Kind, SimJob, Site, Trace, World
from hpclaunch.jobs.adaptive import OVERTIME_SECONDS

SITES = st.builds(
    Site,
    wait=st.integers(0, 200),
    spread=st.sampled_from([0.0, 0.5]),
    running=st.integers(1, 30),
    walltime=st.sampled_from([300, 3600]),
    failing=st.sampled_from([0.0, 0.2]),
    preempted=st.sampled_from([0.0, 0.05, 0.3]),
    is_put_back=st.booleans(),
)
KINDS = st.sampled_from(
    [
        (Kind(),),
        (Kind(processes=4),),
        (Kind(processes=2, threads=2), Kind("gpu", threads=2)),
        (Kind(processes=3), Kind("gpu")),
    ]
)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Return a workload of some bursts, of which some need the results of others or wait for a person."""
    kinds = draw(KINDS)
    bursts: list[Burst] = []
    for number in range(draw(st.integers(1, 4))):
        after = draw(st.none() | st.integers(0, number - 1)) if number else None
        pause = draw(st.none() | st.integers(1, 200)) if after is not None else None
        bursts.append(
            Burst(
                draw(st.integers(0, 1000)),
                draw(st.integers(1, 60)),
                draw(st.integers(1, 60)),
                function=draw(st.sampled_from("fg")),
                kind=draw(st.sampled_from(kinds)).name,
                tail=draw(st.sampled_from([0.0, 0.5])),
                after=after,
                pause=pause,
            )
        )
    return Trace("found", tuple(bursts), draw(SITES), draw(st.integers(1, 12)), kinds)


class Watched(Ours):
    """Ours, with an eye on each step: the limits, and that nothing goes that is of use."""

    grace = 60  # seconds of the default policy

    def __init__(self, trace: Trace, **policy: float) -> None:
        super().__init__(trace, **policy)
        self.wanted_at: dict[str, int] = {kind.name: -1 for kind in trace.kinds}
        self.is_spending = "core_hours" in policy
        self.turns = 0  # from retiring to submitting
        self._let_go = dict.fromkeys(self.wanted_at, False)

    def step(self, world: World) -> None:
        before = {kind.name: world.live(kind.name) for kind in world.trace.kinds}
        tasks = {job.id: len(job.tasks) for job in world.live()}
        for kind in world.trace.kinds:
            if self._need(world, kind) >= len(before[kind.name]):
                self.wanted_at[kind.name] = world.now
        super().step(world)
        for kind in world.trace.kinds:
            live = world.live(kind.name)
            assert len(live) <= world.trace.maximum
            gone = [job for job in before[kind.name] if job not in live]
            if gone and not self.is_spending:
                self._check_gone(world, kind, gone, tasks)
            self._count_turns(kind, bool(gone), any(job not in before[kind.name] for job in live))

    def _need(self, world: World, kind: Kind) -> int:
        """Return the jobs that the work is worth, reckoned again."""
        count, seconds = work(world, kind.name)
        return min(world.trace.maximum, math.ceil(min(count, math.ceil(seconds / 5)) / kind.slots))

    def _check_gone(self, world: World, kind: Kind, gone: list[SimJob], tasks: dict[str, int]) -> None:
        assert all(not tasks[job.id] for job in gone), "a job with tasks was retired"
        assert len(world.live(kind.name)) >= self._need(world, kind), "a job was retired that is needed now"
        if any(job.started is None for job in gone):
            assert world.now - self.wanted_at[kind.name] >= self.grace, "a queued job had just been needed"

    def _count_turns(self, kind: Kind, has_let_go: bool, has_submitted: bool) -> None:
        assert not (has_let_go and has_submitted)
        self.turns += has_submitted and self._let_go[kind.name]
        if has_let_go or has_submitted:
            self._let_go[kind.name] = has_let_go


def losses(world: World) -> int:
    """Return how often jobs ended, or were put back, without having been retired."""
    ended = sum(not job.is_leaving for job in world.jobs)
    return ended + sum(job.earlier_seconds > 0 for job in world.jobs)


@pytest.mark.slow
@settings(max_examples=20)
@given(traces(), st.integers(1, 5))
def test_the_work_ends_within_the_limits(trace: Trace, seed: int) -> None:
    chooser = Watched(trace)
    world = World(trace, seed).run(chooser)
    assert not any(world.left)
    assert all(job.ended is not None for job in world.jobs)
    kinds = {kind.name: kind for kind in trace.kinds}
    useful = [min(trace.maximum, math.ceil(burst.tasks / kinds[burst.kind].slots)) for burst in trace.bursts]
    # inputs may come one after another, further apart than an idle job is kept: then each is new work
    apart = sum(burst.tasks for burst in trace.bursts if burst.after is not None and burst.pause is None)
    assert world.submitted <= 2 * sum(useful) + apart + losses(world)
    assert chooser.turns <= 2 * len(trace.bursts) + apart + losses(world)


@pytest.mark.slow
@settings(max_examples=20)
@given(traces(), st.integers(1, 5), st.floats(1.0, 4.0))
def test_a_budget_is_never_exceeded(trace: Trace, seed: int, jobs: float) -> None:
    each = (trace.site.walltime + OVERTIME_SECONDS) * max(kind.slots for kind in trace.kinds)
    chooser = Watched(trace, core_hours=jobs * each / 3600)  # of each kind
    world = World(trace, seed)
    with contextlib.suppress(EndlessError):  # it may not be enough
        world.run(chooser, limit=6000)
    for kind in trace.kinds:
        spent = sum(job.ran(world.now) * kind.slots for job in world.jobs if job.kind == kind)
        assert spent <= jobs * each + 1e-6


@pytest.mark.parametrize(("wait", "jobs", "seconds"), [(0, 1.0, 10), (0, 3.0, 60), (1, 1.3, 200), (30, 2.0, 60)])
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_budget_holds_when_jobs_run_twice(wait: int, jobs: float, seconds: int, seed: int) -> None:
    each = 300 + OVERTIME_SECONDS
    site = Site(wait=wait, walltime=300, preempted=0.3, is_put_back=True)
    trace = Trace("twice", (Burst(0, 60, seconds),), site, 6)
    world = World(trace, seed)
    with contextlib.suppress(EndlessError):
        world.run(Watched(trace, core_hours=jobs * each / 3600), limit=3000)
    assert any(job.earlier_seconds for job in world.jobs)
    assert world.core_seconds <= jobs * each


@pytest.mark.slow
@settings(max_examples=5)
@given(traces(), st.integers(1, 5))
def test_the_bounds_are_below_what_anybody_took(trace: Trace, seed: int) -> None:
    seconds, core_seconds = least(trace, seed)
    for chooser in (Ours(trace), Dask(trace)):
        with contextlib.suppress(EndlessError):  # Dask's may never end
            world = World(trace, seed).run(chooser, limit=6000)
            assert world.turnaround >= seconds
            assert world.core_seconds >= core_seconds


def test_the_mix_is_as_it_is_described() -> None:
    mix = read_mix()
    assert {seed for _, seed in mix} == {1, 2}
    assert any(kind.processes > 1 for trace, _ in mix for kind in trace.kinds)
    assert any(len(trace.kinds) > 1 for trace, _ in mix)
    trickle = next(trace for trace, _ in mix if trace.name == "a steady trickle")
    assert [burst.at for burst in trickle.bursts] == list(range(0, 900, 60))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a person at a notebook", "a tree of sums", "processors and GPUs"])
def test_the_clairvoyant_is_no_worse_than_what_it_starts_from(name: str) -> None:
    trace = next(trace for trace, _ in read_mix() if trace.name == name)
    best = clairvoyant(trace, 1, trials=20)
    assert best.turnaround * best.core_seconds**0.1 <= (
        1.02 * fixed(trace, 1).turnaround * fixed(trace, 1).core_seconds ** 0.1
    )
    seconds, core_seconds = least(trace, 1)
    assert best.turnaround >= seconds
    assert best.core_seconds >= core_seconds


def test_each_kind_of_work_waits_for_its_inputs_and_its_jobs() -> None:
    trace = Trace(
        "two kinds",
        (Burst(0, 8, 10), Burst(0, 2, 5, "g", kind="gpu", after=0), Burst(0, 1, 5, after=1, pause=60)),
        Site(wait=0),
        kinds=(Kind(processes=2, threads=2), Kind("gpu", threads=2)),
    )
    world = World(trace).run(Ours(trace))
    assert [world.came[0], world.came[1]] == [0, 0]
    assert world.finished[0] + 5 <= world.finished[1]
    assert world.came[2] == world.finished[1] + 60
    assert {job.kind.name for job in world.jobs} == {"cpu", "gpu"}
