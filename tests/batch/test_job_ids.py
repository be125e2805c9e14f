"""What may stand in a command line of a batch system: job ids, and nothing else that a file or a peer says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from hpclaunch.batch.base import BatchSystem, Completed
from hpclaunch.batch.local import LocalProcesses
from hpclaunch.batch.queue import BatchQueue
from hpclaunch.batch.sge import GridEngine
from hpclaunch.batch.slurm import Slurm
from hpclaunch.head.ranks import is_rank, job_id

CODECS: dict[str, tuple[BatchSystem, list[str]]] = {
    "slurm": (Slurm(), ["4711", "4711_1", "4711_1000"]),
    "sge": (GridEngine(), ["4711", "4711.1"]),
    "local": (LocalProcesses(python="python", program="localctl.py", spool=Path("spool")), ["1.1", "12.30"]),
}
HOSTILE = [
    *("", "--user=root", "-u", "*", "4711 4712", "4711\n", "../../etc", "4711;reboot", "$(reboot)", "rank1"),
    *("4711_1 --user=root", "٤٧١١", "4711_", ".1", "4711.1.1", "4711_[1-5]", "9" * 30),
]


class Recorder:
    """A transport that notes what it is asked to run."""

    def __init__(self) -> None:
        self.argvs: list[Sequence[str]] = []

    async def run(self, argv: Sequence[str], *, timeout: float) -> Completed:
        self.argvs.append(argv)
        return Completed(tuple(argv), 0, "", "")


@pytest.mark.parametrize("name", CODECS)
def test_each_codec_knows_its_ids(name: str) -> None:
    codec, good = CODECS[name]
    assert [text for text in good if not codec.is_job_id(text)] == []
    assert [text for text in HOSTILE if codec.is_job_id(text)] == []


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_else_reaches_a_command(name: str, hostile: str) -> None:
    codec, good = CODECS[name]
    words = _words_of_commands(codec, [good[0], hostile])
    assert words == _words_of_commands(codec, [good[0]])  # which may hold a * or -u of their own
    queue = BatchQueue(codec, Recorder())
    assert asyncio.run(queue.explain(hostile)) == ""
    assert asyncio.run(queue.why_put_back(hostile)) == ""


def _words_of_commands(codec: BatchSystem, ids: list[str]) -> set[str]:
    """Return the words of all commands about jobs with these ids; several ids in one word are parted."""
    transport = Recorder()
    queue = BatchQueue(codec, transport)

    async def ask() -> None:
        for act in (queue.poll, queue.usage, queue.cancel):
            asked = len(transport.argvs)
            with contextlib.suppress(Exception):  # the empty answer is none to some; the commands are what counts
                async with asyncio.timeout(0.2):
                    await act(ids)
            assert len(transport.argvs) > asked

    asyncio.run(ask())
    return {part for argv in transport.argvs for word in argv for part in word.split(",")}


def test_what_stands_for_a_ranks_job() -> None:
    assert is_rank(job_id(3))
    assert is_rank(job_id(12, "a0b1c2"))
    assert not any(is_rank(text) for text in HOSTILE if text != "rank1")
    assert not is_rank("rank1 --user=root")
