"""What is prepared when another library is imported, while there is a default client: Dask and joblib."""

from __future__ import annotations

import importlib
from types import ModuleType

from hpclaunch.client.integrations import dask, dask_in_tasks
from hpclaunch.on_import import when_imported


def register() -> None:
    """Have Dask and joblib find the current client, now or as soon as they are imported."""
    dask_in_tasks.register()
    dask.register()
    when_imported("joblib.parallel", _offer_to_joblib)


def unregister() -> None:
    """Undo what keeps Dask from its own schedulers."""
    dask.unregister()


def _offer_to_joblib(parallel: ModuleType) -> None:
    """Have joblib find the backend "hpclaunch" by its name."""

    def register_backend() -> None:
        importlib.import_module("hpclaunch.joblib")

    getattr(parallel, "EXTERNAL_BACKENDS", {}).setdefault("hpclaunch", register_backend)
