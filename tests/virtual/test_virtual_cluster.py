"""The real head, workers and clients on a virtual clock, where everything goes wrong; it all follows from a seed.

Whatever crashes, stalls, breaks, is full, leaves or is told to end: each result is right, each future ends once,
nothing waits without end, and when all clients have released everything, nothing is kept.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest

from tests.client.inside import core_of
from tests.virtual.cluster import SimJob, VirtualCluster, virtual_cluster
from tests.virtual.users import Shared, User, combine, reset_moods
from tests.walks import seeds


class Trouble:
    """What goes wrong, until it is told to stop."""

    def __init__(self, cluster: VirtualCluster) -> None:
        self.cluster = cluster
        self.rng = cluster.rng
        self.is_over = False
        self.wish = self.rng.choice((1, 2, 4))  # jobs
        evil = self.rng.choice((0.2, 1.0, 4.0))
        self.every(0.5, self.keep_jobs)
        self.every(15.0 / evil, self.crash)
        self.every(40.0 / evil, self.end_job)
        self.every(15.0 / evil, self.stall)
        self.every(30.0 / evil, self.cut)
        self.every(60.0 / evil, self.retire)
        self.every(10.0 / evil, self.fill)
        self.every(15.0 / evil, self.block)

    def every(self, mean: float, what: Callable[[], None]) -> None:
        def again() -> None:
            if not self.is_over:
                what()
                self.cluster.loop.call_later(self.rng.expovariate(1 / mean), again)

        self.cluster.loop.call_later(self.rng.expovariate(1 / mean), again)

    def a_job(self) -> SimJob | None:
        return self.rng.choice(list(self.cluster.jobs.values())) if self.cluster.jobs else None

    def keep_jobs(self) -> None:
        jobs = self.cluster.jobs.values()
        if sum(not job.is_ending for job in jobs) < self.wish:
            facts = {"resources": self.rng.choice(({}, {"GPU": 1.0})), "memory_limit": 3000}
            if self.rng.random() < 0.3:
                facts |= {"seconds_left": 60.0, "lifetime": 60.0}
            SimJob(self.cluster, self.rng.choice((1, 2)), self.rng.choice((1, 2)), **facts)

    def crash(self) -> None:
        if self.cluster.workers:
            worker = self.rng.choice(list(self.cluster.workers.values()))
            worker.exit(running=worker.executor.running())

    def end_job(self) -> None:
        job = self.a_job()
        if job is not None:
            job.end()

    def stall(self) -> None:
        """What a job says, and hears, comes late, or too late."""
        job = self.a_job()
        if job is not None:
            seconds = self.rng.choice((0.5, 5.0, 60.0))
            for link in self.cluster.network.links_of([job.id, *(w.name for w in job.workers)]):
                link.stall(seconds)

    def cut(self) -> None:
        """One connection breaks: to the head, or between two workers, or of a client to a worker."""
        links = [
            link for link in self.cluster.network.links if not _is_a_clients(link.ends[0].here, link.ends[1].here)
        ]
        if links:
            self.rng.choice(links).cut(late=self.rng.choice((0.0, 1.0, 30.0)))

    def retire(self) -> None:
        job = self.a_job()
        if job is not None and not job.is_ending:
            retiring = self.cluster.head.retire_job(job.id, drain=self.rng.random() < 0.8, reason="it is retired")
            task = self.cluster.loop.create_task(retiring)
            self.cluster.tasks.add(task)
            task.add_done_callback(self.cluster.tasks.discard)

    def fill(self) -> None:
        self.cluster.pressure = self.rng.choice((0, 0, 2000, 2500))
        self.cluster.disk_is_full = self.rng.random() < 0.3

    def block(self) -> None:
        names = [*self.cluster.workers]
        self.cluster.network.blocked = set(self.rng.sample(names, len(names) // 2))

    def end(self) -> None:
        """Nothing goes wrong any more, and there are workers for everything."""
        self.is_over = True
        cluster = self.cluster
        cluster.pressure, cluster.disk_is_full, cluster.network.blocked = 0, False, set()
        for _ in range(2):
            SimJob(cluster, 2, 2, memory_limit=10000, resources={"GPU": 2.0})


def _is_a_clients(*names: str) -> bool:
    """Say whether this is a client's connection to the head, which does not come back."""
    return "head" in names and any(name.startswith("user") for name in names)


async def story(cluster: VirtualCluster, seed: int, seconds: float) -> int:
    """Live through it; return how many results were looked at."""
    trouble = Trouble(cluster)
    until = cluster.loop.now + seconds
    shared: dict[str, Shared] = {}
    busy: set[str] = set()  # kinds of what is shared that a client is about to use
    users = [User(cluster, await cluster.client(f"user{i}"), shared, busy, 10 * seed + i) for i in range(3)]
    work = [asyncio.ensure_future(user.work(until)) for user in users]
    await asyncio.sleep(seconds)
    trouble.end()
    for one in work:
        await one
    await users[0].empty(shared)
    await asyncio.gather(*cluster.tasks)
    gc.collect()
    await asyncio.sleep(60.0)
    checked = sum(user.checked for user in users)
    cluster.check_empty()
    del work
    for user in users:
        await core_of(user.client).disconnect()
    await asyncio.sleep(1.0)
    cluster.check_gone()
    for job in list(cluster.jobs.values()):
        job.end()
    await cluster.head.close("the end")
    await asyncio.sleep(1.0)
    return checked


def live(seed: int, seconds: float = 60.0) -> int:
    reset_moods(seed)
    with virtual_cluster(seed) as (loop, cluster):
        checked = loop.run_until_complete(story(cluster, seed, seconds))
        assert not cluster.wrong, "\n".join(cluster.wrong[:5])
        return checked


@pytest.mark.parametrize("seed", seeds(4, quick=1))
def test_a_cluster_on_which_everything_goes_wrong_comes_to_a_good_end(seed: int) -> None:
    assert live(seed) > 10


def test_a_worker_forgets_the_time_limits_of_tasks_that_it_gives_back() -> None:
    with virtual_cluster(0) as (loop, cluster):
        loop.run_until_complete(_take_back_what_has_a_time_limit(cluster))
        assert not cluster.wrong


async def _take_back_what_has_a_time_limit(cluster: VirtualCluster) -> None:
    job = SimJob(cluster, 1, 1)
    client = await cluster.client("user")
    futures = [client.submit(combine, 1, i, timeout=50.0) for i in range(30)]
    await asyncio.sleep(0.2)
    assert job.workers[0].server._timed
    cancelled = await core_of(client).link.ask_soon("cancel_unstarted", keys=[future.key for future in futures])
    await asyncio.sleep(10.0)
    assert len(cancelled) > 20
    assert not job.workers[0].server._timed
    del futures
    await core_of(client).disconnect()
