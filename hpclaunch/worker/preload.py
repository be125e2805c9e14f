"""Modules that every worker of a job has from the start (``--preload``), as those of a Dask worker.

The supervisor imports them once, before it forks the workers, so a module that starts threads loses these.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from hpclaunch.errors import SiteError


def preload(names: Sequence[str]) -> None:
    """Import modules by their names, or by the paths of their files.

    :raises SiteError: one can't be imported; the text has its own words.
    """
    for name in names:
        try:
            module = _import(name)
        except (Exception, SystemExit) as error:  # a module of the user's
            raise SiteError(f"--preload {name}: {type(error).__name__}: {error}") from error
        if hasattr(module, "dask_setup"):
            print(
                f"hpclaunch worker: --preload {name}: imported; its dask_setup is not called, for it expects "
                "a worker of Dask's. Do in the module's own body what does not need one",
                file=sys.stderr,
                flush=True,
            )


def _import(name: str) -> ModuleType:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name).expanduser()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
