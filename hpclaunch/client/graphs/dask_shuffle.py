"""How Dask shuffles data frames on a cluster: by tasks."""

from __future__ import annotations

from typing import Any

#: The key of Dask's configuration that says how.
SHUFFLE = "dataframe.shuffle.method"


def shuffling_by_tasks() -> Any:
    """Return a ``with`` block in which Dask shuffles data frames by tasks, unless it was told otherwise.

    Else it would use files of one host, which other hosts do not see, and into which a task that runs again writes
    its rows twice.
    """
    from dask import config

    return config.set({} if config.get(SHUFFLE, None) else {SHUFFLE: "tasks"})
