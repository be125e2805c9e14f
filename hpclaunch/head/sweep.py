"""Cleaning up after a head that did not end in order: its jobs are cancelled, its files removed.

Done by the cluster object whose head has died, by ``hpclaunch clean``, and by every head for what has no owner any
more. Whether a head is dead is asked twice before anything of it is touched: its process must be gone from this
host, and its addresses may not answer (a process in a container is not always to be seen).

``python -m hpclaunch.head.sweep DIRECTORY`` does it in a process of its own: at the end of Python or in a notebook
there is no other way to wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from pathlib import Path

import msgspec

from hpclaunch import batch, remains, rundir
from hpclaunch.batch.queue import BatchQueue
from hpclaunch.errors import CancelError, HPCLaunchError, SiteError
from hpclaunch.head import options as head_options
from hpclaunch.head.jobfiles import RunFiles
from hpclaunch.head.jobs import JobManager
from hpclaunch.jobs.commands import RetireWorkers
from hpclaunch.link.session import HeadSession
from hpclaunch.safepath import module_command
from hpclaunch.transport.local import LocalTransport

log = logging.getLogger("hpclaunch.sweep")

#: Seconds in which a head that lives would answer.
_ANSWER_SECONDS = 3.0


async def sweep(directory: Path, *, keep_files: bool = False) -> list[str]:
    """Cancel the jobs that a dead head has left, remove its run directory, and return the jobs' ids.

    :param keep_files: leave the directory, with a note in it that its jobs are gone.
    :raises CancelError: some are still there; the directory is kept, so that this can be tried again.
    :raises StatusError: the batch system does not say which jobs there are; the directory is kept.
    :raises SiteError: the head lives.
    :raises HeadError: the directory does not say what its head was.
    """
    if not await asyncio.to_thread(directory.exists):  # its last worker has removed it: no job was left
        return []
    head_options.read(directory)  # an error, if it does not say what its head was
    if await _is_answered(directory):
        raise SiteError(f"the head of {directory.name} answers, so it is left alone; `hpclaunch down` ends it")
    cancelled = [
        job_id for group in rundir.groups_of(directory) for job_id in await _sweep_group(directory, group)
    ]
    if keep_files:
        (directory / "swept").touch(mode=0o600)
        remains.remove_keys(directory)
    else:
        rundir.remove(directory)
    return cancelled


async def _sweep_group(directory: Path, group: str) -> list[str]:
    """Cancel the jobs of one group, and return their ids."""
    config = msgspec.structs.replace(head_options.read(directory).config, group=group)
    script = rundir.script_path(directory, group)
    queue = BatchQueue(batch.by_name(config.batch_system, config, directory), LocalTransport())
    found = await queue.find(script)
    if found:  # also what the head did not live to write down
        RunFiles(rundir.tickets_path(directory, group), directory / "logs").write_journal("submitted", found)
    manager = JobManager(
        config, queue, script, directory, retire=_nothing, idle_jobs=list, on_failure=lambda error: None
    )
    return await manager.sweep()


async def sweep_others(*, had_owner: bool = False) -> None:
    """Cancel the jobs of this user's dead clusters that have no owner, and remove their keys.

    What belonged to a process that is gone is removed. The files of a cluster that was to stay are kept: its user
    may want to know how its head died. Directories in which no head ever started are removed, too.

    :param had_owner: leave clusters alone that were to stay.
    """
    for one in remains.ownerless(had_owner=had_owner):
        try:
            ids = await sweep(one.directory, keep_files=not one.facts.get("owner_pid"))
        except HPCLaunchError as error:
            log.warning("what the dead cluster %s has left could not be cancelled: %s", one.directory.name, error)
        else:
            log.info(
                "cancelled what the dead cluster %s has left: %s", one.directory.name, " ".join(ids) or "nothing"
            )
    for path in rundir.abandoned():
        rundir.remove(path)
        log.info("removed %s, which never had a head", path.name)


def sweep_apart(directory: Path) -> None:
    """Sweep in a process of its own, and wait for it.

    :raises CancelError: jobs are left, or may be.
    """
    command = [*module_command(sys.executable, "hpclaunch.head.sweep"), str(directory)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()
        raise CancelError(
            f"cluster {directory.name} may have left jobs behind",
            output="\n".join(why[-20:]),
            hint="`hpclaunch clean` tries again.",
        )


async def _is_answered(directory: Path) -> bool:
    try:
        session = await HeadSession.open(directory, name=f"sweep-{os.getpid()}", timeout=_ANSWER_SECONDS)
    except (HPCLaunchError, OSError):
        return False
    session.close()
    return True


async def _nothing(command: RetireWorkers) -> None:
    """No engine runs any more that could drain workers."""


if __name__ == "__main__":
    try:
        asyncio.run(sweep(Path(sys.argv[1])))
    except HPCLaunchError as error:
        sys.exit(str(error))
