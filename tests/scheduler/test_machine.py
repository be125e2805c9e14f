"""Whatever joins, leaves, fails, is lost, cancelled or released: what is wanted ends, and what is not wanted goes.

Two drivers of the same steps: Hypothesis finds short ways into trouble and shrinks them; long random walks, in
which what happens often on a cluster happens often, get into odd corners.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from hpclaunch.comm import messages as m
from tests.scheduler.world import ALL_ROUNDER, FUNCTIONS, PENDING, FakeClient, FakeWorker, World
from tests.walks import seeds

KEYS = [f"k{i}" for i in range(8)]
pick = st.integers(0, 999)
#: What a task may fail of in these tests.
ENDS = ("", "KilledWorkerError", "ActorError", "TaskTimeoutError", "TooLargeError")
TERMS = (
    None,
    m.Terms(resources={"GPU": 1.0}),
    m.Terms(resources={"GPU": 2.0, "disk": 0.1}),
    m.Terms(workers=["host-a"]),
    m.Terms(workers=["host-a", "host-b"], allow_others=True, resources={"GPU": 1.0}),
    m.Terms(seconds=5.0),
    m.Terms(seconds=500.0),
    m.Terms(timeout=1.5),
    m.Terms(resources={"GPU": 1.0}, timeout=2.5),
)
OFFERS: tuple[dict[str, Any], ...] = (
    {},
    {"resources": {"GPU": 1.0}},
    {"resources": {"GPU": 2.0, "disk": 0.3}, "seconds": 20.0},
    {"host": "host-a"},
    {"host": "host-b", "seconds": 3.0},
    {"memory": 1_500_000},  # less than two large results
    {"memory": 3_000_000, "host": "host-a"},
    ALL_ROUNDER,
)


class ClusterMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(allowed_failures=1)
        self.world.join_client()

    def a_client(self, n: int) -> FakeClient:
        return list(self.world.clients.values())[n % len(self.world.clients)]

    def a_worker(self, n: int) -> FakeWorker:
        return list(self.world.workers.values())[n % len(self.world.workers)]

    # --- clients

    @rule()
    def client_joins(self) -> None:
        if len(self.world.clients) < 3:
            self.world.join_client()

    @precondition(lambda self: len(self.world.clients) > 1)
    @rule(who=pick)
    def client_leaves(self, who: int) -> None:
        self.world.leave_client(self.a_client(who))

    @rule(who=pick)
    def client_forgets_functions(self, who: int) -> None:
        self.world.forget(self.a_client(who), *FUNCTIONS)

    @rule(
        who=pick,
        keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=4, unique=True),
        sources=st.lists(st.lists(pick, max_size=3), min_size=4, max_size=4),
        retries=st.integers(0, 1),
        priority=st.integers(-1, 1),
        function=st.sampled_from(FUNCTIONS),
        terms=st.sampled_from(TERMS),
        actor=st.sampled_from([-1, -1, 0, 1]),
    )
    def client_submits(
        self,
        who: int,
        keys: list[str],
        sources: list[list[int]],
        retries: int,
        priority: int,
        function: bytes,
        terms: m.Terms | None,
        actor: int = -1,
    ) -> None:
        client = self.a_client(who)
        inputs = []
        for i, key in enumerate(keys):
            there = [k for k in [*client.futures, *keys[:i]] if k != key]
            inputs.append(list(dict.fromkeys(there[n % len(there)] for n in sources[i])) if there else [])
        options = {"retries": retries, "priority": priority, "function": function, "terms": terms, "actor": actor}
        self.world.submit(client, keys, inputs, **options)  # type: ignore[arg-type]

    @rule(who=pick, which=st.lists(pick, min_size=1, max_size=3))
    def client_releases(self, who: int, which: list[int]) -> None:
        client = self.a_client(who)
        if client.futures:
            keys = list(client.futures)
            self.world.release(client, *{keys[n % len(keys)] for n in which})

    @rule(who=pick, which=pick)
    def client_cancels(self, who: int, which: int) -> None:
        client = self.a_client(who)
        pending = [key for key, how in client.futures.items() if how == PENDING]
        if pending:
            self.world.cancel(client, pending[which % len(pending)])

    @rule(who=pick, which=pick, reachable=st.booleans())
    def client_fetches(self, who: int, which: int, reachable: bool) -> None:
        client = self.a_client(who)
        stored = [key for key, how in client.futures.items() if isinstance(how, tuple)]
        if stored:
            self.world.fetch_result(client, stored[which % len(stored)], reachable=reachable)

    @rule(who=pick)
    def client_hears(self, who: int) -> None:
        client = self.a_client(who)
        while client.inbox:
            client.receive()

    # --- workers

    @rule(threads=st.integers(1, 2), offer=st.sampled_from(OFFERS))
    def worker_joins(self, threads: int, offer: dict[str, Any]) -> None:
        if len(self.world.workers) < 4:
            self.world.join(threads, **offer)

    @precondition(lambda self: self.world.workers)
    @rule(who=pick, blame=st.sampled_from(["worker", "job", "others", "none"]), says=st.booleans())
    def worker_is_lost(self, who: int, blame: str, says: bool) -> None:
        self.world.lose(self.a_worker(who), blame=blame, says_running=says)

    @precondition(lambda self: self.world.workers)
    @rule(who=pick)
    def worker_drains(self, who: int) -> None:
        self.world.drain(self.a_worker(who))

    @precondition(lambda self: self.world.workers)
    @rule()
    def results_move(self) -> None:
        self.world.move(*[worker for worker in self.world.workers.values() if worker.draining])

    @precondition(lambda self: self.world.workers)
    @rule(who=pick, count=st.integers(1, 5))
    def worker_hears(self, who: int, count: int) -> None:
        worker = self.a_worker(who)
        for _ in range(min(count, len(worker.inbox))):
            worker.receive()

    @precondition(lambda self: self.world.workers)
    @rule(who=pick)
    def worker_starts_tasks(self, who: int) -> None:
        while self.a_worker(who).start():
            pass

    @precondition(lambda self: self.world.workers)
    @rule(who=pick, which=pick, how=st.sampled_from(["large", "small", "large", "failed"]))
    def task_ends(self, who: int, which: int, how: str) -> None:
        worker = self.a_worker(who)
        if worker.running:
            worker.finish(worker.running[which % len(worker.running)], how)

    @precondition(lambda self: self.world.workers)
    @rule(who=pick, which=pick, reachable=st.booleans())
    def fetch_ends(self, who: int, which: int, reachable: bool) -> None:
        worker = self.a_worker(who)
        if worker.fetches:
            worker.end_fetch(worker.fetches[which % len(worker.fetches)], reachable=reachable)

    @precondition(lambda self: self.world.workers)
    @rule(who=pick, process=st.sampled_from([0, 60, 75, 90]))
    def memory_is_measured(self, who: int, process: int) -> None:
        self.a_worker(who).measure(process)

    @precondition(lambda self: self.world.workers)
    @rule(who=pick, which=pick, fits=st.booleans())
    def write_ends(self, who: int, which: int, fits: bool) -> None:
        worker = self.a_worker(who)
        if worker.writes:
            worker.end_write(worker.writes[which % len(worker.writes)], fits=fits)

    @precondition(lambda self: self.world.workers)
    @rule(who=pick, count=st.integers(1, 5))
    def head_hears(self, who: int, count: int) -> None:
        worker = self.a_worker(who)
        for _ in range(min(count, len(worker.outbox))):
            self.world.hear(worker)

    @rule()
    def head_goes_round(self) -> None:
        self.world.round()

    @rule()
    def head_ticks(self) -> None:
        self.world.tick()

    @rule(how=st.sampled_from(["small", "large", "large", "failed"]))
    def everything_moves(self, how: str) -> None:
        self.world.step(how)

    # --- the end

    def teardown(self) -> None:
        self.end()

    def end(self) -> None:
        world = self.world
        world.settle("small")
        for client in world.clients.values():
            for key, how in client.futures.items():
                error = client.errors.get(key, m.Failure("", ""))
                is_ring = "was made from the earlier task of this key" in error.text
                assert how != "failed" or error.kind in ENDS or is_ring, error
                if isinstance(how, tuple):
                    world.fetch_result(client, key)
        world.settle("large")
        for client in list(world.clients.values()):
            world.leave_client(client)
        world.settle()
        world.check_empty()


TestCluster = ClusterMachine.TestCase
TestCluster.settings = settings(stateful_step_count=60)


class Walk:
    """Random steps; most of them are the daily business."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.machine = ClusterMachine()
        self.keys = KEYS[: rng.choice((3, 5, 8))]
        self.outcomes = rng.choice((["large"], ["large", "large", "small"], ["large"] * 8 + ["small", "failed"]))
        self.wish = rng.choice((1, 2, 3))  # workers
        evil = rng.choice((0.3, 1, 4))
        self.moves = {
            self.submit: 10,
            self.release: 5,
            self.fetch: 4,
            self.business: 40,
            self.machine.head_goes_round: 10,
            self.machine.client_joins: 0.5,
            self.leave: 0.1,
            self.forget: 0.5,
            self.machine.head_ticks: evil,
            self.cancel: 0.3 * evil,
            self.drain: 0.1 * evil,
            self.move: 2,
            self.lose: evil,
        }

    def n(self) -> int:
        return self.rng.randrange(1000)

    def take(self, steps: int) -> None:
        for _ in range(steps):
            if len(self.machine.world.workers) < self.wish:
                self.machine.worker_joins(self.rng.choice((1, 1, 2)), self.rng.choice(OFFERS))
            (move,) = self.rng.choices(list(self.moves), list(self.moves.values()))
            move()
        self.machine.end()

    def submit(self) -> None:
        keys = self.rng.sample(self.keys, self.rng.randint(1, 2))
        sources = [[self.n() for _ in range(self.rng.choice((0, 1, 2, 3)))] for _ in keys]
        terms = self.rng.choice((None, None, None, *TERMS))
        actor = self.rng.choice((-1, -1, -1, 0, 1))
        self.machine.client_submits(
            self.n(), keys, sources, self.rng.choice((0, 0, 1)), 0, FUNCTIONS[0], terms, actor
        )

    def release(self) -> None:
        self.machine.client_releases(self.n(), [self.n()])

    def forget(self) -> None:
        self.machine.client_forgets_functions(self.n())

    def cancel(self) -> None:
        self.machine.client_cancels(self.n(), self.n())

    def fetch(self) -> None:
        self.machine.client_hears(self.n())
        self.machine.client_fetches(self.n(), self.n(), self.rng.random() < 0.8)

    def leave(self) -> None:
        if len(self.machine.world.clients) > 1:
            self.machine.client_leaves(self.n())

    def move(self) -> None:
        if self.machine.world.workers:
            self.machine.results_move()

    def drain(self) -> None:
        self.machine.worker_drains(self.n())

    def lose(self) -> None:
        blame = self.rng.choice(("worker", "job", "others", "none"))
        self.machine.worker_is_lost(self.n(), blame, self.rng.random() < 0.5)

    def business(self) -> None:
        """A worker does some of what it has to do."""
        machine, rng, who = self.machine, self.rng, self.n()
        if rng.random() < 0.5:
            machine.head_goes_round()
        if rng.random() < 0.6:
            machine.worker_hears(who, rng.randint(1, 5))
        if rng.random() < 0.6:
            machine.worker_starts_tasks(who)
        if rng.random() < 0.4:
            machine.fetch_ends(who, self.n(), rng.random() < 0.95)
        if rng.random() < 0.4:
            machine.task_ends(who, self.n(), rng.choice(self.outcomes))
        if rng.random() < 0.2:
            machine.memory_is_measured(who, rng.choice((0, 20, 60, 75, 90)))
        if rng.random() < 0.4:
            machine.write_ends(who, self.n(), rng.random() < 0.8)
        if rng.random() < 0.6:
            machine.head_hears(who, rng.randint(1, 5))


@pytest.mark.parametrize("seed", seeds(20, quick=5))
def test_long_walks_end_well(seed: int) -> None:
    Walk(seed).take(400)
