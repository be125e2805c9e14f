"""Texts and numbers that no message holds, in every field that a user can fill: an answer or an error, always.

And the calls that were made at the same moment have theirs.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings, strategies as st

from hpclaunch import Event, Future, Lock, MultiLock, Queue, Semaphore, Variable, delayed
from hpclaunch.client.client import Client
from hpclaunch.client.submission.functions import SUBMIT_WORDS
from hpclaunch.comm import messages as m
from hpclaunch.errors import BugError, HPCLaunchError, SerializationError
from tests.client import work
from tests.client.inside import core_of, submission_of
from tests.comm.minihead import MiniCluster

BAD_TEXT = os.fsdecode(b"caf\xe9.nc")

any_text = st.text(st.characters(exclude_categories=()), max_size=20) | st.sampled_from([BAD_TEXT, "x" * 5000])
any_number = st.one_of(
    st.sampled_from([10**30, -(10**30), 1 << 63, (1 << 63) - 1, 10**400, 10**5000, -1, 0, True]),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e308, 0.5]),
    st.integers(),
    st.floats(),
)


class Told(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Teller:
    def __init__(self, text: str = "") -> None:
        self.text = text

    def fail(self, text: str) -> None:
        raise Told(text)


def fail(text: str) -> None:
    raise ValueError(text)


def fail_in_own_words(text: str) -> None:
    try:
        fail(text)
    except ValueError as error:
        error.add_note(text)
        raise Told(text) from error


def fail_in_ours(text: str) -> None:
    raise HPCLaunchError(text)


def leave(text: str) -> None:
    raise SystemExit(text)


def complain(text: str) -> str:
    warnings.warn(text, stacklevel=1)
    return text


def fail_in_a_file(text: str) -> None:
    exec(compile("1 / 0", text.replace("\0", ""), "exec"), {})  # noqa: S102 - a file of that name


def begin(client: Client, **words: Any) -> Any:
    """Submit what may have no worker to run on, or no time; and release it."""
    future = client.submit(work.inc, 1, **words)
    said = client.why(future)
    future.cancel()
    return said


def published(client: Client, name: Any) -> Any:
    client.publish_dataset(7, name=name)
    try:
        return client.get_dataset(name), client.list_datasets()
    finally:
        client.unpublish_dataset(name)


def queued(client: Client, **words: Any) -> Any:
    queue = Queue(**{"name": "q", "client": client, **words})
    try:
        queue.put(1, timeout=5)
        return queue.get(timeout=5)
    finally:
        queue.close()


def held(lock: Any) -> Any:
    with lock:
        return str(lock)


def varied(client: Client, name: Any) -> Any:
    variable = Variable(name, client)
    variable.set(name)
    try:
        return variable.get(timeout=5)
    finally:
        variable.delete()


def told_by_an_actor(client: Client, text: str) -> None:
    actor = client.submit(Teller, actor=True).result(20)
    actor.fail(text).result(20)


def asked_of_an_actor(client: Client, name: str) -> Any:
    actor = client.submit(Teller, actor=True).result(20)
    return getattr(actor, name)


def named_function(client: Client, name: str) -> Any:
    def function(x: int) -> int:
        return x

    function.__name__ = name
    return client.submit(function, 1).result(20)


TEXTS: dict[str, Callable[[Client, str], Any]] = {
    "an argument": lambda c, x: c.submit(work.same, x).result(20),
    "a keyword": lambda c, x: c.submit(work.same, x=x).result(20),
    "an exception": lambda c, x: c.submit(fail, x).result(20),
    "an exception of its own class": lambda c, x: c.submit(fail_in_own_words, x).result(20),
    "an exception of ours": lambda c, x: c.submit(fail_in_ours, x).result(20),
    "SystemExit": lambda c, x: c.submit(leave, x).result(20),
    "a file in a traceback": lambda c, x: c.submit(fail_in_a_file, x).result(20),
    "a warning": lambda c, x: c.submit(complain, x).result(20),
    "an exception in run": lambda c, x: c.run(fail, x),
    "an exception of an actor": told_by_an_actor,
    "a name of an actor's": asked_of_an_actor,
    "the name of a function": named_function,
    "key": lambda c, x: c.submit(work.inc, 1, key=x).result(20),
    "key, a tuple": lambda c, x: c.submit(work.inc, 1, key=(x, 0)).result(20),
    "key of map": lambda c, x: c.gather(c.map(work.inc, [1, 2], key=x)),
    "keys of map": lambda c, x: c.gather(c.map(work.inc, [1, 2], key=["good", x])),
    "key of an actor": lambda c, x: c.submit(Teller, actor=True, key=x).result(20),
    "workers": lambda c, x: begin(c, workers=x),
    "workers, a list": lambda c, x: begin(c, workers=["1.1-0", x]),
    "resources": lambda c, x: begin(c, resources={x: 1}),
    "duration": lambda c, x: begin(c, duration=x),
    "timeout": lambda c, x: begin(c, timeout=x),
    "timeout of result": lambda c, x: c.submit(work.inc, 1).result(timeout=x),
    "a key of a graph": lambda c, x: c.get({x: (work.inc, 1)}, x),
    "dask_key_name": lambda c, x: delayed(work.inc)(1, dask_key_name=x).compute(),
    "a key of scatter": lambda c, x: c.submit(work.inc, c.scatter({x: 1})[x]).result(20),
    "workers of scatter": lambda c, x: c.scatter([1], workers=[x], timeout=5),
    "workers of run": lambda c, x: c.run(work.inc, 1, workers=[x]),
    "workers of nthreads": lambda c, x: c.nthreads(workers=[x]),
    "workers of has_what": lambda c, x: c.has_what(workers=x),
    "workers of replicate": lambda c, x: c.replicate(c.submit(work.inc, 1), workers=[x]),
    "why": lambda c, x: c.why(x),
    "call_stack": lambda c, x: c.call_stack(keys=[x]),
    "a future by hand": lambda c, x: Future(x, c).result(20),
    "a dataset": published,
    "a lock": lambda c, x: held(Lock(x, c)),
    "a semaphore": lambda c, x: held(Semaphore(2, x, c)),
    "several locks": lambda c, x: held(MultiLock(["a", x], c)),
    "an event": lambda c, x: Event(x, c).is_set(),
    "a queue": lambda c, x: queued(c, name=x),
    "a variable": varied,
    "upload_file": lambda c, x: c.upload_file(f"/nowhere/{x}.py".replace("\0", "")),
}
NUMBERS: dict[str, Callable[[Client, Any], Any]] = {
    "an argument": lambda c, x: c.submit(work.same, x).result(20),
    "priority": lambda c, x: c.submit(work.inc, 1, priority=x).result(20),
    "retries": lambda c, x: c.submit(work.inc, 1, retries=x).result(20),
    "retries of map": lambda c, x: c.gather(c.map(work.inc, [1, 2], retries=x)),
    "restarts": lambda c, x: c.submit(Teller, actor=True, restarts=x).result(20),
    "resources": lambda c, x: begin(c, resources={"GPU": x}),
    "workers": lambda c, x: begin(c, workers=x),
    "workers, a list": lambda c, x: begin(c, workers=[x]),
    "workers of nthreads": lambda c, x: c.nthreads(workers=[x]),
    "workers of processing": lambda c, x: c.processing(workers=x),
    "duration": lambda c, x: begin(c, duration=x),
    "timeout": lambda c, x: begin(c, timeout=x),
    "timeout of result": lambda c, x: c.submit(work.inc, 1).result(timeout=x),
    "timeout of exception": lambda c, x: c.submit(work.inc, 1).exception(timeout=x),
    "timeout of the executor": lambda c, x: c.get_executor().submit(work.inc, 1).result(timeout=x),
    "timeout of the executor's map": lambda c, x: list(c.get_executor().map(work.inc, [1, 2], timeout=x)),
    "timeout of a lock": lambda c, x: (lock := Lock("l", c)).acquire(timeout=x) and lock.release(),
    "force": lambda c, x: c.cancel([], force=x),
    "key": lambda c, x: c.submit(work.inc, 1, key=x).result(20),
    "key, a tuple": lambda c, x: c.submit(work.inc, 1, key=("a", x)).result(20),
    "a key of a graph": lambda c, x: c.get({("a", x): (work.inc, 1)}, ("a", x)),
    "a semaphore's places": lambda c, x: held(Semaphore(x, "s", c)),
    "a queue's places": lambda c, x: queued(c, maxsize=x),
    "copies": lambda c, x: c.replicate(c.submit(work.inc, 1), n=x),
    "n_workers": lambda c, x: c.wait_for_workers(min(x, 2), timeout=5),
}


def answered(client: Client, ask: Callable[[Client, Any], Any], value: Any) -> None:
    """Ask something. It must end, with an answer or with an error that is no bug of ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ask(client, value)
    except BugError as error:
        raise AssertionError(f"a bug: {error}") from error
    except Exception:  # noqa: S110 - what it raises is what the user is told
        pass


