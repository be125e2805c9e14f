"""Adaptive scaling on made-up queues and workloads, which Hypothesis finds: what must hold whatever comes."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.policies import Ours
from benchmarks.queue_world import Burst, EndlessError, Site, Trace, World
from hpclaunch.cluster.adaptive import OVERTIME_SECONDS

SITES = st.builds(
    Site,
    wait=st.integers(0, 200),
    spread=st.sampled_from([0.0, 0.5]),
    running=st.integers(1, 30),
    walltime=st.sampled_from([300, 3600]),
    failing=st.sampled_from([0.0, 0.2]),
    preempted=st.sampled_from([0.0, 0.05]),
)
BURSTS = st.lists(
    st.builds(Burst, st.integers(0, 1000), st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=3
)
TRACES = st.builds(Trace, st.just("found"), BURSTS.map(tuple), SITES, st.integers(1, 12))


class Watched(Ours):
    """Ours, with an eye on the limits at each step."""

    def step(self, world: World) -> None:
        before = {job.id for job in world.live()}
        super().step(world)
        live = world.live()
        assert len(live) <= world.trace.maximum
        gone = before - {job.id for job in live}
        cancelled = [job for job in world.jobs if job.id in gone and job.started is None]
        assert not cancelled or not world.ready or len(live) >= world.trace.maximum or self._is_enough(world)
        assert all(not job.tasks for job in world.jobs if job.id in gone)

    def _is_enough(self, world: World) -> bool:
        """Whether the jobs that stay are as many as the policy wants."""
        return len(world.live()) >= self.adaptive.log[-1].wish


@settings(max_examples=20)
@given(TRACES, st.integers(1, 5))
def test_the_work_ends_within_the_limits(trace: Trace, seed: int) -> None:
    world = World(trace, seed).run(Watched(trace))
    assert not any(world.left)
    losses = sum(job.ended is not None and job.started is None for job in world.jobs)
    lives = world.core_seconds // trace.site.walltime
    restarts = sum(job.started is not None and not job.is_leaving for job in world.jobs)
    assert world.submitted <= trace.maximum * len(trace.bursts) + losses + lives + restarts


@settings(max_examples=20)
@given(TRACES, st.integers(1, 5), st.floats(1.0, 4.0))
def test_a_budget_is_never_exceeded(trace: Trace, seed: int, jobs: float) -> None:
    budget = jobs * (trace.site.walltime + OVERTIME_SECONDS)
    chooser = Watched(trace, core_hours=budget / 3600)
    world = World(trace, seed)
    with contextlib.suppress(EndlessError):  # it may not be enough
        world.run(chooser, limit=3000)
    assert world.core_seconds <= budget + 1e-6
