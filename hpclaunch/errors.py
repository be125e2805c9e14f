"""Every error that hpclaunch raises, in one tree whose branches say whose fault it is.

``UserError``  something the user wrote: configuration, arguments, a task's function
``SiteError``  the batch system, the machine or the file system refused or broke
``PeerError``  the other end of a connection went away or misbehaved
``BugError``   hpclaunch itself is wrong; please report it with the text

Attributes hold the facts (argv, exit code, output, paths) so that a program can act on them; the text is for
a person, and ends in what to do next wherever that is known.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence
from typing import Any


class HPCLaunchError(Exception):
    """The root of all errors that hpclaunch raises on purpose."""


class UserError(HPCLaunchError):
    """Something that the user wrote cannot be carried out as it stands."""


class SiteError(HPCLaunchError):
    """The batch system, machine or file system did not do what was asked."""


class PeerError(HPCLaunchError):
    """The other end of a connection is gone, or does not speak our protocol."""


class BugError(HPCLaunchError):
    """hpclaunch broke one of its own rules. Please report it with the whole text."""


class ConfigError(UserError, ValueError):
    """A configuration value that cannot be used.

    :param message: what is wrong and what to write instead.
    :param origin: where the value came from, such as ``jobqueue.yaml:7`` or ``argument cores``.
    :param key: the key as the user wrote it, dotted.
    """

    def __init__(self, message: str, *, origin: str | None = None, key: str | None = None) -> None:
        super().__init__(f"{origin}: {message}" if origin else message)
        self.message = message
        self.origin = origin
        self.key = key


class ConfigErrors(ConfigError):
    """Several configuration mistakes found in one reading, one line each (``errors`` holds them)."""

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        lines = "\n".join(f"  {error}" for error in errors)
        super().__init__(f"{len(errors)} mistakes in the configuration:\n{lines}")
        self.errors = tuple(errors)


class ScriptError(UserError):
    """A job script cannot be rendered from these values or this template."""


class CommandError(SiteError):
    """A command of the batch system failed.

    :param what: what was being done, such as ``"submitting 8 jobs to SGE"``.
    :param argv: the command as it was run.
    :param exit_code: its exit code; None if it could not be started or ran out of time.
    :param output: what it printed, standard error included, unabridged.
    :param hint: what to do next, a sentence.
    """

    def __init__(
        self,
        what: str,
        *,
        argv: Sequence[str] = (),
        exit_code: int | None = None,
        output: str = "",
        hint: str = "",
    ) -> None:
        lines = [what]
        if argv:
            lines.append(f"  command: {' '.join(argv)}")
        if exit_code is not None:
            lines.append(f"  exit code: {exit_code}")
        lines += [f"  | {line}" for line in output.strip().splitlines()]
        if hint:
            lines.append(f"  {hint}")
        super().__init__("\n".join(lines))
        self.what = what
        self.argv = tuple(argv)
        self.exit_code = exit_code
        self.output = output
        self.hint = hint


class SubmitError(CommandError):
    """The batch system did not take a job."""


class LimitReachedError(SubmitError):
    """A limit on the number of jobs is reached: the batch system took some of them, or none, and no more.

    ``job_ids`` are those that it took; ``limit`` says which limit it is, in words.
    """

    def __init__(self, what: str, *, job_ids: Sequence[str] = (), limit: str = "", **facts: Any) -> None:
        super().__init__(what, **facts)
        self.job_ids = list(job_ids)
        self.limit = limit


class StatusError(CommandError):
    """The batch system did not answer a question about jobs."""


class CancelError(CommandError):
    """Jobs could not be cancelled, or are still there after they were."""


class JobsFailedError(SiteError):
    """Jobs died early again and again, and hpclaunch stopped submitting more.

    The text quotes the last job's reason and the end of its log.
    """


class MemoryFullError(SiteError):
    """Nothing can run any more, because the memory of all workers is full of results that are wanted."""


class HeadError(SiteError):
    """The head process could not be started, or ended while it was needed."""


class SetupError(UserError):
    """A plugin or an uploaded file can't set a worker up. Chained to what it raised there, where that is known."""


class ClusterNotFoundError(UserError):
    """No running cluster goes by this name, file or address."""


class CommClosedError(PeerError):
    """The connection ended before the answer came."""


class PeerSilentError(PeerError):
    """The other end of a connection is there, and does not answer: it is frozen, or the network is."""


class HandshakeError(PeerError):
    """The peer could not prove who it is, or speaks another version of the protocol."""


class FrameError(PeerError):
    """The peer sent bytes that are not a frame of our protocol, or one over the limit."""


class IllegalTransitionError(BugError):
    """A state machine was asked for a step that its table does not have; the text tells the thing's story."""


class TaskError(HPCLaunchError):
    """A task could not give its result for a reason other than an exception of its own."""


class KilledWorkerError(TaskError):
    """Too many workers died while they ran this task; the text says how each of them died."""


class TooLargeError(TaskError):
    """What a task is given does not fit into the memory of any worker; the text says sizes and limits."""


class ResultTooLargeError(MemoryError, HPCLaunchError):
    """Results that were asked for do not fit into the memory that is free here; they are still on the cluster."""


class SerializationError(TaskError, TypeError):
    """A function, argument, result or exception cannot be pickled or unpickled."""


class ActorError(TaskError):
    """An actor was lost with its worker, or a call of it had no answer for that reason."""


class TaskTimeoutError(TaskError, TimeoutError):
    """The task ran for longer than the ``timeout`` that it was submitted with; the text names its worker."""


class LostResultError(TaskError):
    """The result was on a worker that is gone, and the task cannot be run again."""


class UnknownTaskError(LostResultError):
    """The cluster knows no task of this key: it was never submitted, or all its futures were released."""


class CancelledError(TaskError, concurrent.futures.CancelledError):
    """The task was cancelled before it had a result."""


class WaitTimeoutError(SiteError, TimeoutError):
    """Workers did not come in the time given; the text says where each job stands."""
