"""What the shell around the ledger must do. Each command is answered by one ``on_<fact>`` of the ledger."""

from __future__ import annotations

from typing import NamedTuple


class Submit(NamedTuple):
    """Submit ``jobs`` jobs in one go. Answer: ``on_submitted`` or ``on_submit_failed``."""

    ticket: int
    jobs: int


class Cancel(NamedTuple):
    """Cancel these jobs and see to it that they are gone. Answer: ``on_cancelled`` or ``on_cancel_failed``."""

    ids: tuple[str, ...]


class Poll(NamedTuple):
    """Ask the batch system where these jobs stand. Answer: ``on_status`` or ``on_status_failed``."""

    ids: tuple[str, ...]


class LookAtFiles(NamedTuple):
    """Look for new start, exit-code and fail files. Answer: ``on_files``."""


class AskUsage(NamedTuple):
    """Ask accounting about these jobs. Answer: ``on_usage``, also when accounting is silent."""

    ids: tuple[str, ...]


class AskReason(NamedTuple):
    """Ask the batch system why one job waits or is stuck. Answer: ``on_reason``."""

    id: str


class AskPutBack(NamedTuple):
    """Ask why a job was put back in the queue. Answer: ``on_put_back``, also when that is not known."""

    id: str


class ReadLog(NamedTuple):
    """Read the end of a job's log. Answer: ``on_log``, also when there is none."""

    id: str


class RetireWorkers(NamedTuple):
    """Let the workers of a job finish, move what they hold, and close. Answer: ``on_retired``.

    It may take ``seconds`` at most, of which ``patience`` is to wait for a worker that can take what they hold.
    """

    id: str
    reason: str
    seconds: float
    patience: float


class Journal(NamedTuple):
    """Write down that these jobs were submitted or have ended, for a head that comes after us. No answer."""

    word: str  # "submitted" or "ended"
    ids: tuple[str, ...]


class ReportFailure(NamedTuple):
    """Tell all clients that no more jobs will be submitted. No answer."""

    text: str


Command = (
    Submit
    | Cancel
    | Poll
    | LookAtFiles
    | AskUsage
    | AskReason
    | AskPutBack
    | ReadLog
    | RetireWorkers
    | Journal
    | ReportFailure
)
