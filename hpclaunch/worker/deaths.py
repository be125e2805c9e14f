"""How a worker process ended, in words: what happened, on which evidence, and what to do about it. Pure."""

from __future__ import annotations

import signal
from typing import NamedTuple

from hpclaunch.worker.memory import Limits

#: How a worker process ended, as it notes itself in the byte behind its slots; a task can fake an exit code.
CRASHED, TOLD_TO_END, LOST_HEAD, WORN_OUT, NO_MEMORY = range(5)

#: The ends that tasks are blamed for.
CRASHES = (CRASHED, NO_MEMORY)

_ENDS = {
    TOLD_TO_END: "it was told to end",
    LOST_HEAD: "it lost its connection to the head",
    WORN_OUT: "its memory was full with nothing running, so it makes way for a new process",
}


class Death(NamedTuple):
    """What is known about it."""

    end: int  # one of the above
    code: int  # exit code; -n: killed by signal n
    peak: int  # bytes of memory at its peak
    running: list[str]  # tasks
    too_large: int = 0  # bytes that it had when its supervisor ended it for that
    killed_for_memory: bool = False  # by the kernel, because its control group was full
    group_limit: int = 0  # bytes that the job's control group may have; 0: not known
    address_limit: int = 0  # bytes of virtual memory that the process may have; 0: no limit
    is_by_others: bool = (
        False  # killed though it had little memory, and the kernel has killed no process meanwhile
    )
    receiving: list[str] = []  # tasks whose arguments or inputs it received
    overdraft: int = 0  # bytes of it that all processes of the job had when the batch system began to end it

    @property
    def is_about_memory(self) -> bool:
        """True if memory is known to be the reason."""
        return bool(self.too_large or self.killed_for_memory or self.overdraft or self.end == NO_MEMORY)

    @property
    def is_by_arrivals(self) -> bool:
        """True if what it received may be the reason: it may be about memory, or nothing ran."""
        is_maybe_killed_for_memory = self.code == -signal.Signals.SIGKILL and not self.is_by_others
        return bool(self.receiving) and (self.is_about_memory or is_maybe_killed_for_memory or not self.running)


def how(death: Death, limits: Limits) -> str:
    """Say in one line how a worker process ended."""
    if death.end in _ENDS:
        return _ENDS[death.end]
    did = [f"ran {', '.join(death.running)}"] if death.running else []
    did += [f"received what {', '.join(death.receiving)} needs"] if death.is_by_arrivals else []
    during = f" while it {' and '.join(did)}" if did else ""
    return f"{_what(death, limits)}{during}; its memory had peaked at {death.peak / 1e6:.0f} MB"


def _what(death: Death, limits: Limits) -> str:
    if death.too_large:
        return (
            f"its process was ended because it had {death.too_large / 1e6:.0f} MB of memory, more than "
            f"{limits.terminate / limits.memory:.0%} (terminate) of its {limits.memory / 1e6:.0f} MB"
        )
    if death.overdraft:
        return f"its process was ended because {overdraft(death.overdraft, death.address_limit)}"
    if death.end == NO_MEMORY:
        limit = f"{death.address_limit / 1e6:.0f} MB of virtual memory" if death.address_limit else "what there is"
        return f"its process ended because a task had taken all the memory that it may have ({limit})"
    if death.code >= 0:
        return f"its process ended with exit code {death.code}"
    text = f"its process was killed by signal {-death.code} ({_name(-death.code)})"
    if death.killed_for_memory:
        limit = f" of {death.group_limit / 1e6:.0f} MB" if death.group_limit else ""
        return f"{text} by the kernel, because its job was over the memory limit{limit} that is set for it"
    if death.is_by_others:
        return (
            f"{text} from outside: it had used little memory, and the kernel has ended no process for want of it"
        )
    if death.code == -signal.Signals.SIGKILL:
        text += "; often that is the operating system or the batch system enforcing a memory limit"
    return text


def overdraft(together: int, limit: int) -> str:
    """Say why the batch system ends a job that has so many bytes of virtual memory."""
    return (
        f"the job's processes had {together / 1e6:.0f} MB of virtual memory together, and the batch system ends "
        f"jobs that have more than {limit / 1e6:.0f} MB (RLIMIT_AS; h_vmem on Grid Engine)"
    )


def advice(death: Death, *, memory: int, processes: int) -> str:
    """Say what to do; empty if memory is not known to be the reason.

    :param memory: bytes that the job has; 0 is not known.
    :param processes: worker processes in it.
    """
    if not death.is_about_memory or not (death.running or death.receiving):
        return ""
    shared = f" for {processes} worker processes" if processes > 1 else ""
    has = f" ({memory / 1e6:.0f} MB now{shared})" if memory else ""
    fewer = ", have fewer processes= share it" if processes > 1 else ""
    is_virtual = death.end == NO_MEMORY or death.overdraft
    limit = ", and resource_spec= if that names h_vmem" if is_virtual else ""
    return f"Give each job more memory: memory={has}{limit}{fewer}, or split the task into smaller ones."


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
