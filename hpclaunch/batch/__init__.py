"""Batch systems: codecs, and the queue that runs their commands."""

from __future__ import annotations

import sys
from pathlib import Path

from hpclaunch.batch.base import BatchSystem
from hpclaunch.config.schema import JobConfig
from hpclaunch.directives import slurm_cluster


def by_name(name: str, config: JobConfig, directory: Path) -> BatchSystem:
    """Return the codec of a batch system.

    :param directory: the cluster's run directory, where the local batch system keeps its jobs.
    :raises ScriptError: the user's own directives send jobs where they can't be followed.
    """
    submit, cancel = config.submit_command_extra, config.cancel_command_extra
    if name == "sge":
        from hpclaunch.batch.sge import GridEngine

        return GridEngine(submit_extra=submit, cancel_extra=cancel, job_name=config.name)
    if name == "slurm":
        from hpclaunch.batch.slurm import Slurm

        where = slurm_cluster((*config.job_extra_directives, *config.inherited_directives), submit)
        return Slurm(submit_extra=submit, cancel_extra=cancel, cluster=where)
    from hpclaunch.batch import localctl
    from hpclaunch.batch.local import LocalProcesses

    return LocalProcesses(
        python=sys.executable, program=localctl.__file__, spool=directory / "local", walltime=config.walltime
    )
