"""A head that is frozen: who waits for it is told."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpclaunch.errors import PeerSilentError
from hpclaunch.link import liveness, session as session_module
from tests.client import work
from tests.client.conftest import until

pytestmark = pytest.mark.slow


@pytest.fixture
def frozen(own_cluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client with a running task, whose head is stopped until the end of the test."""
    monkeypatch.setattr(liveness, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(liveness, "ANSWER_SECONDS", 0.3)
    cluster, client = own_cluster(jobs=1)
    try:
        yield cluster, client
    finally:
        os.kill(cluster.head.pid, signal.SIGCONT)


def test_who_waits_for_a_future_is_warned_and_has_it_later(frozen: Any, tmp_path: Path) -> None:
    cluster, client = frozen
    gate = tmp_path / "gate"
    future = client.submit(work.wait_for, str(gate), 7)
    until(lambda: client.processing() and any(client.processing().values()), "the start")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        os.kill(cluster.head.pid, signal.SIGSTOP)
        until(lambda: caught, "the warning")
        with pytest.raises(TimeoutError):
            future.result(1)
        assert len(caught) == 1  # once for each time that it is frozen
        assert "has not answered for 0.3 s: it is frozen" in str(caught[0].message)
        os.kill(cluster.head.pid, signal.SIGCONT)
    gate.touch()
    assert future.result(20) == 7


@pytest.mark.filterwarnings("ignore:the head at")
def test_questions_end_in_an_error(frozen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, client = frozen
    monkeypatch.setattr(session_module, "SILENCE_SECONDS", 0.3)
    os.kill(cluster.head.pid, signal.SIGSTOP)
    for ask in (client.who_has, client.scheduler_info, lambda: client.wait_for_workers(5)):
        with pytest.raises(PeerSilentError, match=r"it has said nothing for 0\.6 s. It is frozen"):
            ask()
    os.kill(cluster.head.pid, signal.SIGCONT)
    until(lambda: client.submit(work.inc, 1).result(20) == 2, "going on")