def with_innocents(client: Client, ask: Callable[[Client, Any], Any], value: Any) -> None:
    before = client.map(work.inc, range(20))
    answered(client, ask, value)
    after = client.submit(sum, before)
    assert client.gather([*before, after]) == [*range(1, 21), 210]


def may_be_late(field: str, value: Any) -> bool:
    """Say whether a call may rightly end its worker's process, or wait for long, by this number of seconds."""
    try:
        return field.startswith("timeout") and 0 < value < 5
    except TypeError:
        return False


@pytest.mark.parametrize("field", TEXTS)
def test_a_text_that_is_not_utf8(client: Client, field: str) -> None:
    with_innocents(client, TEXTS[field], BAD_TEXT)


@pytest.mark.parametrize("field", NUMBERS)
def test_a_number_that_no_message_holds(client: Client, field: str) -> None:
    for value in (10**30, math.nan, True):
        with_innocents(client, NUMBERS[field], value)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(field=st.sampled_from(sorted(TEXTS)), text=any_text)
def test_any_text_anywhere(client: Client, field: str, text: str) -> None:
    with_innocents(client, TEXTS[field], text)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(field=st.sampled_from(sorted(NUMBERS)), number=any_number)
def test_any_number_anywhere(client: Client, field: str, number: Any) -> None:
    assume(not may_be_late(field, number))
    with_innocents(client, NUMBERS[field], number)


