"""Signals that come while a rank is not ready for them: noted, and answered when it is."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from hpclaunch.mpi import api, gang
from hpclaunch.mpi.signals import END_SIGNALS, EndSignals
from hpclaunch.mpi.start import _last_exchange


@pytest.fixture
def signals() -> Iterator[EndSignals]:
    """Signals as they were are there again after the test."""
    before = {number: signal.getsignal(number) for number in END_SIGNALS}
    for number in END_SIGNALS:  # who runs the tests may have some ignored
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    heard = EndSignals()
    heard.hear()
    yield heard
    heard.release()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_first_is_noted_and_ends_a_wait(signals: EndSignals) -> None:
    signals.hear()
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGUSR1)
    signals.wait([], timeout=None)
    assert signals.number == signal.SIGTERM


def test_they_go_back_to_whom_they_belonged(signals: EndSignals) -> None:
    signals.release()
    signals.release()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(("number", "end"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_script_gets_what_came_during_the_start(
    signals: EndSignals, number: signal.Signals, end: type[BaseException]
) -> None:
    signal.raise_signal(number)
    with pytest.raises(end):
        api._end_on_signals(signals)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


class Missing(gang.Alone):
    """Another rank does not come any more."""

    def allgather(
        self, mine: bytes, timeout: float, is_hurried: Callable[[], bool] = lambda: False
    ) -> list[bytes]:
        """Wait for it."""
        assert not gang._until(lambda: False, timeout, is_hurried)
        raise gang.RanksMissingError("it is not there")


def test_a_signal_leaves_little_time_for_the_last_exchange(
    signals: EndSignals, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(gang.RanksMissingError):
        _last_exchange(Missing(), "", 0.01, signals)
    monkeypatch.setattr(gang, "HURRIED_SECONDS", 0.01)
    signal.raise_signal(signal.SIGUSR2)
    with pytest.raises(SystemExit) as ended:
        _last_exchange(Missing(), "", 3600, signals)
    assert ended.value.code == 128 + signal.SIGUSR2
