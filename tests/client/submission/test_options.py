"""What a user's tasks ask of their workers, from submit() to the worker that they run on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hpclaunch.client.client import Client
from hpclaunch.client.submission.options import make_requirements
from hpclaunch.comm import messages as m
from hpclaunch.errors import CommClosedError
from tests.client.conftest import until
from tests.client.inside import core_of
from tests.client.work import inc, worker_name
from tests.comm.minihead import MiniCluster

Make = Callable[..., tuple[MiniCluster, Client]]


@pytest.fixture
def two(own_cluster: Make) -> Client:
    """Two workers, one of them with two GPUs; a client of them."""
    cluster, client = own_cluster(jobs=1)
    cluster.start_job("--resources", "GPU=2 disk=1.5")
    client.wait_for_workers(2, 10)
    return client


def test_a_wrong_wish_is_said_where_it_is_made_and_harms_nobody(client: Client) -> None:
    for words in ({"priority": "high"}, {"priority": [1]}, {"priority": 1.5}, {"retries": "2"}, {"retries": None}):
        with pytest.raises(TypeError, match="is a whole number, not"):
            client.submit(inc, 1, **words)
        with pytest.raises(TypeError, match="is a whole number, not"):
            client.map(inc, [1], **words)
        with pytest.raises(TypeError, match="is a whole number, not"):
            client.get({"x": (inc, 1)}, "x", **words) if all(words.values()) else client.submit(inc, 1, **words)
    with pytest.raises(ValueError, match="0 or more, not -1"):
        client.submit(inc, 1, retries=-1)
    assert client.submit(inc, 1, retries=np.int64(2), priority=3.0).result(10) == 2


def test_who_sends_nonsense_is_told_why_the_connection_ends(client: Client) -> None:
    future = client.submit(inc, client.submit(inc, 1, resources={"none": 1}))
    core_of(client).link.send(m.SubmitTasks(b"", [], [], retries="x"))  # type: ignore[arg-type]
    with pytest.raises(CommClosedError, match="no message of ours: Expected `int`, got `str`"):
        future.result(10)


@pytest.mark.slow
def test_resources_and_names_of_workers(two: Client) -> None:
    assert set(two.gather(two.map(worker_name, range(20), resources={"GPU": 1}))) == {"2.1-0"}
    assert two.submit(worker_name, resources={"disk": 1.5}).result(10) == "2.1-0"
    assert two.submit(worker_name, workers="1.1-0").result(10) == "1.1-0"
    assert set(two.gather(two.map(worker_name, range(20), workers=["1.1"]))) == {"1.1-0"}
    address = next(one for one in two.scheduler_info()["worker_list"] if one["name"] == "2.1-0")["address"]
    assert two.submit(worker_name, workers=[f"tls://{address}"]).result(10) == "2.1-0"
    assert two.submit(inc, 1, workers="elsewhere", allow_other_workers=True).result(10) == 2


@pytest.mark.slow
def test_what_nobody_has_waits_until_somebody_comes_who_has_it(own_cluster: Make) -> None:
    cluster, client = own_cluster(jobs=1)
    waiting = client.submit(worker_name, resources={"GPU": 1})
    assert client.gather(client.map(inc, range(100))) == list(range(1, 101))
    assert not waiting.done()
    cluster.start_job("--resources", "GPU=1")
    assert waiting.result(10) == "2.1-0"


@pytest.mark.slow
def test_a_task_that_outlasts_every_job_is_run_and_the_user_is_told_once(
    own_cluster: Make,
) -> None:
    cluster, client = own_cluster(jobs=0)
    cluster.start_job("--ends", str(time.time() + 3600))
    told = r"tasks of inc take about 02:00:00, longer than any job .* \((00:59:5.|01:00:00)\)"

    def run() -> None:
        assert client.gather(client.map(inc, range(3), duration="2h")) == [1, 2, 3]
        until(lambda: caught.list, "the warning")

    with pytest.warns(UserWarning, match=told) as caught:
        run()
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((None, None, False, None), None),
        (({}, None, False, 0), None),
        (({"GPU": 1}, None, False, None), m.Terms(resources={"GPU": 1.0})),
        ((None, "w1", False, None), m.Terms(workers=["w1"])),
        ((None, ("tls://10.1.1.1:99", "node7"), True, None), m.Terms({}, ["10.1.1.1:99", "node7"], True)),
        ((None, None, False, "20 min"), m.Terms(seconds=1200.0)),
        ((None, None, False, 0.5), m.Terms(seconds=0.5)),
        ((None, None, False, None, "2 min"), m.Terms(timeout=120.0)),
        (({"GPU": 1}, None, False, None, 3), m.Terms({"GPU": 1.0}, timeout=3.0)),
    ],
)
def test_terms(arguments: Any, expected: m.Terms | None) -> None:
    assert make_requirements(*arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (({"GPU": -1}, None, False, None), ValueError, "amounts of 0 or more, not 'GPU': -1"),
        (({"GPU": math.nan}, None, False, None), ValueError, "amounts of 0 or more"),
        (({"GPU": True}, None, False, None), ValueError, "amounts of 0 or more"),
        (({"GPU": "1"}, None, False, None), ValueError, "amounts of 0 or more"),
        (({1: 1}, None, False, None), ValueError, "names and amounts"),
        ((["GPU"], None, False, None), TypeError, r"a dict such as \{\"GPU\": 1\}"),
        ((None, [7], False, None), TypeError, "names, addresses, hosts or job ids"),
        ((None, [], False, None), ValueError, "leaves no worker"),
        ((None, None, True, None), ValueError, "goes with workers="),
        ((None, None, False, "soon"), ValueError, "is not a time"),
        ((None, None, False, -3), ValueError, "is not a time"),
        ((None, None, False, None, 0), ValueError, "more than 0 seconds, not 0"),
        ((None, None, False, None, math.inf), ValueError, "more than 0 seconds, not inf"),
        ((None, None, False, None, [1]), ValueError, r"a timeout is a number of seconds"),
    ],
)
def test_terms_that_cannot_be(arguments: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make_requirements(*arguments)
