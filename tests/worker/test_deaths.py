"""How the end of a worker process is put in words: the evidence, and what to do."""

from __future__ import annotations

import signal

import pytest

from hpclaunch.worker import deaths
from hpclaunch.worker.deaths import CRASHED, LOST_HEAD, NO_MEMORY, TOLD_TO_END, WORN_OUT, Death
from hpclaunch.worker.memory import Limits

LIMITS = Limits(memory=1_000_000_000, terminate=950_000_000)
KILLED = Death(CRASHED, -signal.SIGKILL, 400_000_000, ["greedy"])


@pytest.mark.parametrize(
    ("death", "text"),
    [
        (
            KILLED,
            "its process was killed by signal 9 (SIGKILL); often that is the operating system or the batch system "
            "enforcing a memory limit while it ran greedy; its memory had peaked at 400 MB",
        ),
        (
            KILLED._replace(killed_for_memory=True, group_limit=404_000_000),
            "its process was killed by signal 9 (SIGKILL) by the kernel, because its job was over the memory "
            "limit of 404 MB that is set for it while it ran greedy; its memory had peaked at 400 MB",
        ),
        (
            KILLED._replace(killed_for_memory=True, running=[]),
            "its process was killed by signal 9 (SIGKILL) by the kernel, because its job was over the memory "
            "limit that is set for it; its memory had peaked at 400 MB",
        ),
        (
            KILLED._replace(is_by_others=True),
            "its process was killed by signal 9 (SIGKILL) from outside: it had used little memory, and the kernel "
            "has ended no process for want of it while it ran greedy; its memory had peaked at 400 MB",
        ),
        (
            KILLED._replace(too_large=960_000_000, running=["a", "b"]),
            "its process was ended because it had 960 MB of memory, more than 95% (terminate) of its 1000 MB "
            "while it ran a, b; its memory had peaked at 400 MB",
        ),
        (
            Death(NO_MEMORY, 1, 300_000_000, ["greedy"], address_limit=900_000_000),
            "its process ended because a task had taken all the memory that it may have (900 MB of virtual "
            "memory) while it ran greedy; its memory had peaked at 300 MB",
        ),
        (
            KILLED._replace(overdraft=1_600_000_000, address_limit=900_000_000),
            "its process was ended because the job's processes had 1600 MB of virtual memory together, and the "
            "batch system ends jobs that have more than 900 MB (RLIMIT_AS; h_vmem on Grid Engine) while it ran "
            "greedy; its memory had peaked at 400 MB",
        ),
        (
            Death(CRASHED, 3, 50_000_000, []),
            "its process ended with exit code 3; its memory had peaked at 50 MB",
        ),
        (
            Death(CRASHED, -signal.SIGSEGV, 50_000_000, ["x"]),
            "its process was killed by signal 11 (SIGSEGV) while it ran x; its memory had peaked at 50 MB",
        ),
        (
            KILLED._replace(too_large=960_000_000, running=[], receiving=["a", "b"]),
            "its process was ended because it had 960 MB of memory, more than 95% (terminate) of its 1000 MB "
            "while it received what a, b needs; its memory had peaked at 400 MB",
        ),
        (
            KILLED._replace(too_large=960_000_000, receiving=["a"]),
            "its process was ended because it had 960 MB of memory, more than 95% (terminate) of its 1000 MB "
            "while it ran greedy and received what a needs; its memory had peaked at 400 MB",
        ),
        (
            Death(CRASHED, -signal.SIGSEGV, 50_000_000, ["x"], receiving=["innocent"]),
            "its process was killed by signal 11 (SIGSEGV) while it ran x; its memory had peaked at 50 MB",
        ),
        (
            Death(CRASHED, -99, 50_000_000, []),
            "its process was killed by signal 99 (unknown); its memory had peaked at 50 MB",
        ),
        (Death(TOLD_TO_END, 0, 1, []), "it was told to end"),
        (Death(LOST_HEAD, 0, 1, []), "it lost its connection to the head"),
        (
            Death(WORN_OUT, 0, 1, []),
            "its memory was full with nothing running, so it makes way for a new process",
        ),
    ],
)
def test_how(death: Death, text: str) -> None:
    assert deaths.how(death, LIMITS) == text


def test_advice_is_given_where_memory_is_known_to_be_the_reason() -> None:
    known = KILLED._replace(killed_for_memory=True)
    assert deaths.advice(known, memory=400_000_000, processes=1) == (
        "Give each job more memory: memory= (400 MB now), or split the task into smaller ones."
    )
    assert deaths.advice(known, memory=800_000_000, processes=2) == (
        "Give each job more memory: memory= (800 MB now for 2 worker processes), have fewer processes= share it, "
        "or split the task into smaller ones."
    )
    for full in (Death(NO_MEMORY, 1, 1, ["x"]), KILLED._replace(overdraft=1)):
        assert deaths.advice(full, memory=0, processes=1) == (
            "Give each job more memory: memory=, and resource_spec= if that names h_vmem, or split the task into "
            "smaller ones."
        )
    assert deaths.advice(KILLED._replace(too_large=1), memory=0, processes=1)
    assert not deaths.advice(KILLED, memory=1, processes=1)
    assert not deaths.advice(known._replace(running=[]), memory=1, processes=1)
