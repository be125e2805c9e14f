"""Rounds: one for each turn of the loop, and a head that stays awake for lone tasks only, and not for long."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator

import pytest

from hpclaunch.scheduler import ticks
from hpclaunch.scheduler.state import SchedulerState
from hpclaunch.scheduler.ticks import Ticks, has_lone_task
from tests.scheduler.world import World


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_one_round_for_all_that_happens_in_a_turn(loop: asyncio.AbstractEventLoop) -> None:
    went: list[int] = []
    ticks_ = Ticks(loop, lambda: went.append(1))
    for _ in range(3):
        ticks_.schedule()
        ticks_.schedule()
        assert not went
        loop.run_until_complete(asyncio.sleep(0))
        assert went == [1]
        went.clear()


def test_a_round_may_have_another_one(loop: asyncio.AbstractEventLoop) -> None:
    went: list[int] = []

    def go() -> None:
        went.append(1)
        if len(went) < 3:
            ticks_.schedule()

    ticks_ = Ticks(loop, go)
    ticks_.schedule()
    for _ in range(5):
        loop.run_until_complete(asyncio.sleep(0))
    assert len(went) == 3


@pytest.mark.parametrize(("processors", "stays"), [({0}, False), ({0, 1}, True)])
def test_it_stays_awake_for_a_moment_where_that_takes_nobody_his_processor(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch, processors: set[int], stays: bool
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: processors)
    ticks_ = Ticks(loop, lambda: None)
    ticks_.stay_awake(SchedulerState())
    assert not ticks_._is_awake, "it was not allowed"
    ticks_.allow_staying_awake()
    ticks_.stay_awake(SchedulerState())
    assert ticks_._is_awake is stays
    if stays:
        start = time.monotonic()
        until = ticks_._awake_until
        assert start < until + ticks.AWAKE_SECONDS
        while ticks_._is_awake:
            loop.run_until_complete(asyncio.sleep(0))
        assert time.monotonic() >= until


def test_what_a_lone_task_is() -> None:
    world = World()
    client = world.join_client()

    def is_lone() -> bool:
        return has_lone_task(world.state)

    first, second = world.join(2), world.join(2)
    assert is_lone()
    world.submit(client, ["a"])
    assert not is_lone(), "it is ready: a round comes"
    world.round()
    assert is_lone()
    world.submit(client, ["b"])
    world.round()
    assert not is_lone()
    world.settle()
    assert is_lone()
    world.lose(second)
    world.submit(client, ["c", "d"])
    world.round()
    assert len(world.state.workers[first.name].assigned) == 2
    assert not is_lone(), "two tasks on one worker"
    world.submit(client, [f"e{i}" for i in range(9)])
    world.round()
    assert not is_lone()
    world.settle()
    assert is_lone()
