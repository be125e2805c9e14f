"""What one task costs the scheduler alone with few and with many workers, and what a queued task takes of memory.

The pure part only: a Reactor and its placement get the messages that clients and workers would send, and their
processor time is taken; that of what plays the workers is not. There is no network, and no process but this one.
"""

from __future__ import annotations

import gc
import os
import pickle
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.rounds import Benchmark, Contestant, Measured, Metric

#: Tasks of one submission, as a client sends them.
CHUNK = 2_000
TASKS = 1_000_000
LONG_TASKS = 100_000
_FUNCTION = b"f" * 16


class _Timed:
    """A Reactor of which each call is timed."""

    def __init__(self, workers: int) -> None:
        from hpclaunch.comm import messages as m
        from hpclaunch.scheduler.reactor import Reactor
        from hpclaunch.scheduler.state import Worker

        self.messages: Any = m
        self.reactor = Reactor()
        self.seconds = 0.0
        self.now = 0.0
        self._next_tick = 0.0
        self.reactor.on_client_joined("client")
        self.reactor.on_function_defined(m.DefineFunction(_FUNCTION, "inc", b"p" * 40))
        for number in range(workers):
            worker = Worker(
                f"worker-{number}", f"job-{number}", 1, host=f"node-{number}", address=f"tcp://{number}"
            )
            self.reactor.on_worker_joined(worker, 0.0)

    def call(self, what: Callable[..., Any], *args: Any) -> None:
        """Apply one fact."""
        start = time.thread_time()
        what(*args)
        self.seconds += time.thread_time() - start

    def round(self) -> list[tuple[str, Any]]:
        """Do what the head does after the messages of one turn; return what workers are sent."""
        from hpclaunch.scheduler.commands import ToWorker
        from hpclaunch.scheduler.placement import place

        start = time.thread_time()
        if self.now >= self._next_tick:
            self._next_tick = self.now + 0.1
            self.reactor.on_timer(self.now)
        commands = self.reactor.take_commands()
        state = self.reactor.state
        if (state.ready.count or state.restricted) and (state.idle or state.open):
            commands += place(state, self.now)
        self.seconds += time.thread_time() - start
        sent = [(one.worker, one.message) for one in commands if isinstance(one, ToWorker)]
        return [(worker, message) for worker, message in sent if type(message) is self.messages.RunTasks]


def submissions(tasks: int) -> list[bytes]:
    """Return the bytes of the messages that submit so many tasks."""
    from hpclaunch.comm import messages as m

    def one(start: int) -> bytes:
        numbers = range(start, min(start + CHUNK, tasks))
        keys = [f"inc-6f3a1c-{number}" for number in numbers]
        return msgspec.msgpack.encode(m.SubmitTasks(_FUNCTION, keys, [pickle.dumps((n,)) for n in numbers]))

    return [one(start) for start in range(0, tasks, CHUNK)]


def _submit(head: _Timed, tasks: int) -> None:
    from hpclaunch.comm import messages as m

    for data in submissions(tasks):
        head.call(head.reactor.on_tasks_submitted, "client", msgspec.msgpack.decode(data, type=m.SubmitTasks))


def _short(workers: int, tasks: int) -> float:
    """Run tasks that take no time: a worker answers all that it was sent in one message. Microseconds a task."""
    head = _Timed(workers)
    reactor, result, done = head.reactor, pickle.dumps(1), 0
    _submit(head, tasks)
    while done < tasks:
        sent = head.round()
        if not sent:
            raise ValueError(f"the scheduler has stopped after {done} tasks")
        head.now += 0.01
        for worker, message in sent:
            keys, count = message.keys, len(message.keys)
            answer = head.messages.TasksDone(keys, [result] * count, [1e-5] * count)
            head.call(reactor.on_tasks_done, worker, answer, head.now)
            head.call(reactor.on_keys_released, "client", keys)
            done += count
    return head.seconds / tasks * 1e6


def _long(workers: int, tasks: int) -> float:
    """Run tasks of 50 ms, answered one by one; their workers get the next at once. Microseconds a task."""
    from collections import deque

    head = _Timed(workers)
    reactor, result = head.reactor, pickle.dumps(1)
    _submit(head, tasks)
    running: deque[tuple[str, str]] = deque()
    for done in range(tasks):
        for worker, message in head.round():
            running.extend((worker, key) for key in message.keys)
        if not running:
            raise ValueError(f"the scheduler has stopped after {done} tasks")
        worker, key = running.popleft()
        head.now += 0.05 / workers
        head.call(reactor.on_tasks_done, worker, head.messages.TasksDone([key], [result], [0.05]), head.now)
        head.call(reactor.on_keys_released, "client", [key])
    return head.seconds / tasks * 1e6


def _costs(workers: int) -> Measured:
    gc.set_threshold(50_000, 20, 50)  # as in the head
    return {"short": _short(workers, TASKS), "long": _long(workers, LONG_TASKS)}


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def queued() -> Measured:
    """Measure what the process grows by for each task that waits in the queue."""
    from hpclaunch.comm import messages as m

    head = _Timed(0)
    messages = submissions(TASKS)
    before = _resident()
    for data in messages:
        head.reactor.on_tasks_submitted("client", msgspec.msgpack.decode(data, type=m.SubmitTasks))
    return {"bytes": (_resident() - before) / TASKS}


BENCHMARK = Benchmark(
    name="scheduler",
    title="The scheduler alone: a million tasks for 10, 1,000 and 10,000 workers",
    metrics=[
        Metric("short", "µs/task, no-op"),
        Metric("long", "µs/task, 50 ms each"),
        Metric("bytes", "bytes/queued task", digits=0),
    ],
    contestants=[
        Contestant("hpclaunch, 10 workers", partial(_costs, 10), "one thread each"),
        Contestant("1,000 workers", partial(_costs, 1_000)),
        Contestant("10,000 workers", partial(_costs, 10_000), targets={"short": "≤ 2", "long": "≤ 2"}),
        Contestant("no workers", queued, "a million tasks wait", {"bytes": "≤ 1,024"}),
    ],
    text=(
        f"Simulated workers, no network: processor time. No-op: {TASKS:,} tasks, those of "
        f"a message answered in one; 50 ms: {LONG_TASKS:,}, answered one by one. The ratio is that to 10 workers."
    ),
    most_rounds=3,
)
