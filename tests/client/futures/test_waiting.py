"""as_completed, wait, and the progress bar."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from hpclaunch.client.client import Client
from hpclaunch.client.futures.collect import fire_and_forget
from hpclaunch.client.futures.future import Future
from hpclaunch.client.futures.progress import progress
from hpclaunch.client.futures.waiting import as_completed, wait
from hpclaunch.errors import CancelledError
from tests.client import work
from tests.client.conftest import until
from tests.client.inside import futures_kept
from tests.comm.minihead import MiniCluster


@pytest.fixture
def gates(tmp_path: Path) -> list[Path]:
    return [tmp_path / f"gate{i}" for i in range(4)]


def gated(client: Client, gates: list[Path]) -> list[Future]:
    """Futures that end when their gates are opened. There are two workers: the first two are what runs."""
    return [client.submit(work.wait_for, str(gate), i) for i, gate in enumerate(gates)]


def test_as_completed_gives_futures_in_the_order_of_their_ends(client: Client, gates: list[Path]) -> None:
    a, b = gated(client, gates[:2])
    ended = as_completed([a, b])
    gates[1].touch()
    assert next(ended) is b
    assert ended.count() == 1
    gates[0].touch()
    assert next(ended) is a
    assert ended.is_empty()
    with pytest.raises(StopIteration):
        next(ended)
    assert list(as_completed([])) == []


def test_as_completed_gives_each_of_many_once(client: Client) -> None:
    futures = client.map(work.inc, range(1000))
    assert {f.key for f in as_completed(futures)} == {f.key for f in futures}
    assert len(list(as_completed(futures[:10] + futures[:10]))) == 20  # as often as it was added


def test_as_completed_with_results(client: Client) -> None:
    futures = client.map(work.inc, range(10))
    assert dict(as_completed(futures, with_results=True)) == {f: i + 1 for i, f in enumerate(futures)}
    with pytest.raises(ValueError, match="1 is odd"):
        list(as_completed(client.map(work.fail_odds, [1]), with_results=True))


def test_as_completed_with_results_has_errors_and_cancelled_tasks_among_them(
    client: Client, gates: list[Path]
) -> None:
    blockers = gated(client, gates[:2])
    fine, bad, cancelled = client.submit(work.inc, 1), client.submit(work.fail), client.submit(work.inc, 2)
    cancelled.cancel()
    for gate in gates:
        gate.touch()
    futures = [fine, bad, cancelled, *blockers]
    given = dict(as_completed(futures, with_results=True, raise_errors=False))
    assert given[fine] == 2
    kind, error, trace = given[bad]
    assert kind is type(error) is ValueError
    assert trace is not None
    assert isinstance(given[cancelled], CancelledError)


def test_batches_hold_what_has_ended_meanwhile(client: Client) -> None:
    futures = client.map(work.inc, range(500))
    wait(futures)
    ended = as_completed(futures)
    assert ended.has_ready()
    batches = list(ended.batches())
    assert [len(batch) for batch in batches] == [500]
    assert ended.is_empty()
    assert ended.next_batch() == []
    ended.update(futures[:3])
    assert len(ended.next_batch()) == 3


def test_clear_forgets_what_has_not_been_given(client: Client, gates: list[Path]) -> None:
    a, b = gated(client, gates[:2])
    ended = as_completed([a, b])
    assert repr(ended) == "<as_completed: waiting=2 done=0>"
    assert ended.next_batch(block=False) == []
    ended.clear()
    assert ended.count() == 0
    ended.add(b)
    for gate in gates:
        gate.touch()
    assert a.result(10) == 0
    assert list(ended) == [b]
    assert not ended.has_ready()


def test_what_is_no_future_is_refused(client: Client) -> None:
    with pytest.raises(TypeError, match="takes futures, not a int"):
        as_completed([1])
    with pytest.raises(TypeError, match="not a int"):
        wait([1])
    future = client.submit(work.inc, 1)
    with pytest.raises(TypeError, match=r"wait\(\[x, y\]\), not wait\(x, y\)"):
        wait(future, future)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a timeout is a number of seconds"):
        wait([], timeout=object())  # type: ignore[arg-type]


def test_futures_of_several_clients(client: Client, cluster: MiniCluster, gates: list[Path]) -> None:
    with Client(cluster.directory, set_as_default=False) as other:
        mine = client.submit(work.wait_for, str(gates[0]))
        (theirs,) = gated(other, gates[1:2])
        with pytest.raises(ValueError, match=f"of its own client, and some are of {other.name}"):
            client.gather([mine, theirs])
        opening = threading.Timer(0.2, gates[1].touch)  # when it is waited for
        gates[0].touch()
        opening.start()
        assert wait([mine, theirs], timeout=10).done == {mine, theirs}
        opening.join()
        assert list(client.who_has([mine, theirs])) == [mine.key, theirs.key]


def test_timeouts_may_be_texts(client: Client, gates: list[Path]) -> None:
    (a,) = gated(client, gates[:1])
    for call in (a.result, a.exception, a.traceback, lambda timeout: wait(a, timeout)):
        with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
            call(timeout="10 ms")
    with pytest.raises(TimeoutError):
        next(as_completed([a], timeout="10ms"))
    gates[0].touch()
    assert a.result("1 minute") == 0


def test_gather_leaves_other_values_as_they_are(client: Client) -> None:
    assert client.gather([client.submit(work.inc, 1), 7, {"x": "text"}]) == [2, 7, {"x": "text"}]
    a, b = client.map(work.inc, [1, 2])
    assert client.gather([[a], (b, [a])]) == [[2], (3, [2])]


def test_tasks_that_are_sent_off_run_to_their_ends(client: Client, cluster: MiniCluster, tmp_path: Path) -> None:
    gate, seen = tmp_path / "gate", tmp_path / "seen"
    with Client(cluster.directory, set_as_default=False) as other:
        first = other.submit(work.wait_for, str(gate), str(seen))
        fire_and_forget([first, other.submit(work.note, first)])
        fire_and_forget(other.submit(work.fail))
        del first
    gate.touch()
    until(seen.exists, "the end of a task that is not waited for")


def test_as_completed_gives_what_failed_or_was_cancelled_too(client: Client, gates: list[Path]) -> None:
    blockers = gated(client, gates)
    bad, cancelled = client.submit(work.fail), client.submit(work.inc, 1)
    cancelled.cancel()
    for gate in gates:
        gate.touch()
    assert {f.status for f in as_completed([bad, cancelled, *blockers])} == {"error", "cancelled", "finished"}


def test_more_can_be_added_on_the_way(client: Client) -> None:
    ended = as_completed(client.map(work.inc, [0]))
    total = 0
    for future in ended:
        total += 1
        if total < 10:
            ended.add(client.submit(work.inc, future))
        elif total == 10:
            ended.update(client.map(work.inc, range(5)))
    assert total == 15


def test_as_completed_runs_out_of_time(client: Client, gates: list[Path]) -> None:
    futures = gated(client, gates[:1])
    with pytest.raises(TimeoutError, match=r"task \S+ has not ended within 0.05 s: it is pending; client.why"):
        list(as_completed(futures, timeout=0.05))
    gates[0].touch()
    assert list(as_completed(futures, timeout=10)) == futures


def test_wait_for_all(client: Client, gates: list[Path]) -> None:
    futures = gated(client, gates)
    with pytest.raises(TimeoutError):
        wait(futures, timeout=0.05)
    for gate in gates:
        gate.touch()
    done, not_done = wait(futures, timeout=10)
    assert done == set(futures)
    assert not_done == set()
    assert wait([]) == (set(), set())
    assert wait(futures[0]).done == {futures[0]}
    assert wait(f for f in futures).done == set(futures)


def test_wait_for_the_first(client: Client, gates: list[Path]) -> None:
    futures = gated(client, gates[:2])
    gates[1].touch()
    done, not_done = wait(futures, timeout=10, return_when="FIRST_COMPLETED")
    assert (done, not_done) == ({futures[1]}, {futures[0]})
    gates[0].touch()
    wait(futures)


def test_wait_for_the_first_exception(client: Client, gates: list[Path]) -> None:
    fine, blocked = client.submit(work.inc, 1), client.submit(work.wait_for, str(gates[0]))
    bad = client.submit(work.fail)
    done, not_done = wait([fine, blocked, bad], timeout=10, return_when="FIRST_EXCEPTION")
    assert bad in done
    assert blocked in not_done
    gates[0].touch()
    done, not_done = wait([fine, blocked], timeout=10, return_when="FIRST_EXCEPTION")
    assert not not_done


def test_wait_knows_its_words(client: Client) -> None:
    with pytest.raises(ValueError, match="return_when is one of ALL_COMPLETED"):
        wait([client.submit(work.inc, 1)], return_when="SOMETIME")


def test_progress_shows_a_bar_until_all_have_ended(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    futures = client.map(work.fail_odds, range(10))
    progress(futures, title="numbers")
    assert all(f.done() for f in futures)
    shown = capsys.readouterr().out
    assert "numbers" in shown
    assert "10/10" in shown
    assert "5 failed" in shown
    progress(client.submit(work.inc, 1))
    assert "1/1" in capsys.readouterr().out
    progress([])


def test_nothing_watches_after_the_end(client: Client) -> None:
    futures = client.map(work.inc, range(10))
    list(as_completed(futures))
    assert all(f._watchers is None for f in futures)
    until(lambda: not futures_kept(client))
