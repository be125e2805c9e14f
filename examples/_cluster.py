"""Lets the numbered examples run on a laptop, on Slurm and on Grid Engine by an option of their command line.

A script of your own needs none of this. It names its cluster in one line::

    cluster = SLURMCluster(cores=1, memory="500 MB", walltime="00:10:00")
"""

from __future__ import annotations

import argparse
from typing import Any

from hpclaunch import LocalCluster, SGECluster, SLURMCluster

CLUSTERS = {"local": LocalCluster, "slurm": SLURMCluster, "sge": SGECluster}


def arguments(text: str | None) -> argparse.ArgumentParser:
    """Return the options that all examples have; ``text`` is the example's own module text."""
    parser = argparse.ArgumentParser(description=(text or "").partition("\n")[0])
    parser.add_argument("--cluster", choices=CLUSTERS, default="local", help="where to run (default: local)")
    parser.add_argument("--jobs", type=int, default=2, help="jobs to ask for, one core each (default: 2)")
    parser.add_argument("--memory", default="500 MB", help="memory of each job (default: 500 MB)")
    parser.add_argument("--walltime", default="00:10:00", help="run time of each job (default: ten minutes)")
    parser.add_argument("--queue", help="queue or partition (default: the site's)")
    parser.add_argument("--interface", help="network interface between the head and the nodes, such as ib0")
    return parser


def open_cluster(options: argparse.Namespace) -> Any:
    """Return a cluster with its jobs on the way; use it in a ``with`` block, which ends them."""
    given = {key: getattr(options, key) for key in ("queue", "interface") if getattr(options, key)}
    if options.cluster == "local":
        given["n_workers"] = 0  # none before scale(); otherwise it starts one per core
    else:
        given["walltime"] = options.walltime
    cluster = CLUSTERS[options.cluster](cores=1, memory=options.memory, **given)
    cluster.scale(jobs=options.jobs)
    return cluster