def test_each_option_of_submit_is_tried() -> None:
    tried = {field.partition(",")[0] for field in [*TEXTS, *NUMBERS]}
    not_sent = {"actor", "actors", "allow_other_workers", "pure", "fifo_timeout"}
    assert tried | not_sent >= SUBMIT_WORDS


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ({"priority": 10**30}, "priority= is a whole number from -9223372036854775808 to "),
        ({"retries": 1 << 63}, "retries= is a whole number from 0 to "),
        ({"workers": BAD_TEXT}, r"workers= can't be sent: 'caf\\udce9.nc'"),
        ({"resources": {BAD_TEXT: 1}}, "a name in resources= can't be sent"),
        ({"resources": {"GPU": 10**400}}, "resources= has names and amounts"),
        ({"key": BAD_TEXT}, "a key can't be sent"),
        ({"timeout": math.nan}, "timeout= is how long a task may run"),
        ({"actor": True, "restarts": 10**30}, "restarts= is a whole number"),
    ],
)
def test_an_option_that_cannot_be_sent_is_refused_in_the_call(
    client: Client, words: dict[str, Any], refused: str
) -> None:
    futures = client.map(work.inc, range(100))
    with pytest.raises(ValueError, match=refused):
        client.submit(work.inc, 1, **words)
    assert client.gather(futures) == list(range(1, 101))


def test_the_exception_comes_back_as_it_was(client: Client) -> None:
    futures = client.map(work.inc, range(48))
    error = client.submit(fail_in_own_words, BAD_TEXT).exception(20)
    assert isinstance(error, Told)
    assert error.text == BAD_TEXT
    assert "caf\\udce9.nc" in str(error.__cause__)
    assert client.gather(futures) == list(range(1, 49))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:a call of fail has")
def test_a_very_long_text_travels_once_and_without_its_middle(client: Client) -> None:
    failed = client.submit(fail, "x" * (70 << 20))
    error = failed.exception(60)
    assert "characters are left out" in str(error)
    assert len(str(error)) < 3 << 20
    assert client.submit(work.inc, 1).result(20) == 2


def test_a_call_that_cannot_be_encoded_all_the_same_fails_alone(client: Client) -> None:
    with submission_of(client).using(work.inc) as sent:
        before = client.map(work.inc, range(10))
        (bad,) = core_of(client).table.new_many([core_of(client).link.new_key("inc")])
        core_of(client).link.send(m.SubmitTasks(sent.id, [bad._key], [b""], priority=10**30))
        after = client.map(work.inc, range(10))
    with pytest.raises(SerializationError, match="the call can't be sent"):
        bad.result(20)
    assert client.gather(before + after) == [*range(1, 11)] * 2


def test_a_client_with_a_name_that_cannot_be_sent(cluster: MiniCluster) -> None:
    with pytest.raises(ValueError, match="name= can't be sent"):
        Client(cluster.directory, name=BAD_TEXT)


def test_a_file_to_upload_with_a_name_that_cannot_be_sent(client: Client, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"mod\xe9.py")
    path.write_text("X = 1\n")
    with pytest.raises(ValueError, match="the file's name can't be sent"):
        client.upload_file(path)
