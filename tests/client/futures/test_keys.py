"""Keys that are tuples: a task is known by them wherever keys are given or told."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from hpclaunch import Future, Queue, get_client, get_task, get_worker
from hpclaunch.client.client import Client
from hpclaunch.errors import CancelledError
from tests.client import work
from tests.client.conftest import until


def own_keys() -> tuple[Any, Any]:
    return get_task().key, get_worker().get_current_task()


def submit_inside(key: Any) -> Future:
    return get_client().submit(work.inc, 1, key=key)


def test_a_key_comes_back_as_it_was_given(client: Client) -> None:
    key = ("x", 0, ("y", 1.5))
    future = client.submit(own_keys, key=key)
    assert future.key == key
    assert future.result(10) == (key, key)
    assert client.submit(work.inc, 1, key=key) is future
    assert Future(key) is future
    assert client.futures[key] is future
    assert pickle.loads(pickle.dumps(future)) is future
    assert client.submit(work.same, future).result(10) == (key, key)
    assert repr(future) == "<Future finished, key: ('x', 0, ('y', 1.5))>"
    futures = client.map(work.inc, range(3), key=[("m", i) for i in range(3)])
    assert [future.key for future in futures] == [("m", 0), ("m", 1), ("m", 2)]
    assert client.gather(futures) == [1, 2, 3]
    inner = client.submit(submit_inside, ("in", 1)).result(10)
    assert inner.key == ("in", 1)
    Queue("q").put(inner)
    assert Queue("q").get().key == ("in", 1)
    assert client.submit(work.Counter, 3, actor=True, key=("a", 1)).result(10).n == 3


def test_tuples_and_texts_are_different_keys(client: Client) -> None:
    futures = [client.submit(work.same, i, key=key) for i, key in enumerate(["x-0", ("x", 0), ("x", "0"), "x"])]
    assert client.gather(futures) == [0, 1, 2, 3]


def test_questions_about_tasks_with_such_keys(client: Client, tmp_path: Path) -> None:
    large = client.submit(work.big, 100_000, key=("large", 1))
    assert list(client.who_has(large)) == [("large", 1)]
    assert [("large", 1)] in client.has_what().values()
    gate = tmp_path / "gate"
    running = client.submit(work.wait_for, str(gate), key=("runs", 1))
    until(lambda: [("runs", 1)] in client.processing().values())
    stack = until(lambda: client.call_stack(keys=[("runs", 1)]))
    assert "wait_for" in str(stack["runs", 1])
    assert client.call_stack(running).keys() == {("runs", 1)}
    assert "('runs', 1)" in client.why(running)
    assert client.why(("runs", 1)) == client.why(running)
    with pytest.raises(TimeoutError, match=r"task \('runs', 1\) has not ended"):
        running.result(0.01)
    gate.touch()
    running.result(10)


def test_cancel_retry_and_data(client: Client, tmp_path: Path) -> None:
    waiting = client.submit(work.wait_for, str(tmp_path / "gate"), key=("c", 1))
    waiting.cancel()
    with pytest.raises(CancelledError, match=r"task \('c', 1\) was cancelled"):
        waiting.result(10)
    (tmp_path / "gate").touch()
    assert client.submit(work.inc, 1, key=("c", 1)).result(10) == 2
    bad = client.submit(work.fail_odds, 1, key=("bad", 1))
    assert bad.exception(10) is not None
    bad.retry()
    assert bad.exception(10) is not None
    data = client.scatter({("d", 1): 5, 7: 6})
    assert [data["d", 1].key, data[7].key] == [("d", 1), "7"]
    assert client.gather(data) == {("d", 1): 5, 7: 6}
    client.replicate(data["d", 1])


def test_a_key_that_can_not_be(client: Client) -> None:
    for key in ("", (), ["x"], 7, ("x", object())):
        with pytest.raises(ValueError, match="a key is a text"):
            client.submit(work.inc, 1, key=key)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a key is a text"):
        client.why(7)  # type: ignore[arg-type]


def test_the_type_of_a_result(client: Client, tmp_path: Path) -> None:
    future, gate = client.submit(work.inc, 1), tmp_path / "gate"
    future.result(10)
    assert future.type is int
    slow = client.submit(work.wait_for, str(gate), [1])
    assert slow.type is None
    gate.touch()
    slow.result(10)
    assert slow.type is list
    bad = client.submit(work.fail_odds, 1)
    assert bad.exception(10) is not None
    assert bad.type is None
