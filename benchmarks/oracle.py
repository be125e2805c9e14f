"""What adaptive scaling is compared with: the best fixed plan, a clairvoyant's, and what no policy can beat.

The clairvoyant knows the work, and how long each job will wait and live. Its plan says of each job when it is
submitted and when it is released, also before the work comes that it is for. It is found by local search from the
runs of the fixed plans and of our own policy, so it is no worse than these; it may not be the best there is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from benchmarks.policies import Fixed, Ours
from benchmarks.queue_world import START_SECONDS, EndlessError, Trace, World

#: Plans that the clairvoyant tries.
TRIALS = 60
#: What core hours count for: a plan that takes 10 % more of them must be 1 % faster.
_COST_OF_CORES = 0.1


class Planned(NamedTuple):
    """One job of a plan."""

    kind: str
    submit_at: int
    leave_at: int


class Plan:
    """Follows a plan. If work is left when all its jobs have ended, it goes on with one job after another."""

    def __init__(self, jobs: Sequence[Planned]) -> None:
        self.jobs = sorted(jobs, key=lambda job: job.submit_at)
        self._next = 0
        self._leave: dict[str, int] = {}

    def step(self, world: World) -> None:
        """Do what is due."""
        while self._next < len(self.jobs) and self.jobs[self._next].submit_at <= world.now:
            job = self.jobs[self._next]
            world.submit(1, job.kind)
            self._leave[world.jobs[-1].id] = job.leave_at
            self._next += 1
        world.release([job.id for job in world.live() if world.now >= self._leave.get(job.id, math.inf)])
        if not any(world.left):
            world.release([job.id for job in world.live()])
        for kind in world.trace.kinds:
            comes = any(job.kind == kind.name for job in self.jobs[self._next :])
            if world.ready[kind.name] and not comes and not world.live(kind.name):
                world.submit(1, kind.name)

    def next_look(self, world: World) -> float:
        """Look when the plan says something."""
        times: list[float] = [at for at in self._leave.values() if at > world.now]
        if self._next < len(self.jobs):
            times.append(self.jobs[self._next].submit_at)
        return min(times, default=math.inf)


def fixed(trace: Trace, seed: int) -> World:
    """Return the run of the number of jobs that is best in hindsight: the shortest, the cheapest within 1 %."""
    counts = sorted({*range(1, min(8, trace.maximum)), *range(8, trace.maximum + 1, 4), trace.maximum})
    runs = [World(trace, seed).run(Fixed(n, keep)) for n in counts for keep in (0, 120)]
    best = min(run.turnaround for run in runs)
    return min((run for run in runs if run.turnaround <= 1.01 * best), key=lambda run: run.core_seconds)


def clairvoyant(trace: Trace, seed: int, trials: int = TRIALS) -> World:
    """Return the run of the best plan that was found."""
    starts = [_plan_of(fixed(trace, seed)), _plan_of(World(trace, seed).run(Ours(trace)))]
    runs = [(plan, run) for plan in starts if (run := _try(trace, seed, plan)) is not None]
    plan, best = min(runs, key=lambda pair: _cost(pair[1]))
    luck = Random(f"{seed}-{trace.name}")
    for trial in range(trials):
        other = _trimmed(plan, best) if trial % 10 == 0 else _changed(plan, best, luck)
        run = _try(trace, seed, other)
        if run is not None and _cost(run) <= _cost(best):
            plan, best = other, run
    return best


def least(trace: Trace, seed: int) -> tuple[int, int]:
    """Return seconds of turnaround and of cores that no plan can do with less than.

    Each piece of work takes its longest chain of tasks, and all its seconds on the most jobs; what comes before
    the first job could be there waits for that. Cores are needed for the work itself.
    """
    world = World(trace, seed)
    slots = {kind.name: kind.slots * min(trace.maximum, trace.site.running) for kind in trace.kinds}
    first = math.floor(trace.site.wait * (1 - trace.site.spread)) + START_SECONDS
    total = 0
    for number, members in world.pieces().items():
        chain: dict[int, int] = {}
        work = dict.fromkeys(slots, 0)
        for one in members:
            burst = trace.bursts[one]
            seconds = world.task_seconds([one])
            before = chain.get(burst.after, 0) if burst.after is not None else 0
            chain[one] = before + min(seconds)
            work[burst.kind] += sum(seconds)
        wait = max(0, first - trace.bursts[number].at) if trace.bursts[number].after is None else 0
        longest = max(world.task_seconds(members))
        total += wait + max(longest, *chain.values(), *(math.ceil(work[kind] / slots[kind]) for kind in slots))
    return total, sum(world.task_seconds(range(len(trace.bursts))))


def _cost(run: World) -> float:
    return math.log(run.turnaround) + _COST_OF_CORES * math.log(run.core_seconds)


def _plan_of(run: World) -> list[Planned]:
    """Return the plan that a run amounts to."""
    return [Planned(job.kind.name, job.submitted, job.ended or run.now) for job in run.jobs]


def _try(trace: Trace, seed: int, plan: Sequence[Planned]) -> World | None:
    """Return the run of a plan; None if it breaks the limit of jobs, or does not end."""
    world = World(trace, seed)
    try:
        world.run(Plan(plan), limit=20_000)
    except EndlessError:
        return None
    return world if _most(world) <= 0 else None


def _most(world: World) -> int:
    """Return by how many jobs a run went over the limit at most."""
    worst = 0
    for kind in world.trace.kinds:
        ends = [
            (at, step)
            for job in world.jobs
            if job.kind == kind
            for at, step in ((job.submitted, 1), (job.ended or world.now, -1))
        ]
        count = 0
        for _, step in sorted(ends):
            count += step
            worst = max(worst, count - world.trace.maximum)
    return worst


def _trimmed(plan: Sequence[Planned], run: World) -> list[Planned]:
    """Let each job go after its last result, and leave out those that had none."""
    done = zip(sorted(plan, key=lambda job: job.submit_at), run.jobs, strict=False)
    return [job._replace(leave_at=min(job.leave_at, max(sim.last_result, sim.submitted))) for job, sim in done]


def _changed(plan: Sequence[Planned], run: World, luck: Random) -> list[Planned]:
    """Return a plan that differs in a few jobs."""
    changed = list(plan)
    site = run.trace.site
    moments = [at for at in run.came if at is not None]
    for _ in range(luck.choice((1, 1, 2, 4, 8))):
        what = luck.choice(("drop", "add", "early", "late", "longer", "ahead"))
        index = luck.randrange(len(changed)) if changed else -1
        if what == "add" or index < 0:
            at = max(0, luck.choice(moments) - luck.choice((0, site.wait, round(1.5 * site.wait))))
            changed.append(Planned(luck.choice(run.trace.kinds).name, at, at + luck.choice((300, 1200, 3600))))
        elif what == "ahead":
            changed = _ahead(changed, luck.choice(moments), luck.choice((0.5, 1.0, 1.5)) * site.wait)
        elif what == "drop":
            del changed[index]
        elif what == "longer":
            later = changed[index].leave_at + luck.choice((60, 300, 1200))
            changed[index] = changed[index]._replace(leave_at=later)
        else:
            shift = luck.choice((5, 30, site.wait + START_SECONDS)) * (-1 if what == "early" else 1)
            changed[index] = changed[index]._replace(submit_at=max(0, changed[index].submit_at + shift))
    return changed


def _ahead(plan: Sequence[Planned], moment: int, wait: float) -> list[Planned]:
    """Submit the jobs for work that comes at one moment so that they are there then."""
    earlier = round(wait) + START_SECONDS
    return [
        job._replace(submit_at=max(0, job.submit_at - earlier)) if 0 <= job.submit_at - moment <= 60 else job
        for job in plan
    ]
