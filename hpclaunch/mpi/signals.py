"""Signals that are to end the job, as a rank hears them: noted at first, and answered when it can."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from types import FrameType
from typing import Any

#: What the batch system, mpirun or a person sends when the job is to end.
END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class EndSignals:
    """Notes signals between :meth:`hear` and :meth:`release`; outside of the main thread, none.

    ``number`` is the first signal that came, 0 if there was none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}
        self._fd_before = -1
        self._reader = self._writer = -1

    def hear(self) -> None:
        """Note signals from now on; again is no error."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._fd_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in END_SIGNALS:
            self._before[number] = signal.signal(number, self._note)

    def release(self) -> None:
        """Give signals back to those who had them before; again is no error."""
        if not self._before:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()
        signal.set_wakeup_fd(self._fd_before)
        os.close(self._reader)
        os.close(self._writer)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number

    def wait(self, pids: list[int], timeout: float | None) -> None:
        """Return when a process has ended, a signal has come, or the time is over.

        :param timeout: seconds; None is no limit.
        """
        fds = []
        try:
            for pid in pids:
                try:
                    fds.append(os.pidfd_open(pid))
                except ProcessLookupError:
                    return
                except OSError:  # a kernel without process descriptors: look now and then
                    timeout = min(timeout or 0.5, 0.5)
            mine = [self._reader] if self._before else []
            select.select([*fds, *mine], [], [], timeout)
        finally:
            for fd in fds:
                os.close(fd)
        if self._before:
            with contextlib.suppress(BlockingIOError):
                while os.read(self._reader, 512):
                    pass
